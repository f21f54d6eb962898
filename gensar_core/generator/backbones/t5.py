"""Run T5's forward pass over the weights of a Hugging Face model, with custom attention patterns.

Hugging Face's modules hold the weights, so that models trained here open there. The pass itself is written out for two
reasons: a decoder over prefix trees needs its own self-attention, and training is faster without the extra passes over
memory of the general modules. Shapes: B rows, L encoder tokens, T decoder tokens, H heads, D dimensions of one head.
T5 (Raffel et al., 2020): RMS norm before each sublayer, no biases, unscaled attention logits, one learned relative
position bias per stack, shared by its layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from gensar_core.nn.dropout import dropout

#: Added to an attention score, it leaves no weight. It is finite, so that a row without keys stays a number.
_NEVER = torch.finfo(torch.float32).min / 2

#: Bytes of cache private to each CPU core.
_CPU_CACHE = 1 << 20

#: A T5 model of Transformers, or one of its modules; their attributes have no useful types.
T5: TypeAlias = Any

#: Maps the queries, keys and values of one layer to the mixed values.
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

#: Keys and values that a layer attends to.
KeysValues: TypeAlias = tuple[torch.Tensor, torch.Tensor]


def encode_prompts(model: T5, tokens: torch.Tensor) -> torch.Tensor:
    """Encode ``tokens`` [B, L], negative past a row's end, into states [B, L, d_model]."""
    stack = model.encoder
    place = torch.arange(tokens.shape[1], device=tokens.device)
    bias = _as_scores(position_bias(stack, place[None, :] - place[:, None], bidirectional=True))
    padding = padding_bias(tokens >= 0)
    attend = attend_padded(stack, bias if padding is None else bias + padding)
    states = _drop(stack, _embed(stack, tokens.clamp_min(0)))
    for block in stack.block:
        states = _self_attention(block, states, attend)
        states = _feed_forward(block, states)
    return _drop(stack, _norm(stack.final_layer_norm, states))


def project(model: T5, states: torch.Tensor) -> list[KeysValues]:
    """Project encoder ``states`` [B, L, d_model] to each decoder layer's keys and values [B, L, H * D]."""
    across = [block.layer[1].EncDecAttention for block in model.decoder.block]
    return [(weights.k(states), weights.v(states)) for weights in across]


def decode(
    model: T5, tokens: torch.Tensor, prompt: Sequence[KeysValues], attend_self: Attend, attend_prompt: Attend
) -> torch.Tensor:
    """Compute decoder outputs [..., d_model] at ``tokens`` [...], ready for the output matrix ``model.lm_head.weight``.

    ``attend_self`` mixes values among the decoder's tokens and is called once per layer, first to last.
    ``attend_prompt`` takes queries [..., H * D] and the layer's keys and values of ``prompt`` (see `project`).
    """
    stack = model.decoder
    outputs = _drop(stack, _embed(stack, tokens))
    for block, (keys, values) in zip(stack.block, prompt, strict=True):
        outputs = _self_attention(block, outputs, attend_self)
        outputs = _cross_attention(block, outputs, keys, values, attend_prompt)
        outputs = _feed_forward(block, outputs)
    outputs = _drop(stack, _norm(stack.final_layer_norm, outputs))
    return outputs * model.config.d_model**-0.5 if scales_outputs(model) else outputs


def decode_rows(
    model: T5, targets: torch.Tensor, states: torch.Tensor, present: torch.Tensor, prompt: np.ndarray | None = None
) -> torch.Tensor:
    """Compute decoder outputs [R, T, d_model] of plain sequences; the output at each position predicts its token.

    ``targets`` [R, T] are negative past a row's end; ``present`` [B, L] marks the positions of encoder tokens.
    ``prompt`` int [R], ascending, is the encoder row of each target; None means that R = B and each target has its own
    row.
    """
    stack = model.decoder
    tokens = targets.roll(1, dims=1).clamp_min(0)
    tokens[:, 0] = model.config.decoder_start_token_id
    place = torch.arange(tokens.shape[1], device=tokens.device)
    relative = place[None, :] - place[:, None]
    bias = _as_scores(position_bias(stack, relative, bidirectional=False)).masked_fill(relative > 0, _NEVER)
    across = attend_padded(stack, padding_bias(present))
    if prompt is not None:
        across = _attend_shared(across, prompt, states)
    return decode(model, tokens, project(model, states), attend_padded(stack, bias), across)


def _attend_shared(attend: Attend, prompt: np.ndarray, states: torch.Tensor) -> Attend:
    """Build attention of rows [R, T, H * D] to their prompts' states; rows of one prompt lie side by side."""
    place = np.arange(len(prompt)) - np.searchsorted(prompt, prompt)
    widest = int(place.max()) + 1
    at = torch.from_numpy(prompt).to(states.device), torch.from_numpy(place).to(states.device)

    def shared(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        rows = query.new_zeros(len(states), widest, *query.shape[1:]).index_put(at, query)
        mixed = attend(rows.flatten(1, 2), key, value)
        return mixed.view(len(states), widest, query.shape[1], -1)[at]

    return shared


def rows_in_cache(model: T5) -> int:
    """Return how many decoder tokens fit in a CPU core's cache at the widest layer."""
    return int(_CPU_CACHE // (model.config.d_ff * model.lm_head.weight.element_size()))


def position_bias(stack: T5, relative: torch.Tensor, *, bidirectional: bool) -> torch.Tensor:
    """Look up the bias [..., H] of attention at ``relative`` [...] = position of the key - position of the query."""
    config = stack.config
    table = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    buckets = position_buckets(
        relative,
        bidirectional=bidirectional,
        buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
    )
    return functional.embedding(buckets, table)


def position_buckets(relative: torch.Tensor, *, bidirectional: bool, buckets: int, max_distance: int) -> torch.Tensor:
    """Map relative positions to T5's buckets: exact for small distances, logarithmic up to ``max_distance``.

    With ``bidirectional`` the upper half of the buckets is for keys after the query; without it they share bucket 0.
    """
    if bidirectional:
        buckets //= 2
        side = (relative > 0).long() * buckets
        distance = relative.abs()
    else:
        side = torch.zeros_like(relative)
        distance = (-relative).clamp_min(0)
    exact = buckets // 2
    growth = torch.log(distance.clamp_min(1).float() / exact) / math.log(max_distance / exact)
    logarithmic = (exact + (growth * (buckets - exact)).long()).clamp_max(buckets - 1)
    return side + torch.where(distance < exact, distance, logarithmic)


def padding_bias(present: torch.Tensor) -> torch.Tensor | None:
    """Build the bias [B, 1, 1, L] that blocks attention to padding; None means that there is no padding."""
    # On a GPU this check would make the host wait.
    if present.device.type == "cpu" and bool(present.all()):
        return None
    blocked = torch.zeros(present.shape, device=present.device).masked_fill_(~present, _NEVER)
    return blocked[:, None, None, :]


def scales_outputs(model: T5) -> bool:
    """Return whether decoder outputs are scaled by d_model**-0.5: true for the first T5, false for T5 1.1 and mT5."""
    config = model.config
    if config.model_type == "mt5":
        return False
    # Later versions of Transformers separate this switch from weight tying.
    return bool(getattr(config, "scale_decoder_outputs", config.tie_word_embeddings))


def split_heads(values: torch.Tensor, count: int) -> torch.Tensor:
    """Reshape [..., H * D] to [..., H, D]."""
    return values.view(*values.shape[:-1], count, -1)


def attend_padded(stack: T5, bias: torch.Tensor | None) -> Attend:
    """Build attention over rows padded to one length, under ``bias`` broadcast to [B, H, T, L]."""
    count = stack.config.num_heads
    rate = stack.config.dropout_rate if stack.training else 0.0

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        query, key, value = (split_heads(part, count).transpose(1, 2) for part in (query, key, value))
        if query.device.type == "cpu" and stack.training:
            scores = query @ key.transpose(-1, -2)
            weights = (scores if bias is None else scores + bias).softmax(-1)
            mixed = dropout(weights, rate, stack.training) @ value
        else:
            given = None if bias is None else bias.to(query.dtype)
            mixed = functional.scaled_dot_product_attention(query, key, value, given, dropout_p=rate, scale=1.0)
        return mixed.transpose(1, 2).flatten(-2)

    return attend


def _self_attention(block: T5, states: torch.Tensor, attend: Attend) -> torch.Tensor:
    layer = block.layer[0]
    weights = layer.SelfAttention
    normed = _norm(layer.layer_norm, states)
    mixed = attend(weights.q(normed), weights.k(normed), weights.v(normed))
    return states + _drop(block, weights.o(mixed), layer.dropout.p)


def _cross_attention(
    block: T5, outputs: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, attend: Attend
) -> torch.Tensor:
    layer = block.layer[1]
    weights = layer.EncDecAttention
    mixed = attend(weights.q(_norm(layer.layer_norm, outputs)), keys, values)
    return outputs + _drop(block, weights.o(mixed), layer.dropout.p)


def _feed_forward(block: T5, states: torch.Tensor) -> torch.Tensor:
    layer = block.layer[-1]
    weights = layer.DenseReluDense
    normed = _norm(layer.layer_norm, states)
    if hasattr(weights, "wi_0"):
        hidden = weights.act(weights.wi_0(normed)) * weights.wi_1(normed)
    else:
        hidden = weights.act(weights.wi(normed))
    return states + _drop(block, weights.wo(_drop(block, hidden, weights.dropout.p)), layer.dropout.p)


def _embed(stack: T5, tokens: torch.Tensor) -> torch.Tensor:
    # Whatever the weights' dtype, layers add up in float32; only the operands of products are rounded.
    return functional.embedding(tokens, stack.embed_tokens.weight).float()


def _norm(norm: T5, states: torch.Tensor) -> torch.Tensor:
    if states.dtype == norm.weight.dtype:
        return functional.rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)
    normed = functional.rms_norm(states, states.shape[-1:], eps=norm.variance_epsilon)
    scaled: torch.Tensor = normed.to(norm.weight.dtype) * norm.weight
    return scaled


def _drop(module: T5, values: torch.Tensor, rate: float | None = None) -> torch.Tensor:
    return dropout(values, module.dropout.p if rate is None else rate, module.training)


def _as_scores(bias: torch.Tensor) -> torch.Tensor:
    """Permute [T, L, H] to [1, H, T, L]."""
    return bias.permute(2, 0, 1)[None]

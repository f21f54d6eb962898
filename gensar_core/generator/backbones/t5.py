"""Run T5's forward pass over the weights of a Hugging Face model, with custom attention patterns.

A family of backbones encodes prompts once (`encode_prompts`) and then computes the outputs that predict the tokens of
plain sequences (`target_outputs`), of prefix trees (`tree_outputs`), or of a search's beams (`BeamDecoder`).

Hugging Face's modules hold the weights, so that models trained here open there. The pass itself is written out for two
reasons: a decoder over prefix trees needs its own self-attention, and training is faster without the extra passes over
memory of the general modules. Shapes: B rows, L encoder tokens, T decoder tokens, H heads, D dimensions of one head.
T5 (Raffel et al., 2020): RMS norm before each sublayer, no biases, unscaled attention logits, one learned relative
position bias per stack, shared by its layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from gensar_core.generator.backbones.tree_attention import attend_ancestors, split_heads
from gensar_core.generator.prefix_tree import PrefixTrees
from gensar_core.nn.dropout import dropout
from gensar_core.nn.t5 import scales_outputs
from gensar_core.runtime.device import send

#: Added to an attention score, it leaves no weight. It is finite, so that a row without keys stays a number.
_NEVER = torch.finfo(torch.float32).min / 2

#: Bytes of cache private to each CPU core.
_CPU_CACHE = 1 << 20

#: A model of Transformers, or one of its modules; their attributes have no useful types.
Backbone: TypeAlias = Any

#: Maps the queries, keys and values of one layer to the mixed values.
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

#: Keys and values [B, L, H * D] of each decoder layer's cross-attention.
_KeysValues: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class EncodedPrompts:
    """Hold encoder ``states`` [B, L, d_model], and ``present`` bool [B, L], which marks real tokens."""

    states: torch.Tensor
    present: torch.Tensor


def encode_prompts(model: Backbone, tokens: torch.Tensor) -> EncodedPrompts:
    """Encode ``tokens`` [B, L], negative past a row's end."""
    stack, present = model.encoder, tokens >= 0
    bias = _as_scores(_position_bias(stack, _relative(tokens.shape[1], tokens.device), bidirectional=True))
    padding = _padding_bias(present)
    attend = _attend_padded(stack, bias if padding is None else bias + padding)
    states = _embed(stack, tokens.clamp_min(0))
    if (whole_words := getattr(model, "whole_words", None)) is not None:
        states = states + whole_words(tokens).float()
    states = _drop(stack, states)
    for block in stack.block:
        states = _self_attention(block, states, attend)
        states = _feed_forward(block, states)
    return EncodedPrompts(_drop(stack, _norm(stack.final_layer_norm, states)), present)


def target_outputs(
    model: Backbone, prompts: EncodedPrompts, targets: torch.Tensor, prompt: np.ndarray | None = None
) -> torch.Tensor:
    """Compute outputs [R, T, d_model] of plain sequences; the output at each position predicts its token.

    ``targets`` [R, T] are negative past a row's end. ``prompt`` int [R], ascending, is the row of each target's prompt;
    None means that R = B and each target has its own.
    """
    tokens = targets.roll(1, dims=1).clamp_min(0)
    tokens[:, 0] = model.config.decoder_start_token_id
    relative = _relative(tokens.shape[1], tokens.device)
    bias = _as_scores(_position_bias(model.decoder, relative, bidirectional=False)).masked_fill(relative > 0, _NEVER)
    attend_prompt = _attend_padded(model.decoder, _padding_bias(prompts.present))
    if prompt is not None:
        place = np.arange(len(prompt)) - np.searchsorted(prompt, prompt)
        attend_prompt = _attend_shared(attend_prompt, prompts, prompt, place)
    keys_values = _project(model, prompts)
    return _decode(model, tokens, keys_values, _attend_padded(model.decoder, bias), attend_prompt)


def tree_outputs(model: Backbone, prompts: EncodedPrompts, trees: PrefixTrees) -> torch.Tensor:
    """Compute the outputs at all nodes of the prompts' prefix trees [N, d_model]; each predicts the node's edges.

    A node is one decoder token. It attends to its prompt and to its ancestors, with the position bias of their
    difference in depth.
    """
    device = prompts.states.device
    root = model.config.decoder_start_token_id
    tokens = send(np.where(trees.node_token < 0, root, trees.node_token), device)
    ancestors = send(trees.ancestors, device)
    bias = _ancestor_bias(model, ancestors.shape[1], device)[send(trees.node_depth, device)]

    def attend_tree(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return attend_ancestors(query, keys, values, ancestors, bias)

    attend_prompt = _attend_padded(model.decoder, _padding_bias(prompts.present))
    attend_prompt = _attend_shared(attend_prompt, prompts, trees.node_user, trees.node_place)
    return _decode(model, tokens, _project(model, prompts), attend_tree, attend_prompt)


class BeamDecoder:
    """Compute the outputs of beams token by token, and cache the keys and values of all steps."""

    def __init__(self, model: Backbone, prompts: EncodedPrompts, depth: int, beams: int) -> None:
        """Prepare ``depth`` steps after ``prompts``, each with at most ``beams`` beams a prompt."""
        states, config = prompts.states, model.config
        self.model = model
        self.keys_values = _project(model, prompts)
        self.attend_prompt = _attend_padded(model.decoder, _padding_bias(prompts.present))
        self.bias = _ancestor_bias(model, depth, states.device)
        shape = (len(states) * (1 + (depth - 1) * beams), config.num_heads * config.d_kv)
        self.cache = [(states.new_empty(shape), states.new_empty(shape)) for _ in self.keys_values]
        self.size = 0
        self.ancestors = torch.zeros((len(states), 1, 0), dtype=torch.int64, device=states.device)

    def start(self) -> torch.Tensor:
        """Return the outputs [B, 1, d_model] that predict the first token."""
        token = self.ancestors.new_full((len(self.ancestors), 1), self.model.config.decoder_start_token_id)
        return self.step(token, torch.zeros_like(token))

    def step(self, token: torch.Tensor, beam: torch.Tensor) -> torch.Tensor:
        """Return outputs [B, K, d_model] after ``token`` [B, K], each continuing ``beam`` [B, K] of the last step."""
        rows = slice(self.size, self.size + token.numel())
        self.size = rows.stop
        row = torch.arange(rows.start, rows.stop, device=token.device).view(*token.shape, 1)
        above = self.ancestors.gather(1, beam[:, :, None].expand(-1, -1, self.ancestors.shape[2]))
        self.ancestors = torch.cat([above, row], 2)
        ancestors = self.ancestors.flatten(0, 1)
        bias = self.bias[ancestors.shape[1] - 1, : ancestors.shape[1]][None]
        layers = iter(self.cache)

        def attend_beams(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            all_keys, all_values = next(layers)
            all_keys[rows], all_values[rows] = keys.flatten(0, 1), values.flatten(0, 1)
            return attend_ancestors(query.flatten(0, 1), all_keys, all_values, ancestors, bias).view_as(query)

        return _decode(self.model, token, self.keys_values, attend_beams, self.attend_prompt)


def rows_in_cache(model: Backbone) -> int:
    """Return how many decoder tokens fit in a CPU core's cache at the widest layer."""
    return int(_CPU_CACHE // (model.config.d_ff * model.lm_head.weight.element_size()))


def _project(model: Backbone, prompts: EncodedPrompts) -> _KeysValues:
    layers = [block.layer[1].EncDecAttention for block in model.decoder.block]
    return [(layer.k(prompts.states), layer.v(prompts.states)) for layer in layers]


def _decode(
    model: Backbone, tokens: torch.Tensor, keys_values: _KeysValues, attend_self: Attend, attend_prompt: Attend
) -> torch.Tensor:
    """Compute decoder outputs [..., d_model] at ``tokens`` [...], ready for the output matrix ``model.lm_head.weight``.

    ``attend_self`` mixes values among the decoder's tokens and is called once per layer, first to last;
    ``attend_prompt`` mixes those of the prompts.
    """
    stack = model.decoder
    outputs = _drop(stack, _embed(stack, tokens))
    for block, (keys, values) in zip(stack.block, keys_values, strict=True):
        outputs = _self_attention(block, outputs, attend_self)
        outputs = _cross_attention(block, outputs, keys, values, attend_prompt)
        outputs = _feed_forward(block, outputs)
    outputs = _drop(stack, _norm(stack.final_layer_norm, outputs))
    return outputs * model.config.d_model**-0.5 if scales_outputs(model) else outputs


def _position_bias(stack: Backbone, relative: torch.Tensor, *, bidirectional: bool) -> torch.Tensor:
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


def _relative(length: int, device: torch.device) -> torch.Tensor:
    """Compute position of the key - position of the query, [query, key]."""
    place = torch.arange(length, device=device)
    return place[None, :] - place[:, None]


def _ancestor_bias(model: Backbone, depth: int, device: torch.device) -> torch.Tensor:
    """Compute the position bias [depth, depth, H] of a token at depth i to its ancestor at depth j; -inf for j > i."""
    relative = _relative(depth, device)
    bias = _position_bias(model.decoder, relative, bidirectional=False)
    return bias.masked_fill(relative[..., None] > 0, -torch.inf)


def _padding_bias(present: torch.Tensor) -> torch.Tensor | None:
    """Build the bias [B, 1, 1, L] that blocks attention to padding; None means that there is no padding."""
    # On a GPU this check would make the host wait.
    if present.device.type == "cpu" and bool(present.all()):
        return None
    blocked = torch.zeros(present.shape, device=present.device).masked_fill_(~present, _NEVER)
    return blocked[:, None, None, :]


def _attend_padded(stack: Backbone, bias: torch.Tensor | None) -> Attend:
    """Build attention over rows padded to one length, under ``bias`` broadcast to [B, H, T, L]."""
    heads = stack.config.num_heads
    rate = stack.config.dropout_rate if stack.training else 0.0

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        query, key, value = (split_heads(part, heads).transpose(1, 2) for part in (query, key, value))
        if query.device.type == "cpu" and stack.training:
            scores = query @ key.transpose(-1, -2)
            weights = (scores if bias is None else scores + bias).softmax(-1)
            mixed = dropout(weights, rate, stack.training) @ value
        else:
            given = None if bias is None else bias.to(query.dtype)
            mixed = functional.scaled_dot_product_attention(query, key, value, given, dropout_p=rate, scale=1.0)
        return mixed.transpose(1, 2).flatten(-2)

    return attend


def _attend_shared(attend: Attend, prompts: EncodedPrompts, prompt: np.ndarray, place: np.ndarray) -> Attend:
    """Build attention of queries [R, ..., H * D], each at its ``place`` [R] among those of its ``prompt`` [R]."""
    shape = len(prompts.states), int(place.max()) + 1
    at = tuple(send(part, prompts.states.device) for part in (prompt, place))

    def attend_shared(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        rows = query.new_zeros(*shape, *query.shape[1:]).index_put(at, query)
        mixed = attend(rows.flatten(1, -2), key, value)
        return mixed.view(*shape, *query.shape[1:-1], -1)[at]

    return attend_shared


def _self_attention(block: Backbone, states: torch.Tensor, attend: Attend) -> torch.Tensor:
    layer = block.layer[0]
    weights = layer.SelfAttention
    normed = _norm(layer.layer_norm, states)
    mixed = attend(weights.q(normed), weights.k(normed), weights.v(normed))
    return states + _drop(block, weights.o(mixed), layer.dropout.p)


def _cross_attention(
    block: Backbone, outputs: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, attend: Attend
) -> torch.Tensor:
    layer = block.layer[1]
    weights = layer.EncDecAttention
    mixed = attend(weights.q(_norm(layer.layer_norm, outputs)), keys, values)
    return outputs + _drop(block, weights.o(mixed), layer.dropout.p)


def _feed_forward(block: Backbone, states: torch.Tensor) -> torch.Tensor:
    layer = block.layer[-1]
    weights = layer.DenseReluDense
    normed = _norm(layer.layer_norm, states)
    if hasattr(weights, "wi_0"):
        hidden = weights.act(weights.wi_0(normed)) * weights.wi_1(normed)
    else:
        hidden = weights.act(weights.wi(normed))
    return states + _drop(block, weights.wo(_drop(block, hidden, weights.dropout.p)), layer.dropout.p)


def _embed(stack: Backbone, tokens: torch.Tensor) -> torch.Tensor:
    # Whatever the weights' dtype, layers add up in float32; only the operands of products are rounded.
    return functional.embedding(tokens, stack.embed_tokens.weight).float()


def _norm(norm: Backbone, states: torch.Tensor) -> torch.Tensor:
    if states.dtype == norm.weight.dtype:
        return functional.rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)
    normed = functional.rms_norm(states, states.shape[-1:], eps=norm.variance_epsilon)
    scaled: torch.Tensor = normed.to(norm.weight.dtype) * norm.weight
    return scaled


def _drop(module: Backbone, values: torch.Tensor, rate: float | None = None) -> torch.Tensor:
    return dropout(values, module.dropout.p if rate is None else rate, module.training)


def _as_scores(bias: torch.Tensor) -> torch.Tensor:
    """Permute [T, L, H] to [1, H, T, L]."""
    return bias.permute(2, 0, 1)[None]

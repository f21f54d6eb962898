"""Exact scores of candidates: the log-probability of each item's tokens, by one decoder pass over a prefix tree.

A prompt is encoded once. Every node of the user's tree is one decoder token that attends to its own ancestors, with
the position bias of their difference in depth, and to the prompt; so each prefix is computed once, whatever number of
candidates share it, and the scores are those of scoring each candidate alone.
"""

from __future__ import annotations

import numpy as np
import torch

from gensar_core.generator.beam import found_by_beams
from gensar_core.generator.corpus import ItemTokens
from gensar_core.generator.loss import chunk_rows
from gensar_core.generator.prefix_tree import PrefixTrees, build_trees
from gensar_core.generator.t5 import T5, Attend, attend_padded, decode, encode, padding_bias, position_bias, split_heads
from gensar_core.runtime.arrays import Ragged

#: Nodes whose ancestors' keys and values are gathered at a time; on a CPU they stay in its cache.
_CPU_NODES = 512
_GPU_NODES = 1 << 16


def score_candidates(
    model: T5,
    prompts: Ragged,
    candidates: np.ndarray,
    items: ItemTokens,
    *,
    users_per_batch: int,
    beams: int | None = None,
) -> np.ndarray:
    """Score of each candidate, float32 [users, W]; -inf where none stands (an item of -1).

    ``prompts`` are encoder tokens, one row a user; ``candidates`` int [users, W]. The score is the sum of the
    log-probabilities of the item's tokens under the softmax over the whole vocabulary, the end of sequence included;
    where items differ in length, it is divided by the number of tokens. With ``beams``, what a beam search of that
    width would miss has -inf as well.
    """
    scores = np.full(candidates.shape, -np.inf, dtype=np.float32)
    by_length = np.argsort(prompts.lengths, kind="stable")
    for start in range(0, len(by_length), users_per_batch):
        rows = by_length[start : start + users_per_batch]
        trees = build_trees(candidates[rows], items)
        steps = path_log_probabilities(model, prompts.take(rows), trees)
        lengths = np.where(candidates[rows] >= 0, items.lengths[candidates[rows]], 0)
        kept = lengths > 0 if beams is None else found_by_beams(steps, trees.paths, lengths, beams)
        total = steps.sum(axis=2)
        if not items.fixed_length:
            total /= np.maximum(lengths, 1)
        scores[rows] = np.where(kept, total, -np.inf)
    return scores


@torch.inference_mode()
def path_log_probabilities(model: T5, prompts: Ragged, trees: PrefixTrees) -> np.ndarray:
    """Log-probability of each token of each candidate given those before it, float32 [B, W, D]; 0 past its end."""
    device = model.lm_head.weight.device
    tokens = torch.from_numpy(prompts.padded(int(prompts.lengths.max()), -1)).to(device)
    outputs = _node_outputs(model, trees, encode(model, tokens), tokens >= 0)
    edges = _edge_log_probabilities(model, trees, outputs)
    # Index -1, past a candidate's end, meets the zero at the end.
    padded = np.append(edges.cpu().numpy(), np.float32(0.0))
    paths: np.ndarray = padded[trees.paths]
    return paths


def _node_outputs(model: T5, trees: PrefixTrees, states: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Decoder outputs at all nodes [N, d_model]."""
    device = states.device
    start = model.config.decoder_start_token_id
    tokens = torch.from_numpy(np.where(trees.node_token < 0, start, trees.node_token)).to(device)
    user, place = torch.from_numpy(trees.node_user).to(device), torch.from_numpy(trees.node_place).to(device)
    widest = int(trees.node_place.max()) + 1
    attend_rows = attend_padded(model.decoder, padding_bias(present))

    def attend_prompt(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        rows = query.new_zeros(len(states), widest, query.shape[-1])
        rows[user, place] = query
        return attend_rows(rows, key, value)[user, place]

    return decode(model, tokens, states, _attend_ancestors(model, trees, device), attend_prompt)


def _attend_ancestors(model: T5, trees: PrefixTrees, device: torch.device) -> Attend:
    """Self-attention of nodes to their ancestors and themselves, over flat queries, keys and values [N, H * D]."""
    count = model.config.num_heads
    ancestors = torch.from_numpy(trees.ancestors).to(device)
    depth = torch.from_numpy(trees.node_depth).to(device)
    column = torch.arange(ancestors.shape[1], device=device)
    relative = column[None, :] - column[:, None]
    # Row: depth of the node; column: depth of the ancestor. A column past the node's own depth is no ancestor.
    bias_at = position_bias(model.decoder, relative, bidirectional=False).masked_fill(
        relative[..., None] > 0, -torch.inf
    )
    size = _CPU_NODES if device.type == "cpu" else _GPU_NODES

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        mixed = torch.empty_like(query)
        for first in range(0, len(query), size):
            part = slice(first, first + size)
            # [n, A, H, D]
            keys = split_heads(key[ancestors[part]], count)
            values = split_heads(value[ancestors[part]], count)
            scores = (split_heads(query[part], count)[:, None] * keys).sum(-1) + bias_at[depth[part]]
            weights = scores.softmax(1)
            mixed[part] = (weights[..., None] * values).sum(1).flatten(-2)
        return mixed

    return attend


def _edge_log_probabilities(model: T5, trees: PrefixTrees, outputs: torch.Tensor) -> torch.Tensor:
    """Log-probability of each edge's token after its prefix [E], normalized over the whole vocabulary."""
    weight = model.lm_head.weight
    mass = outputs.new_empty(len(outputs))
    rows = chunk_rows(len(weight), outputs.device)
    for first in range(0, len(outputs), rows):
        part = slice(first, first + rows)
        logits = outputs[part] @ weight.T
        largest = logits.amax(1, keepdim=True)
        mass[part] = logits.sub_(largest).exp_().sum(1).log_().add_(largest.squeeze(1))
    parent = torch.from_numpy(trees.edge_parent).to(outputs.device)
    token = torch.from_numpy(trees.edge_token).to(outputs.device)
    wanted: torch.Tensor = (outputs[parent] * weight[token]).sum(1)
    return wanted - mass[parent]

"""Score candidates exactly by the log-probabilities of their tokens, in one decoder pass over a prefix tree.

Each prompt is encoded once. Every node of a user's prefix tree is one decoder token. It attends to the prompt and to
its ancestors, with the position bias of their difference in depth. Each prefix is thus computed once, however many
candidates share it, and the scores equal those of scoring each candidate alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie
from gensar_core.generator import catalogue_likelihood as catalogue_softmax
from gensar_core.generator.backbones.t5 import (
    T5,
    attend_padded,
    decode,
    encode_prompts,
    padding_bias,
    project,
    rows_in_cache,
)
from gensar_core.generator.beam_search import find_leaves
from gensar_core.generator.prefix_tree import PrefixTrees, build_trees, catalogue_nodes, where_items_part
from gensar_core.generator.tree_attention import ancestor_bias, attend_ancestors
from gensar_core.generator.vocabulary_likelihood import log_normalizers
from gensar_core.runtime.arrays import Ragged
from gensar_core.training.threads import side_by_side

#: Maximum candidates, over all users, in one pass. A CPU takes more if the layers are so narrow that more stay in its
#: cache.
_CPU_CANDIDATES = 400
_GPU_CANDIDATES = 1 << 15


def score_candidates(
    model: T5,
    prompts: Ragged,
    candidates: np.ndarray,
    items: ItemTokens,
    *,
    users_per_batch: int,
    beams: int | None = None,
    catalogue: TokenTrie | None = None,
) -> np.ndarray:
    """Return each candidate's score, float32 [users, W]; -inf in empty slots (item -1).

    ``prompts`` holds encoder tokens, one row per user; ``candidates`` is int [users, W]. A score is the sum of the
    log-probabilities of the item's tokens, including the end of sequence, under the softmax over the whole vocabulary.
    If items differ in length, the sum is divided by the number of tokens. With ``catalogue``, the trie of all items on
    the model's device, a score is the item's log-probability under the softmax over the catalogue, whatever its length.
    With ``beams``, candidates that a beam search of this width would miss also score -inf; cannot be combined with
    ``catalogue``.
    """
    assert beams is None or catalogue is None
    scores = np.full(candidates.shape, -np.inf, dtype=np.float32)
    on_cpu = model.lm_head.weight.device.type == "cpu"
    most = max(_CPU_CANDIDATES, rows_in_cache(model)) if on_cpu else _GPU_CANDIDATES
    users_per_batch = max(1, min(users_per_batch, most // max(1, candidates.shape[1])))
    by_length = np.argsort(prompts.lengths, kind="stable")
    batches = [by_length[start : start + users_per_batch] for start in range(0, len(by_length), users_per_batch)]

    def score(rows: np.ndarray) -> np.ndarray:
        if beams is None:
            return _exact(model, prompts.take(rows), candidates[rows], items, catalogue)
        return _by_beams(model, prompts.take(rows), candidates[rows], items, beams)

    for rows, found in zip(batches, side_by_side(score, batches, model.lm_head.weight.device), strict=True):
        scores[rows] = found
    return scores


def _exact(
    model: T5, prompts: Ragged, candidates: np.ndarray, items: ItemTokens, catalogue: TokenTrie | None
) -> np.ndarray:
    steps = path_log_probabilities(model, prompts, build_trees(candidates, items), catalogue)
    total: np.ndarray = steps.sum(axis=2)
    if catalogue is None and not items.fixed_length:
        total /= np.maximum(items.lengths[candidates], 1)
    return np.where(candidates >= 0, total, np.float32(-np.inf))


def _by_beams(model: T5, prompts: Ragged, candidates: np.ndarray, items: ItemTokens, beams: int) -> np.ndarray:
    """Score the candidates reached by a beam search over each user's own candidates; the others score -inf."""
    scores = np.full(candidates.shape, -np.inf, dtype=np.float32)
    some = np.flatnonzero((candidates >= 0).any(axis=1))
    if not len(some):
        return scores
    device = model.lm_head.weight.device
    user, column = np.nonzero(candidates[some] >= 0)
    chosen = candidates[some][user, column]
    # One trie serves all users: each user's candidates hang below a token that stands for the user.
    rows = np.concatenate([user[:, None], items.tokens[chosen]], axis=1)
    lengths = items.lengths[chosen] + 1
    trie = TokenTrie.from_rows(Ragged.from_lengths(lengths, rows[np.arange(rows.shape[1]) < lengths[:, None]]))
    trie = trie.to(device)
    taken = prompts.take(some)
    tokens = torch.from_numpy(taken.padded(int(taken.lengths.max()), -1)).to(device)
    roots = torch.arange(len(some), device=device)
    leaves = find_leaves(model, tokens, trie, trie.branches, beams, roots=roots, root_level=1)
    places, found = leaves.places(trie, root_level=1, by_length=not items.fixed_length)
    chosen = trie.items[places].cpu().numpy()
    values = found.cpu().numpy()
    real = values > -np.inf
    scores[some[user[chosen[real]]], column[chosen[real]]] = values[real]
    return scores


@torch.inference_mode()
def path_log_probabilities(
    model: T5, prompts: Ragged, trees: PrefixTrees, catalogue: TokenTrie | None = None
) -> np.ndarray:
    """Return each candidate's token log-probabilities given the tokens before, float32 [B, W, D]; 0 past its end."""
    device = model.lm_head.weight.device
    tokens = torch.from_numpy(prompts.padded(int(prompts.lengths.max()), -1)).to(device)
    number = None
    if catalogue is not None:
        trees, number = where_items_part(trees, catalogue_nodes(trees, catalogue), catalogue)
    outputs = _node_outputs(model, trees, encode_prompts(model, tokens), tokens >= 0)
    if catalogue is None or number is None:
        normalizers = log_normalizers(outputs, model.lm_head.weight)
    else:
        normalizers = _catalogue_normalizers(model, trees, outputs, catalogue, number)
    edges = _edge_logits(model, trees, outputs) - normalizers[torch.from_numpy(trees.edge_parent).to(device)]
    # Index -1 (past a candidate's end, or where it has a single continuation) reads the zero at the end.
    padded = np.append(edges.cpu().numpy(), np.float32(0.0))
    paths: np.ndarray = padded[trees.paths]
    return paths


def _node_outputs(model: T5, trees: PrefixTrees, states: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Compute the decoder outputs at all nodes [N, d_model]."""
    device = states.device
    start = model.config.decoder_start_token_id
    tokens = torch.from_numpy(np.where(trees.node_token < 0, start, trees.node_token)).to(device)
    user, place = torch.from_numpy(trees.node_user).to(device), torch.from_numpy(trees.node_place).to(device)
    ancestors = torch.from_numpy(trees.ancestors).to(device)
    bias = ancestor_bias(model, ancestors.shape[1], device)[torch.from_numpy(trees.node_depth).to(device)]
    widest = int(trees.node_place.max()) + 1
    attend_rows = attend_padded(model.decoder, padding_bias(present))

    def attend_self(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return attend_ancestors(query, keys, values, ancestors, bias)

    def attend_prompt(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        rows = query.new_zeros(len(states), widest, query.shape[-1])
        rows[user, place] = query
        return attend_rows(rows, keys, values)[user, place]

    return decode(model, tokens, project(model, states), attend_self, attend_prompt)


def _edge_logits(model: T5, trees: PrefixTrees, outputs: torch.Tensor) -> torch.Tensor:
    """Compute the logit of each edge's token after its prefix [E]."""
    parent = torch.from_numpy(trees.edge_parent).to(outputs.device)
    token = torch.from_numpy(trees.edge_token).to(outputs.device)
    before = functional.embedding(parent, outputs).float()
    logits: torch.Tensor = before * functional.embedding(token, model.lm_head.weight).float()
    return logits.sum(1)


def _catalogue_normalizers(
    model: T5, trees: PrefixTrees, outputs: torch.Tensor, catalogue: TokenTrie, number: np.ndarray
) -> torch.Tensor:
    """Compute the log-sum-exp over each node's continuations in the catalogue [N], candidates or not."""
    normalizers = torch.zeros(len(outputs), device=outputs.device)
    for depth in range(catalogue.depth):
        own = np.flatnonzero(trees.node_depth == depth)
        nodes, node = (torch.from_numpy(part).to(outputs.device) for part in (own, number[own]))
        normalizers[nodes] = catalogue_softmax.log_normalizers(
            outputs[nodes], model.lm_head.weight, catalogue, depth, node
        )
    return normalizers

"""Score candidates exactly by the log-probabilities of their tokens, in one decoder pass over a prefix tree.

Each prompt is encoded once, and so is one that several users share, as queries without a history are. Every node of a
user's prefix tree is one decoder token. It attends to the prompt and to its ancestors, with the position bias of their
difference in depth. Each prefix is thus computed once, however many candidates share it, and the scores equal those of
scoring each candidate alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie
from gensar_core.generator.backbones.t5 import Backbone, encode_prompts, rows_in_cache, tree_outputs
from gensar_core.generator.beam_search import PromptBeams, find_leaves
from gensar_core.generator.likelihoods import VOCABULARY, Likelihood
from gensar_core.generator.prefix_tree import PrefixTrees, build_trees
from gensar_core.generator.prompt_batches import cut_by_length, distinct_prompts, padded_tokens
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import send
from gensar_core.training.threads import side_by_side

#: Maximum candidates, over all users, in one pass. A CPU takes more if the layers are so narrow that more stay in its
#: cache.
_CPU_CANDIDATES = 400
_GPU_CANDIDATES = 1 << 15


def score_candidates(
    model: Backbone,
    prompts: Ragged,
    candidates: np.ndarray,
    items: ItemTokens,
    *,
    users_per_batch: int,
    beams: int | None = None,
    likelihood: Likelihood = VOCABULARY,
) -> np.ndarray:
    """Return each candidate's score, float32 [users, W]; -inf in empty slots (item -1).

    ``prompts`` holds prompt tokens, one row per user; ``candidates`` is int [users, W]. A score is the sum of the
    log-probabilities of the item's tokens, including the end of sequence, by ``likelihood``. If items differ in length,
    sums over the vocabulary are divided by the number of tokens. With ``beams``, candidates that a beam search of this
    width would miss also score -inf; only over the vocabulary.
    """
    assert beams is None or likelihood is VOCABULARY
    if beams is None and (shared := _Shared.of(prompts, candidates, items)) is not None:
        how: dict[str, Any] = {"users_per_batch": users_per_batch, "likelihood": likelihood}
        return shared.of_each(score_candidates(model, prompts.take(shared.prompt), shared.candidates, items, **how))
    scores = np.full(candidates.shape, -np.inf, dtype=np.float32)
    device = model.lm_head.weight.device
    most = max(_CPU_CANDIDATES, rows_in_cache(model)) if device.type == "cpu" else _GPU_CANDIDATES
    batches = cut_by_length(prompts, min(users_per_batch, most // max(1, candidates.shape[1])))

    def score(rows: np.ndarray) -> np.ndarray:
        if beams is None:
            return _score_all(model, prompts.take(rows), candidates[rows], items, likelihood)
        return _score_beams(model, prompts.take(rows), candidates[rows], items, beams)

    for rows, batch_scores in zip(batches, side_by_side(score, batches, device), strict=True):
        scores[rows] = batch_scores
    return scores


@dataclass(frozen=True)
class _Shared:
    """Join the candidates of users with equal prompts.

    ``candidates`` [rows, W] are the different ones after each distinct prompt, in as many rows as they need, -1 past
    the last; ``prompt`` [rows] is a user with that prompt. ``filled`` [users, W] marks the candidates of the users,
    whose places in ``candidates`` are ``row`` and ``column`` [filled].
    """

    candidates: np.ndarray
    prompt: np.ndarray
    filled: np.ndarray
    row: np.ndarray
    column: np.ndarray

    @classmethod
    def of(cls, prompts: Ragged, candidates: np.ndarray, items: ItemTokens) -> _Shared | None:
        """Join the candidates int [users, W]; None where this makes no fewer rows of them."""
        width = candidates.shape[1]
        first, place = distinct_prompts(prompts)
        if len(first) == len(prompts) or not width:
            return None
        filled = candidates >= 0
        # In the order of their tokens, so that a row's candidates share prefixes.
        by_tokens = np.argsort(items.order)
        codes = (place[:, None] * len(items) + items.order[candidates])[filled]
        distinct, number = np.unique(codes, return_inverse=True)
        owner, item = distinct // len(items), by_tokens[distinct % len(items)]
        begins = np.searchsorted(owner, np.arange(len(first) + 1))
        rows = -(-np.diff(begins) // width)
        if rows.sum() >= len(prompts):
            return None
        within = np.arange(len(distinct)) - begins[owner]
        row, column = (np.cumsum(rows) - rows)[owner] + within // width, within % width
        joined = np.full((int(rows.sum()), width), -1, dtype=candidates.dtype)
        joined[row, column] = item
        return cls(joined, np.repeat(first, rows), filled, row[number], column[number])

    def of_each(self, scores: np.ndarray) -> np.ndarray:
        """Give the users the scores of the joined candidates, float32 [users, W]; -inf in empty slots."""
        own = np.full(self.filled.shape, -np.inf, dtype=np.float32)
        own[self.filled] = scores[self.row, self.column]
        return own


def _score_all(
    model: Backbone, prompts: Ragged, candidates: np.ndarray, items: ItemTokens, likelihood: Likelihood
) -> np.ndarray:
    steps = path_log_probabilities(model, prompts, build_trees(candidates, items), likelihood)
    total: np.ndarray = steps.sum(axis=2)
    if likelihood.by_length and not items.fixed_length:
        total /= np.maximum(items.lengths[candidates], 1)
    return np.where(candidates >= 0, total, np.float32(-np.inf))


def _score_beams(model: Backbone, prompts: Ragged, candidates: np.ndarray, items: ItemTokens, beams: int) -> np.ndarray:
    """Score the candidates that a beam search among each user's candidates reaches; the others score -inf."""
    scores = np.full(candidates.shape, -np.inf, dtype=np.float32)
    users = np.flatnonzero((candidates >= 0).any(axis=1))
    if not len(users):
        return scores
    user, column = np.nonzero(candidates[users] >= 0)
    item = candidates[users][user, column]
    # One trie of candidates serves all users: each user's hang below a token that stands for the user.
    rows = np.concatenate([user[:, None], items.tokens[item]], axis=1)
    lengths = items.lengths[item] + 1
    candidate_trie = TokenTrie.from_rows(
        Ragged.from_lengths(lengths, rows[np.arange(rows.shape[1]) < lengths[:, None]])
    ).to(model.lm_head.weight.device)
    roots = torch.arange(len(users), device=candidate_trie.items.device)
    asked = PromptBeams(model, prompts.take(users), candidate_trie, beams, VOCABULARY, root_level=1)
    leaves = find_leaves(asked, candidate_trie, candidate_trie.branches, beams, roots, root_level=1)
    places, leaf_scores = leaves.places(candidate_trie, root_level=1, by_length=not items.fixed_length)
    pair, leaf_score = candidate_trie.items[places].cpu().numpy(), leaf_scores.cpu().numpy()
    reached = leaf_score > -np.inf
    pair = pair[reached]
    scores[users[user[pair]], column[pair]] = leaf_score[reached]
    return scores


@torch.inference_mode()
def path_log_probabilities(
    model: Backbone, prompts: Ragged, trees: PrefixTrees, likelihood: Likelihood = VOCABULARY
) -> np.ndarray:
    """Return each candidate's token log-probabilities given the tokens before, float32 [B, W, D]; 0 past its end."""
    weight = model.lm_head.weight
    trees = likelihood.choices(trees)
    outputs = tree_outputs(model, encode_prompts(model, padded_tokens(prompts, weight.device)), trees)
    normalizers = likelihood.tree_normalizers(outputs, weight, trees)
    parent, token = (send(part, weight.device) for part in (trees.edge_parent, trees.edge_token))
    logits = functional.embedding(parent, outputs).float() * functional.embedding(token, weight).float()
    edges = logits.sum(1) - normalizers[parent]
    # Index -1 (past a candidate's end, or where it has a single continuation) reads the zero at the end.
    padded = np.append(edges.cpu().numpy(), np.float32(0.0))
    paths: np.ndarray = padded[trees.paths]
    return paths

"""Retrieve items from the whole catalogue by a beam search for the most probable tokens after a prompt.

Each level of the trie takes one decoder pass for all beams of all users in a batch. Shapes: B users, K beams, W slots
for a node's children (see `Branches`), X excluded items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gensar_core.corpora.trie import Branches, TokenTrie, counts, restricted
from gensar_core.generator.backbones.t5 import Backbone, BeamDecoder, encode_prompts, rows_in_cache
from gensar_core.generator.blocked_nodes import BlockedNodes
from gensar_core.generator.likelihoods import VOCABULARY, Likelihood
from gensar_core.generator.prompt_batches import cut_by_length, padded_tokens
from gensar_core.runtime.arrays import Ragged
from gensar_core.training.threads import side_by_side

#: Maximum beams, over all users, in one pass on a CPU; more if the layers are so narrow that more stay in its cache.
_CPU_BEAMS = 256


@dataclass(frozen=True)
class RetrievedItems:
    """Hold each user's items, best first: ``items`` int32 [users, top], -1 past the last; ``scores`` float32."""

    items: np.ndarray
    scores: np.ndarray


def beam_search(
    model: Backbone,
    prompts: Ragged,
    trie: TokenTrie,
    *,
    beams: int,
    top: int | None = None,
    users_per_batch: int = 64,
    allowed: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
    likelihood: Likelihood = VOCABULARY,
    answer_at_once: bool = False,
) -> RetrievedItems:
    """Return the best ``top`` items (None: ``beams`` of them) after each prompt, by a search with ``beams`` beams.

    ``prompts`` holds prompt tokens, one row per user. Scores are those of `score_candidates`, by ``likelihood``.
    ``allowed`` bool [n_items] restricts the results of all users; ``excluded`` int [users, X] removes items for single
    users (-1: none). Both close the branches that hold only ruled-out items, so that no beams are spent there. As in
    Hugging Face's search with ``early_stopping="never"``, each level considers the best 2 * ``beams`` continuations:
    whole rows among the best ``beams`` of them are kept, and the best ``beams`` of the others go on.
    ``answer_at_once`` is for a few waiting users: batches take turns on all cores, and the last bits of scores then
    depend on the number of cores.
    """
    device = model.lm_head.weight.device
    trie = trie.to(device)
    top = beams if top is None else top
    subset = None if allowed is None else torch.from_numpy(np.ascontiguousarray(allowed)).to(device)
    branches = trie.branches if subset is None else restricted(trie, subset)
    beneath = None if excluded is None else counts(trie, subset)
    items = np.full((len(prompts), top), -1, dtype=np.int32)
    scores = np.full((len(prompts), top), -np.inf, dtype=np.float32)
    if device.type == "cpu":
        users_per_batch = min(users_per_batch, max(_CPU_BEAMS, rows_in_cache(model)) // beams)
    batches = cut_by_length(prompts, users_per_batch)

    @torch.inference_mode()
    def search(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blocked = None
        if excluded is not None and beneath is not None:
            excluded_items = torch.from_numpy(excluded[rows].astype(np.int64)).to(device)
            blocked = BlockedNodes(trie, excluded_items, subset, beneath)
        leaves = find_leaves(model, prompts.take(rows), trie, branches, beams, blocked=blocked, likelihood=likelihood)
        by_length = likelihood.by_length and not trie.fixed_length
        item, score = _items(trie, leaves, top, subset, blocked, by_length)
        return item.cpu().numpy(), score.cpu().numpy()

    answers = map(search, batches) if answer_at_once else side_by_side(search, batches, device)
    for rows, (item, score) in zip(batches, answers, strict=True):
        items[rows, : item.shape[1]] = item
        scores[rows, : item.shape[1]] = score
    return RetrievedItems(items, scores)


@dataclass
class Leaves:
    """Collect the whole token rows that beams reach: levels in the trie, with nodes and scores [B, n] per level."""

    levels: list[int]
    nodes: list[torch.Tensor]
    scores: list[torch.Tensor]

    def places(self, trie: TokenTrie, *, root_level: int, by_length: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the items' places in the trie's order [B, n], and their scores; -inf in slots without an item.

        ``by_length`` divides scores by the number of tokens from ``root_level`` on.
        """
        places, scores = [], []
        for depth, node, score in zip(self.levels, self.nodes, self.scores, strict=True):
            level = trie.levels[depth]
            # Several items may share one token row.
            place = level.start[node][:, :, None].long() + torch.arange(trie.most_alike, device=node.device)
            beyond = place >= level.stop[node][:, :, None]
            value = score / (depth - root_level) if by_length else score
            places.append(place.clamp_(max=len(trie) - 1).flatten(1))
            scores.append(value[:, :, None].masked_fill(beyond, -torch.inf).flatten(1))
        return torch.cat(places, 1), torch.cat(scores, 1)


@torch.inference_mode()
def find_leaves(
    model: Backbone,
    prompts: Ragged,
    trie: TokenTrie,
    branches: Sequence[Branches],
    beams: int,
    *,
    roots: torch.Tensor | None = None,
    root_level: int = 0,
    blocked: BlockedNodes | None = None,
    likelihood: Likelihood = VOCABULARY,
) -> Leaves:
    """Run a beam search after one batch of prompts.

    User i starts at the node ``roots[i]`` of level ``root_level`` (None: at the trie's root).
    """
    weight = model.lm_head.weight
    node = torch.zeros(len(prompts), dtype=torch.int64, device=weight.device) if roots is None else roots
    node = node[:, None]
    total = torch.zeros(node.shape, device=node.device)
    encoded = encode_prompts(model, padded_tokens(prompts, weight.device))
    decoder = BeamDecoder(model, encoded, trie.depth - root_level, beams)
    outputs = decoder.start()
    leaves = Leaves([], [], [])
    for depth, branch in enumerate(branches[root_level:], start=root_level):
        logits = (outputs @ weight[branch.first_token : branch.last_token + 1].T).float()
        normalizers = likelihood.log_normalizers(outputs.flatten(0, 1), weight, depth, node.flatten())
        chances = logits.sub_(normalizers.view(*node.shape, 1))
        scores = total[:, :, None] + _by_slot(chances, node, trie, depth, branch)
        if blocked is not None:
            blocked.close(scores, node, depth, trie, branch)
        total, beam, node = _best(scores, node, trie, depth, branch, beams, leaves)
        if depth + 1 < trie.depth:
            outputs = decoder.step(trie.levels[depth + 1].token[node].long(), beam)
    return leaves


def _by_slot(
    chances: torch.Tensor, node: torch.Tensor, trie: TokenTrie, depth: int, branches: Branches
) -> torch.Tensor:
    """Select from ``chances`` [B, K, tokens] the children of ``node`` [B, K], by slot [B, K, W]; -inf for no child."""
    if branches.table is not None:
        return chances.masked_fill_(branches.table[node] < 0, -torch.inf)
    level, below = trie.levels[depth], trie.levels[depth + 1]
    child = level.first_child[node][:, :, None] + torch.arange(branches.width, dtype=torch.int32, device=node.device)
    none = child >= level.first_child[node + 1][:, :, None]
    child = child.clamp_max_(len(below) - 1)
    if branches.alive is not None:
        none |= ~branches.alive[child]
    token = below.token[child].long() - branches.first_token
    return chances.gather(2, token).masked_fill_(none, -torch.inf)


def _best(
    scores: torch.Tensor,
    node: torch.Tensor,
    trie: TokenTrie,
    depth: int,
    branches: Branches,
    beams: int,
    leaves: Leaves,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the best continuations [B, K']: their scores, the beams they continue and their nodes.

    Whole token rows among them are added to ``leaves`` and do not go on.
    """
    below = trie.levels[depth + 1]
    some_end, all_end = below.some_end, below.all_end
    # At most ``beams`` ending continuations rank above those that go on.
    looked_at = 2 * beams if some_end and not all_end else beams
    best, place = scores.flatten(1).topk(min(looked_at, scores.shape[1] * scores.shape[2]))
    beam, slot = place // branches.width, place % branches.width
    above = node.gather(1, beam)
    if branches.table is None:
        child = trie.levels[depth].first_child[above] + slot
    else:
        child = branches.table[above, slot].long()
    # If a user has fewer continuations, any node will do: its score is -inf.
    child = child.clamp_(0, len(below) - 1)
    if not some_end:
        return best, beam, child
    ends = below.ends[child]
    leaves.levels.append(depth + 1)
    leaves.nodes.append(child[:, :beams])
    leaves.scores.append(best.masked_fill(~ends, -torch.inf)[:, :beams])
    if all_end:
        return best, beam, child
    best, place = best.masked_fill(ends, -torch.inf).topk(min(beams, best.shape[1]))
    return best, beam.gather(1, place), child.gather(1, place)


def _items(
    trie: TokenTrie,
    leaves: Leaves,
    top: int,
    subset: torch.Tensor | None,
    blocked: BlockedNodes | None,
    by_length: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best items [B, top] of the leaves, -1 past the last, and their scores."""
    place, score = leaves.places(trie, root_level=0, by_length=by_length)
    item = trie.items[place]
    if subset is not None:
        score = score.masked_fill(~subset[item], -torch.inf)
    if blocked is not None:
        score = score.masked_fill(blocked.excludes(place), -torch.inf)
    score, order = score.sort(dim=1, descending=True, stable=True)
    score, item = score[:, :top], item.gather(1, order[:, :top])
    return item.masked_fill(score == -torch.inf, -1), score

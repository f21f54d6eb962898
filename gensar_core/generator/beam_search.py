"""Retrieve items from the whole catalogue by a beam search for the most probable tokens after a prompt.

Each level of the trie takes one decoder pass for all beams of all users in a batch. Shapes: B users, K beams, W slots
for a node's children (see `Branches`), X excluded items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from gensar_core.corpora.trie import Branches, TokenTrie, counts, restricted
from gensar_core.generator.backbones.t5 import Backbone, BeamDecoder, encode_prompts
from gensar_core.generator.blocked_nodes import AllowedNodes, BlockedNodes
from gensar_core.generator.likelihoods import VOCABULARY, Likelihood
from gensar_core.generator.prompt_batches import cut_by_length, distinct_prompts, padded_tokens
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import send
from gensar_core.training.threads import side_by_side

#: Maximum beams, over all questions, in one pass on a CPU. With more, each of a pass's arrays is fetched from memory
#: anew; with fewer, the operations themselves cost more than what they compute.
_CPU_BEAMS = 800


@dataclass(frozen=True)
class RetrievedItems:
    """Hold each user's items, best first: ``items`` int32 [users, top], -1 past the last; ``scores`` float32."""

    items: np.ndarray
    scores: np.ndarray


class Beams(Protocol):
    """Run the backbone for the beams of one batch of questions, one level of the trie after the other."""

    def start(self) -> torch.Tensor:
        """Return the outputs before the first token [B, 1, d]."""

    def step(self, token: torch.Tensor, beam: torch.Tensor, node: torch.Tensor, depth: int) -> torch.Tensor:
        """Return the outputs after ``token`` [B, K], which continues ``beam`` [B, K] to ``node`` of level ``depth``."""

    def chances(self, outputs: torch.Tensor, node: torch.Tensor, depth: int, branches: Branches) -> torch.Tensor:
        """Return the log-probabilities of the children of ``node`` [B, K] by slot, [B, K, W]; -inf for no child."""


class Asking(Protocol):
    """Hold questions whose answers are searched."""

    def __len__(self) -> int:
        """Return the number of questions."""

    def batches(self, beams: int) -> list[np.ndarray]:
        """Return the rows of batches of questions of like lengths."""

    def beams(self, rows: np.ndarray, beams: int) -> Beams:
        """Read some questions, for a search with ``beams`` beams."""


@dataclass(frozen=True)
class AskedPrompts:
    """Hold questions that are prompts, one row each, for a model that encodes them."""

    model: Backbone
    prompts: Ragged
    trie: TokenTrie
    likelihood: Likelihood
    users_per_batch: int

    def __len__(self) -> int:
        return len(self.prompts)

    def batches(self, beams: int) -> list[np.ndarray]:
        """Return the rows of batches, shortest prompts first."""
        device = self.model.lm_head.weight.device
        return cut_by_length(self.prompts, questions_at_once(self.users_per_batch, beams, device))

    def beams(self, rows: np.ndarray, beams: int) -> PromptBeams:
        """Encode some prompts."""
        return PromptBeams(self.model, self.prompts.take(rows), self.trie, beams, self.likelihood)


def questions_at_once(most: int, beams: int, device: torch.device) -> int:
    """Return how many questions one pass takes, each with so many ``beams``: ``most``, or what suits a CPU."""
    return most if device.type != "cpu" else min(most, _CPU_BEAMS // beams)


class PromptBeams:
    """Run the decoder for the beams of a batch of encoded prompts."""

    def __init__(
        self,
        model: Backbone,
        prompts: Ragged,
        trie: TokenTrie,
        beams: int,
        likelihood: Likelihood,
        root_level: int = 0,
    ) -> None:
        self._weight, self._trie, self._likelihood = model.lm_head.weight, trie, likelihood
        encoded = encode_prompts(model, padded_tokens(prompts, self._weight.device))
        self._decoder = BeamDecoder(model, encoded, trie.depth - root_level, beams)

    def start(self) -> torch.Tensor:
        """Return the outputs before the first token [B, 1, d]."""
        return self._decoder.start()

    def step(self, token: torch.Tensor, beam: torch.Tensor, _node: torch.Tensor, _depth: int) -> torch.Tensor:
        """Return the outputs after ``token`` [B, K], which continues ``beam`` [B, K]."""
        return self._decoder.step(token, beam)

    def chances(self, outputs: torch.Tensor, node: torch.Tensor, depth: int, branches: Branches) -> torch.Tensor:
        """Return the log-probabilities of the children of ``node`` [B, K] by slot, [B, K, W]; -inf for no child."""
        logits = (outputs @ self._weight[branches.first_token : branches.last_token + 1].T).float()
        normalizers = self._likelihood.log_normalizers(outputs.flatten(0, 1), self._weight, depth, node.flatten())
        return by_slot(logits.sub_(normalizers.view(*node.shape, 1)), node, self._trie, depth, branches)


def beam_search(
    model: Backbone,
    prompts: Ragged,
    trie: TokenTrie,
    *,
    users_per_batch: int = 64,
    likelihood: Likelihood = VOCABULARY,
    **options: Any,
) -> RetrievedItems:
    """Search after prompts, one row each, with a model that encodes them; ``options`` are those of `search_beams`.

    What is asked for several users alike, as a query without a history is, is searched once.
    """
    trie = trie.to(model.lm_head.weight.device)
    by_length = likelihood.by_length and not trie.fixed_length
    first = place = np.arange(len(prompts))
    if not any(getattr(options.get(name), "ndim", 0) == 2 for name in ("allowed", "excluded")):
        first, place = distinct_prompts(prompts)
    asked = AskedPrompts(model, prompts.take(first), trie, likelihood, users_per_batch)
    found = search_beams(asked, trie, by_length=by_length, **options)
    return RetrievedItems(found.items[place], found.scores[place])


def search_beams(
    asked: Asking,
    trie: TokenTrie,
    *,
    beams: int,
    top: int | None = None,
    allowed: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
    by_length: bool = False,
    answer_at_once: bool = False,
) -> RetrievedItems:
    """Return the best ``top`` items (None: ``beams`` of them) of each question, by a search with ``beams`` beams.

    Scores are those of the candidates' exact ranking; ``by_length`` divides them by the number of tokens. ``allowed``
    bool restricts the results of all users [n_items], or each user's own [users, n_items]; ``excluded`` int [users, X]
    removes items for single users (-1: none). Both close the branches that hold only ruled-out items, so that no beams
    are spent there. As in Hugging Face's search with ``early_stopping="never"``, each level considers the best
    2 * ``beams`` continuations: whole rows among the best ``beams`` of them are kept, and the best ``beams`` of the
    others go on. ``answer_at_once`` is for a few waiting users: batches take turns on all cores, and the last bits of
    scores then depend on the number of cores.
    """
    device = trie.items.device
    top = beams if top is None else top
    own = _own_items(allowed, excluded) if allowed is not None and allowed.ndim == 2 else None
    if own is not None:
        allowed = excluded = None
    subset = None if allowed is None else send(allowed, device)
    branches = trie.branches if subset is None else restricted(trie, subset)
    beneath = None if excluded is None else counts(trie, subset)
    items = np.full((len(asked), top), -1, dtype=np.int32)
    scores = np.full((len(asked), top), -np.inf, dtype=np.float32)
    batches = asked.batches(beams)

    @torch.inference_mode()
    def search(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blocked: BlockedNodes | AllowedNodes | None = None
        if own is not None:
            blocked = AllowedNodes(trie, send(own[rows], device))
        elif excluded is not None and beneath is not None:
            excluded_items = send(excluded[rows].astype(np.int64), device)
            blocked = BlockedNodes(trie, excluded_items, subset, beneath)
        roots = torch.zeros(len(rows), dtype=torch.int64, device=device)
        leaves = find_leaves(asked.beams(rows, beams), trie, branches, beams, roots, blocked=blocked)
        item, score = _items(trie, leaves, top, subset, blocked, by_length)
        return item.cpu().numpy(), score.cpu().numpy()

    answers = map(search, batches) if answer_at_once else side_by_side(search, batches, device)
    for rows, (item, score) in zip(batches, answers, strict=True):
        items[rows, : item.shape[1]] = item
        scores[rows, : item.shape[1]] = score
    return RetrievedItems(items, scores)


def _own_items(allowed: np.ndarray, excluded: np.ndarray | None) -> np.ndarray:
    """Return the items of each user's results: ``allowed`` bool [users, n_items] without the ``excluded`` ones."""
    if excluded is None:
        return allowed
    own = allowed.copy()
    user, place = np.nonzero(excluded >= 0)
    own[user, excluded[user, place]] = False
    return own


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
    questions: Beams,
    trie: TokenTrie,
    branches: Sequence[Branches],
    beams: int,
    roots: torch.Tensor,
    *,
    root_level: int = 0,
    blocked: BlockedNodes | AllowedNodes | None = None,
) -> Leaves:
    """Run a beam search for one batch of questions; question i starts at the node ``roots[i]`` of ``root_level``."""
    node = roots[:, None]
    total = torch.zeros(node.shape, device=node.device)
    outputs = questions.start()
    leaves = Leaves([], [], [])
    for depth, branch in enumerate(branches[root_level:], start=root_level):
        scores = total[:, :, None] + questions.chances(outputs, node, depth, branch)
        if blocked is not None:
            blocked.close(scores, node, depth, trie, branch)
        total, beam, node = _best(scores, node, trie, depth, branch, beams, leaves)
        if depth + 1 < trie.depth:
            outputs = questions.step(trie.levels[depth + 1].token[node].long(), beam, node, depth + 1)
    return leaves


def by_slot(chances: torch.Tensor, node: torch.Tensor, trie: TokenTrie, depth: int, branches: Branches) -> torch.Tensor:
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
    some_end, all_end = trie.host.levels[depth + 1].some_end, trie.host.levels[depth + 1].all_end
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
    blocked: BlockedNodes | AllowedNodes | None,
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

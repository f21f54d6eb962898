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
from gensar_core.generator.blocked_nodes import Closed
from gensar_core.generator.tree_attention import ancestor_bias, attend_ancestors
from gensar_core.generator.vocabulary_likelihood import log_normalizers
from gensar_core.runtime.arrays import Ragged
from gensar_core.training.threads import side_by_side

#: Maximum beams, over all users, in one pass on a CPU; more if the layers are so narrow that more stay in its cache.
_CPU_BEAMS = 256


@dataclass(frozen=True)
class Found:
    """Hold each user's items, best first: ``items`` int32 [users, top], -1 past the last; ``scores`` float32."""

    items: np.ndarray
    scores: np.ndarray


def search_catalogue(
    model: T5,
    prompts: Ragged,
    trie: TokenTrie,
    *,
    beams: int,
    top: int | None = None,
    users_per_batch: int = 64,
    allowed: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
    over_catalogue: bool = False,
    answer_at_once: bool = False,
) -> Found:
    """Return the best ``top`` items (None: ``beams`` of them) after each prompt, by a search with ``beams`` beams.

    ``prompts`` holds encoder tokens, one row per user. Scores are those of `score_candidates`. ``allowed`` bool
    [n_items] restricts the results of all users; ``excluded`` int [users, X] removes items for single users (-1: none).
    Both close the branches that hold only ruled-out items, so that no beams are spent there. As in Hugging Face's
    search with ``early_stopping="never"``, each level considers the best 2 * ``beams`` continuations: whole rows among
    the best ``beams`` of them are kept, and the best ``beams`` of the others go on. ``over_catalogue`` normalizes over
    the whole catalogue instead of the vocabulary. ``answer_at_once`` is for a few waiting users: batches take turns on
    all cores, and the last bits of scores then depend on the number of cores.
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
        users_per_batch = max(1, min(users_per_batch, max(_CPU_BEAMS, rows_in_cache(model)) // beams))
    shortest_first = np.argsort(prompts.lengths, kind="stable")
    batches = [shortest_first[start : start + users_per_batch] for start in range(0, len(prompts), users_per_batch)]

    @torch.inference_mode()
    def search(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        taken = prompts.take(rows)
        tokens = torch.from_numpy(taken.padded(int(taken.lengths.max()), -1)).to(device)
        closed = None
        if excluded is not None and beneath is not None:
            away = torch.from_numpy(excluded[rows].astype(np.int64)).to(device)
            closed = Closed(trie, away, subset, beneath)
        leaves = find_leaves(model, tokens, trie, branches, beams, closed=closed, over_catalogue=over_catalogue)
        by_length = not (over_catalogue or trie.fixed_length)
        item, score = _items(trie, leaves, top, subset, closed, by_length)
        return item.cpu().numpy(), score.cpu().numpy()

    answers = map(search, batches) if answer_at_once else side_by_side(search, batches, device)
    for rows, (item, score) in zip(batches, answers, strict=True):
        items[rows, : item.shape[1]] = item
        scores[rows, : item.shape[1]] = score
    return Found(items, scores)


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


class _Decoder:
    """Run one decoder pass per level over all beams, and keep its keys and values."""

    def __init__(self, model: T5, tokens: torch.Tensor, depth: int, beams: int) -> None:
        states = encode_prompts(model, tokens)
        config = model.config
        self.model = model
        self.prompt = project(model, states)
        self.attend_prompt = attend_padded(model.decoder, padding_bias(tokens >= 0))
        self.bias = ancestor_bias(model, depth, states.device)
        shape = (len(tokens) * (1 + (depth - 1) * beams), config.num_heads * config.d_kv)
        self.kept = [(states.new_empty(shape), states.new_empty(shape)) for _ in self.prompt]
        self.size = 0
        self.ancestors = torch.zeros((len(tokens), 1, 0), dtype=torch.int64, device=states.device)

    def step(self, token: torch.Tensor, beam: torch.Tensor) -> torch.Tensor:
        """Return outputs [B, K, d_model] after ``token`` [B, K], each continuing ``beam`` [B, K] of the last step."""
        users, beams = token.shape
        own = torch.arange(self.size, self.size + users * beams, device=token.device).view(users, beams, 1)
        taken = self.ancestors.gather(1, beam[:, :, None].expand(-1, -1, self.ancestors.shape[2]))
        self.ancestors = torch.cat([taken, own], 2)
        ancestors = self.ancestors.flatten(0, 1)
        bias = self.bias[ancestors.shape[1] - 1, : ancestors.shape[1]][None]
        rows = slice(self.size, self.size + users * beams)
        self.size = rows.stop
        layers = iter(self.kept)

        def attend_self(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            all_keys, all_values = next(layers)
            all_keys[rows], all_values[rows] = keys.flatten(0, 1), values.flatten(0, 1)
            return attend_ancestors(query.flatten(0, 1), all_keys, all_values, ancestors, bias).view_as(query)

        return decode(self.model, token, self.prompt, attend_self, self.attend_prompt)


@torch.inference_mode()
def find_leaves(
    model: T5,
    tokens: torch.Tensor,
    trie: TokenTrie,
    branches: Sequence[Branches],
    beams: int,
    *,
    roots: torch.Tensor | None = None,
    root_level: int = 0,
    closed: Closed | None = None,
    over_catalogue: bool = False,
) -> Leaves:
    """Run a beam search after the prompts ``tokens`` [B, L] (negative past a row's end).

    User i starts at the node ``roots[i]`` of level ``root_level`` (None: at the trie's root).
    """
    device = tokens.device
    node = torch.zeros((len(tokens), 1), dtype=torch.int64, device=device) if roots is None else roots[:, None]
    total = torch.zeros(node.shape, device=device)
    beam = torch.zeros_like(node)
    token = torch.full_like(node, model.config.decoder_start_token_id)
    decoder = _Decoder(model, tokens, trie.depth - root_level, beams)
    leaves = Leaves([], [], [])
    for depth in range(root_level, trie.depth):
        outputs = decoder.step(token, beam)
        chances = _log_probabilities(model, outputs, branches[depth], trie, depth, node if over_catalogue else None)
        scores = total[:, :, None] + _by_slot(chances, node, trie, depth, branches[depth])
        if closed is not None:
            closed.close(scores, node, depth, trie, branches[depth])
        total, beam, node = _best(scores, node, trie, depth, branches[depth], beams, leaves)
        token = trie.levels[depth + 1].token[node].long()
    return leaves


def _log_probabilities(
    model: T5, outputs: torch.Tensor, branches: Branches, trie: TokenTrie, depth: int, node: torch.Tensor | None
) -> torch.Tensor:
    """Compute log-probabilities [B, K, tokens] of the tokens from the first to the last possible one.

    Normalized over the vocabulary, or over the continuations of ``node`` [B, K] in the catalogue.
    """
    weight, flat = model.lm_head.weight, outputs.flatten(0, 1)
    logits: torch.Tensor = (outputs @ weight[branches.first_token : branches.last_token + 1].T).float()
    if node is None:
        normalizers = log_normalizers(flat, weight)
    else:
        normalizers = catalogue_softmax.log_normalizers(flat, weight, trie, depth, node.flatten())
    return logits.sub_(normalizers.view(*outputs.shape[:2], 1))


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
    closed: Closed | None,
    by_length: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best items [B, top] of the leaves, -1 past the last, and their scores."""
    place, score = leaves.places(trie, root_level=0, by_length=by_length)
    item = trie.items[place]
    if subset is not None:
        score = score.masked_fill(~subset[item], -torch.inf)
    if closed is not None:
        score = score.masked_fill(closed.excludes(place), -torch.inf)
    score, order = score.sort(dim=1, descending=True, stable=True)
    score, item = score[:, :top], item.gather(1, order[:, :top])
    return item.masked_fill(score == -torch.inf, -1), score

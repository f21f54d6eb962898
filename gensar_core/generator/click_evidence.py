"""Sum up what other users' training clicks say for an item: evidence that a model weighs beside its own states.

Three features of an item: how often other users clicked it after the query that is asked; how strongly it is clicked
by the users of the last item of the history; and the same for all items of the history, older ones counting less.
Co-clicks are cosines: users of both items over the root of the product of their users (as in ItemKNN). The user's own
clicks never count, so that a training target tells nothing about itself, and training sees evidence as ranking does.

The evidence of a trie's node is the sum over the items beneath it. Shapes: n questions, m entries, K = 3 features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix

from gensar_core.corpora.trie import TokenTrie
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.runtime.device import send

FEATURES: Final = 3
_QUERY, _LAST, _HISTORY = range(FEATURES)
#: Latest different items of a history that count, and the factor from each to the next older one.
_ITEMS: Final = 20
_DECAY: Final = 0.8
#: Latest items of a user that count for co-clicks; bounds their number by the log's length.
_PER_USER: Final = 100


@dataclass(frozen=True)
class Questions:
    """Hold what is asked; arrays [n].

    ``user`` is -1 for a user without training clicks, ``query`` -1 in a recommendation and for a query that no one
    asked in training. ``history`` holds the items that each question may see, oldest first.
    """

    user: np.ndarray
    query: np.ndarray
    history: Ragged

    def __len__(self) -> int:
        return len(self.user)


class NodeEvidence:
    """Look up the evidence beneath nodes of one trie for some questions."""

    def __init__(self, question: torch.Tensor, place: torch.Tensor, weight: torch.Tensor, width: int) -> None:
        """Take ``weight`` [m, K] for the item at each ``place`` [m] of the trie's order; ``width`` is past the last."""
        self._width = width
        self._keys, order = torch.sort(question * width + place, stable=True)
        self._sums = weight.new_zeros((len(order) + 1, FEATURES))
        torch.cumsum(weight[order], 0, out=self._sums[1:])

    def beneath(self, question: torch.Tensor, start: torch.Tensor, stop: torch.Tensor) -> torch.Tensor:
        """Sum up the evidence of ``question`` [j] for the places ``start`` to ``stop`` (excluded) [j], [j, K]."""
        base = question * self._width
        first, last = (torch.searchsorted(self._keys, base + place) for place in (start, stop))
        return (self._sums[last] - self._sums[first]).clamp_min_(0.0).float()


@dataclass(frozen=True)
class ClickEvidence:
    """Hold the counts of training clicks.

    ``query_*`` are rows of clicked items by query, with their counts. ``own`` int64 holds each (query, user) pair's
    number, ascending, and ``own_item`` the clicked items. ``together_*`` are rows of items clicked by the same users,
    with the number of these users; ``users`` [items] are the users of each item; ``clicked`` int64 holds each (user,
    item) pair's number, ascending.
    """

    query_offsets: np.ndarray
    query_item: np.ndarray
    query_count: np.ndarray
    own: np.ndarray
    own_item: np.ndarray
    together_offsets: np.ndarray
    together_item: np.ndarray
    together_count: np.ndarray
    users: np.ndarray
    clicked: np.ndarray

    @classmethod
    def count(cls, events: pl.DataFrame, n_items: int, n_queries: int) -> ClickEvidence:
        """Count the training events (table `events`)."""
        user = events["user_id"].to_numpy().astype(np.int64)
        searches = events.filter(pl.col("task") == "search")
        query, found = (searches[name].to_numpy().astype(np.int64) for name in ("query_id", "item_id"))
        after = csr_matrix((np.ones(len(query)), (query, found)), shape=(n_queries, n_items))
        after.sort_indices()
        own = query * _users(user) + searches["user_id"].to_numpy()
        by_pair = np.argsort(own, kind="stable")
        latest = events.group_by("user_id", "item_id").agg(pl.col("event_id").max()).sort("event_id")
        latest = latest.group_by("user_id", maintain_order=True).tail(_PER_USER)
        pairs = (latest["user_id"].to_numpy(), latest["item_id"].to_numpy())
        clicks = csr_matrix((np.ones(len(latest)), pairs), shape=(_users(user), n_items))
        together = (clicks.T @ clicks).tocsr()
        together.setdiag(0)
        together.eliminate_zeros()
        together.sort_indices()
        return cls(
            query_offsets=after.indptr.astype(np.int64),
            query_item=after.indices.astype(np.int64),
            query_count=after.data,
            own=own[by_pair],
            own_item=found[by_pair],
            together_offsets=together.indptr.astype(np.int64),
            together_item=together.indices.astype(np.int64),
            together_count=together.data,
            users=np.asarray(clicks.sum(axis=0)).ravel(),
            clicked=np.sort(pairs[0].astype(np.int64) * n_items + pairs[1]),
        )

    def save(self, path: Path) -> None:
        """Write the counts as one safetensors file."""
        save_file(dict(vars(self)), path)

    @classmethod
    def load(cls, path: Path) -> ClickEvidence:
        """Read what `save` wrote. Raises UserError when the file is missing or damaged."""
        try:
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise UserError(f"{path}: holds no click counts; train the generator again") from error

    def without_users(self) -> ClickEvidence:
        """Return the counts without what tells users apart: enough for questions of no user of the log."""
        nothing = np.zeros(0, dtype=np.int64)
        return replace(self, own=nothing, own_item=nothing, clicked=nothing)

    def of(self, questions: Questions, trie: TokenTrie) -> NodeEvidence:
        """Collect the evidence of some questions for the nodes of a trie, on its device."""
        parts = [self._after_query(questions), self._own_clicks(questions), self._together(questions)]
        question, item, weight = (
            send(np.concatenate(column), trie.place.device) for column in zip(*parts, strict=True)
        )
        return NodeEvidence(question, trie.place[item.long()], weight, len(trie) + 1)

    def _after_query(self, questions: Questions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        asked = np.flatnonzero((questions.query >= 0) & (questions.query < len(self.query_offsets) - 1))
        rows, question = _rows(self.query_offsets, questions.query[asked])
        return asked[question], self.query_item[rows], _weights(_QUERY, self.query_count[rows])

    def _own_clicks(self, questions: Questions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take away the user's own clicks after the query."""
        asked = np.flatnonzero((questions.query >= 0) & (questions.user >= 0) & (questions.user < self._n_users))
        pair = questions.query[asked] * self._n_users + questions.user[asked]
        first, last = (np.searchsorted(self.own, pair, side=side) for side in ("left", "right"))
        rows = ranges(first, last - first)
        question = np.repeat(asked, last - first)
        return question, self.own_item[rows], _weights(_QUERY, np.full(len(rows), -1.0))

    def _together(self, questions: Questions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        question, item, age = _latest(questions.history, len(self.users))
        rows, source = _rows(self.together_offsets, item)
        other, question, item, age = self.together_item[rows], question[source], item[source], age[source]
        user = questions.user[question]
        own = self._clicked(user, item) & self._clicked(user, other)
        likeness = (self.together_count[rows] - own) / np.sqrt(self.users[item] * self.users[other])
        weight = np.zeros((len(rows), FEATURES))
        weight[:, _LAST] = np.where(age == 0, likeness, 0.0)
        weight[:, _HISTORY] = likeness * _DECAY**age
        return question, other, weight

    def _clicked(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Return which users clicked which items in training, bool [j]."""
        pair = user * len(self.users) + item
        place = np.searchsorted(self.clicked, pair)
        found: np.ndarray = (user >= 0) & (place < len(self.clicked))
        found[found] = self.clicked[place[found]] == pair[found]
        return found

    @property
    def _n_users(self) -> int:
        return _users(self.clicked // len(self.users))


def _users(user: np.ndarray) -> int:
    return int(user.max(initial=-1)) + 1


def _weights(feature: int, values: np.ndarray) -> np.ndarray:
    weight = np.zeros((len(values), FEATURES))
    weight[:, feature] = values
    return weight


def _rows(offsets: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the values of the wanted rows, and which of ``wanted`` each belongs to."""
    lengths = offsets[wanted + 1] - offsets[wanted]
    return ranges(offsets[wanted], lengths), np.repeat(np.arange(len(wanted)), lengths)


def _latest(history: Ragged, n_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the latest different items of each history: question, item and age (0: the last) of each.

    Items from ``n_items`` on, added since the clicks were counted, have an age but no counts; they are left out.
    """
    question, item = history.rows[::-1], history.values[::-1].astype(np.int64)
    _, first = np.unique(question * max(n_items, int(item.max(initial=0)) + 1) + item, return_index=True)
    kept = np.sort(first)
    question, item = question[kept], item[kept]
    begins = np.flatnonzero(np.diff(question, prepend=-1) != 0)
    age = np.arange(len(question)) - np.repeat(begins, np.diff(np.append(begins, len(question))))
    recent = (age < _ITEMS) & (item < n_items)
    return question[recent], item[recent], age[recent]

"""Sum up what training clicks say for an item: evidence that a model weighs beside its own states.

Four features of an item: how often other users clicked it after the query that is asked; how strongly it is clicked
by the users of the last item of the history; the same for all items of the history, older ones counting less; and
whether the history lacks it, so that a model may learn how often items are clicked again.
Co-clicks are those of ItemKNN: the sooner an item follows the other one in a user's clicks, the more it counts; the sum
is divided by the root of the product of both items' users. The user's own clicks never count there, so that a training
target tells nothing about itself, and training sees evidence as ranking does.

The evidence of a trie's node is the sum over the items beneath it, of the last feature the mean. Shapes: n questions,
m entries, K = 4 features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import load_file

from gensar_core.corpora.trie import TokenTrie
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged, blocks_of_work, ranges, stretches
from gensar_core.runtime.device import send
from gensar_core.runtime.mapped_arrays import MappedArray, mapped_parts
from gensar_core.runtime.sorting import Groups
from gensar_core.samples.co_clicks import CoClickWeights, co_clicks
from gensar_core.samples.user_clicks import UserClicks

FEATURES: Final = 4
_QUERY, _LAST, _HISTORY, NEW = range(FEATURES)
#: Latest different items of a history whose co-clicks count, and the factor from each to the next older one.
_ITEMS: Final = 20
_DECAY: Final = 0.8
#: Latest items of a user that count for co-clicks; bounds their number by the log's length.
_PER_USER: Final = 100
#: Chosen for ItemKNN, see docs/tuning.md.
_WEIGHTS: Final = CoClickWeights(window=_PER_USER, distance_decay=0.9, backward=0.4)
#: Clicks sorted at once; limits memory, does not affect results.
_AT_ONCE = 1 << 22


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
        """Take ``weight`` [m, K] for the item at each ``place`` [m] of the trie's order; ``width`` is past the last.

        The last column counts the items that are not new.
        """
        self._width = width
        self._keys, order = torch.sort(question * width + place, stable=True)
        self._sums = weight.new_zeros((len(order) + 1, FEATURES))
        torch.cumsum(weight[order], 0, out=self._sums[1:])

    def beneath(self, question: torch.Tensor, start: torch.Tensor, stop: torch.Tensor) -> torch.Tensor:
        """Sum up the evidence of ``question`` [j] for the places ``start`` to ``stop`` (excluded) [j], [j, K]."""
        base = question * self._width
        first, last = (torch.searchsorted(self._keys, base + place) for place in (start, stop))
        found = (self._sums[last] - self._sums[first]).clamp_min_(0.0)
        found[:, NEW] = 1.0 - found[:, NEW] / (stop - start)
        return found.float()


@dataclass(frozen=True)
class ClickEvidence:
    """Hold the counts of training clicks, mapped from the disk.

    ``query_*`` are rows of clicked items by query, with their counts. ``own`` int64 holds each (query, user) pair's
    number, ascending, and ``own_item`` the clicked items. ``together_*`` are rows of items clicked by the same users,
    with the sum of these co-clicks; ``users`` [items] are the users of each item; ``clicked`` int64 holds each (user,
    item) pair's number, ascending, and ``clicked_place`` which of the user's items it is, oldest first.
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
    clicked_place: np.ndarray

    @classmethod
    def count(cls, training_events: Path, n_items: int, n_queries: int) -> ClickEvidence:
        """Count a file of training events (table `events`), with the help of files in its folder."""
        folder, every = training_events.parent, UserClicks.read(training_events)
        n_users = _users(every.users)
        after, own = _searches(UserClicks.read(training_events, "search"), n_items, n_users, folder)
        latest = _latest_of_users(every, n_items, folder)
        together = _together(latest["items"], n_items, folder)
        return cls(
            query_offsets=np.searchsorted(after["code"], np.arange(n_queries + 1) * n_items),
            query_item=after["item"],
            query_count=after["count"],
            own=own["code"],
            own_item=own["item"],
            together_offsets=together["offsets"],
            together_item=together["item"],
            together_count=together["count"],
            users=_users_of_items(latest["items"], n_items),
            clicked=latest["clicked"],
            clicked_place=latest["place"],
        )

    def save(self, path: Path) -> None:
        """Write the counts as one safetensors file."""
        save_file(dict(vars(self)), path)

    @classmethod
    def load(cls, path: Path) -> ClickEvidence:
        """Read what `save` wrote. Raises UserError when the file is missing or damaged."""
        try:
            # Torch's reader maps the file, NumPy's copies it.
            return cls(**{name: counts.numpy() for name, counts in load_file(path).items()})
        except (OSError, SafetensorError, TypeError) as error:
            raise UserError(f"{path}: holds no click counts; train the generator again") from error

    def without_users(self) -> ClickEvidence:
        """Return the counts without what tells users apart: enough for questions of no user of the log."""
        nothing = np.zeros(0, dtype=np.int64)
        return replace(self, own=nothing, own_item=nothing, clicked=nothing, clicked_place=nothing)

    def of(self, questions: Questions, trie: TokenTrie) -> NodeEvidence:
        """Collect the evidence of some questions for the nodes of a trie, on its device."""
        latest = _latest(questions.history)
        parts = [
            self._after_query(questions),
            self._own_clicks(questions),
            self._together(questions.user, latest),
            self._not_new(latest, len(trie)),
        ]
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

    def _together(
        self, users: np.ndarray, latest: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        question, item, age = latest
        # Nobody has clicked an item that was added since.
        counted = (age < _ITEMS) & (item < len(self.users))
        question, item, age = question[counted], item[counted], age[counted]
        rows, source = _rows(self.together_offsets, item)
        other, question, item, age = self.together_item[rows], question[source], item[source], age[source]
        user = users[question]
        first, second = self._places(user, item), self._places(user, other)
        both = (first >= 0) & (second >= 0)
        own = np.zeros(len(rows))
        own[both] = _WEIGHTS.of(second[both] - first[both])
        likeness = (self.together_count[rows] - own) / np.sqrt(self.users[item] * self.users[other])
        weight = np.zeros((len(rows), FEATURES))
        weight[:, _LAST] = np.where(age == 0, likeness, 0.0)
        weight[:, _HISTORY] = likeness * _DECAY**age
        return question, other, weight

    @staticmethod
    def _not_new(
        latest: tuple[np.ndarray, np.ndarray, np.ndarray], n_items: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        question, item, _ = latest
        known = item < n_items
        return question[known], item[known], _weights(NEW, np.ones(int(known.sum())))

    def _places(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Return which of a user's training clicks each item is, int64 [j]; -1 for none."""
        pair = user * len(self.users) + item
        row = np.searchsorted(self.clicked, pair)
        found = (user >= 0) & (row < len(self.clicked))
        found[found] = self.clicked[row[found]] == pair[found]
        place = np.full(len(pair), -1)
        place[found] = self.clicked_place[row[found]]
        return place

    @property
    def _n_users(self) -> int:
        return _users(self.clicked[-1:] // len(self.users))


def _users(ascending: np.ndarray) -> int:
    return int(ascending[-1]) + 1 if len(ascending) else 0


def _searches(
    searches: UserClicks, n_items: int, n_users: int, folder: Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Count clicked items by query, and sort all by query and user.

    Returns the distinct `code` (query * n_items + item), its `item` and its `count`; and the `code`
    (query * n_users + user) of every click, ascending, with its `item`.
    """
    items = searches.items.values

    def codes(clicks: np.ndarray, numbers: np.ndarray, size: int) -> np.ndarray:
        """Combine the queries of clicks with numbers below ``size``."""
        combined: np.ndarray = searches.queries[clicks].astype(np.int64) * size + numbers
        return combined

    pairs = Groups.of((codes(clicks, items[clicks], n_items) for clicks in stretches(len(items))), folder)
    code, count = pairs.distinct(folder)
    everyone = ((clicks, searches.users_of(clicks)) for clicks in stretches(len(items)))
    of_users = Groups.of((codes(clicks, users, n_users) for clicks, users in everyone), folder)
    clicked = _mapped((code[some] % n_items for some in stretches(len(code))), folder)
    own = _mapped((items[of_users.rows[clicks]] for clicks in stretches(len(items))), folder)
    return {"code": code, "item": clicked, "count": count}, {"code": of_users.codes, "item": own}


def _mapped(parts: Iterable[np.ndarray], folder: Path) -> np.ndarray:
    """Join integers on the disk, mapped."""
    joined = MappedArray(folder, np.int64)
    for part in parts:
        joined.append(part)
    return joined.read_only()


def _latest_of_users(clicks: UserClicks, n_items: int, folder: Path) -> dict[str, Any]:
    """Find the latest `_PER_USER` different `items` of each user, oldest first.

    Returns their pairs' numbers `clicked` as well, ascending, and which of the user's items each is, its `place`.
    """

    def parts() -> Iterator[dict[str, Any]]:
        none = np.zeros(0, dtype=np.int64)
        yield {"items": Ragged(np.zeros(1, dtype=np.int64), none), "clicked": none, "place": np.zeros(0, np.int8)}
        for some in stretches(len(clicks.users)):
            for start, stop in blocks_of_work(clicks.items.lengths_of(some), _AT_ONCE):
                rows = clicks.items.take(some[start:stop])
                pair = rows.rows * n_items + rows.values
                # The last click on each item: the first from the end.
                last = np.zeros(len(pair), dtype=bool)
                last[len(pair) - 1 - np.unique(pair[::-1], return_index=True)[1]] = True
                latest = rows.filter(last).tail(_PER_USER)
                codes = clicks.users[some[start:stop]].astype(np.int64)[latest.rows] * n_items + latest.values
                place, order = np.arange(len(codes)) - latest.offsets[latest.rows], np.argsort(codes)
                yield {"items": latest, "clicked": codes[order], "place": place[order].astype(np.int8)}

    return mapped_parts(parts(), folder)


def _users_of_items(rows: Ragged, n_items: int) -> np.ndarray:
    users = np.zeros(n_items)
    for places in stretches(len(rows.values)):
        users += np.bincount(rows.values[places], minlength=n_items)
    return users


def _together(rows: Ragged, n_items: int, folder: Path) -> dict[str, np.ndarray]:
    """Sum the co-clicks of users with these ``rows`` of items as rows of items: `offsets`, `item` and `count`."""

    def parts() -> Iterator[dict[str, np.ndarray]]:
        yield {"length": np.zeros(0, dtype=np.int64), "item": np.zeros(0, dtype=np.int64), "count": np.zeros(0)}
        for block in co_clicks(rows, n_items, _WEIGHTS, folder):
            yield {
                "length": np.bincount(block.row, minlength=block.shape[0]),
                "item": block.col,
                "count": block.data,
            }

    found = mapped_parts(parts(), folder)
    offsets = Ragged.from_lengths(found.pop("length"), found["item"]).offsets
    return {"offsets": offsets, **found}


def _weights(feature: int, values: np.ndarray) -> np.ndarray:
    weight = np.zeros((len(values), FEATURES))
    weight[:, feature] = values
    return weight


def _rows(offsets: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the values of the wanted rows, and which of ``wanted`` each belongs to."""
    lengths = offsets[wanted + 1] - offsets[wanted]
    return ranges(offsets[wanted], lengths), np.repeat(np.arange(len(wanted)), lengths)


def _latest(history: Ragged) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the different items of each history, latest first: question, item and age (0: the last) of each."""
    question, item = history.rows[::-1], history.values[::-1].astype(np.int64)
    _, first = np.unique(question * (int(item.max(initial=0)) + 1) + item, return_index=True)
    kept = np.sort(first)
    question, item = question[kept], item[kept]
    begins = np.flatnonzero(np.diff(question, prepend=-1) != 0)
    age = np.arange(len(question)) - np.repeat(begins, np.diff(np.append(begins, len(question))))
    return question, item, age

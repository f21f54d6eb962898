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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

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
#: The last one; the others stand in the order above.
NEW: Final = FEATURES - 1
#: Latest different items of a history whose co-clicks count, and the factor from each to the next older one.
_ITEMS: Final = 20
_DECAY: Final = 0.8
#: Latest items of a user that count for co-clicks; bounds their number by the log's length.
_PER_USER: Final = 100
#: Chosen for ItemKNN, see docs/tuning.md.
_WEIGHTS: Final = CoClickWeights(window=_PER_USER, distance_decay=0.9, backward=0.4)
#: Clicks sorted at once; limits memory, does not affect results.
_AT_ONCE = 1 << 22

#: Questions, items, and what an item counts by feature, float32 [m, features].
_Entries: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


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


class SumsBeneath:
    """Look up sums of features over the items beneath nodes of one trie, for some questions."""

    def __init__(self, entries: Sequence[_Entries], n_questions: int, trie: TokenTrie) -> None:
        """Sum up the ``entries``; all have as many features."""
        device, self._width = trie.place.device, len(trie) + 1
        question, item, weight = (send(np.concatenate(column), device) for column in zip(*entries, strict=True))
        # Short keys sort three times as fast.
        short = n_questions * self._width <= torch.iinfo(torch.int32).max
        self._keys, order = torch.sort(
            self._key(question, trie.place[item.long()]).to(torch.int32 if short else torch.int64)
        )
        self._sums = weight.new_zeros((len(order) + 1, weight.shape[1]), dtype=torch.float64)
        torch.cumsum(weight.index_select(0, order), 0, dtype=torch.float64, out=self._sums[1:])

    def of(self, question: torch.Tensor, start: torch.Tensor, stop: torch.Tensor) -> torch.Tensor:
        """Sum up over the places ``start`` to ``stop`` (excluded) of the trie's order, float64 [j, features]."""
        keys = (self._key(question, place).to(self._keys.dtype) for place in (start, stop))
        first, last = (torch.searchsorted(self._keys, key) for key in keys)
        return (self._sums.index_select(0, last) - self._sums.index_select(0, first)).clamp_min_(0.0)

    def _key(self, question: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return question * self._width + place


class NodeEvidence:
    """Look up the evidence beneath nodes of one trie for some questions."""

    def __init__(self, after_query: SumsBeneath, together: SumsBeneath, clicked: SumsBeneath) -> None:
        """Take clicks after the query, co-clicks of the last item and of the history, and the history's items."""
        self._after_query, self._together, self._clicked = after_query, together, clicked

    def beneath(self, question: torch.Tensor, start: torch.Tensor, stop: torch.Tensor) -> torch.Tensor:
        """Sum up the evidence of ``question`` [j] for the places ``start`` to ``stop`` (excluded) [j], [j, K]."""
        parts = [part.of(question, start, stop) for part in (self._after_query, self._together, self._clicked)]
        parts[-1] = 1.0 - parts[-1] / (stop - start)[:, None]
        return torch.cat(parts, 1).float()


@dataclass(frozen=True)
class ClickEvidence:
    """Hold the counts of training clicks, mapped from the disk.

    ``query_*`` are rows of clicked items by query, with their counts. ``own`` int64 holds each (query, user) pair's
    number, ascending, and ``own_item`` the clicked items. ``together_*`` are rows of items clicked by the same users,
    with the sum of these co-clicks over the root of the product of both items' ``users`` [items]; ``clicked`` int64
    holds each (user, item) pair's number, ascending, and ``clicked_place`` which of the user's items it is, oldest
    first.
    """

    query_offsets: np.ndarray
    query_item: np.ndarray
    query_count: np.ndarray
    own: np.ndarray
    own_item: np.ndarray
    together_offsets: np.ndarray
    together_item: np.ndarray
    together_likeness: np.ndarray
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
        users = _users_of_items(latest["items"], n_items)
        together = _together(latest["items"], users, folder)
        return cls(
            query_offsets=np.searchsorted(after["code"], np.arange(n_queries + 1) * n_items),
            query_item=after["item"],
            query_count=after["count"],
            own=own["code"],
            own_item=own["item"],
            together_offsets=together["offsets"],
            together_item=together["item"],
            together_likeness=together["likeness"],
            users=users,
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
        # Nobody has clicked an item that was added since.
        counted = latest.where((latest.age < _ITEMS) & (latest.item < len(self.users)))
        known = latest.where(latest.item < len(trie))
        clicked = (known.question, known.item, np.ones((len(known.item), 1), dtype=np.float32))
        parts = (
            [self._searched(questions), self._own_searches(questions)],
            [self._together(counted), self._own_together(questions.user, counted)],
            [clicked],
        )
        return NodeEvidence(*(SumsBeneath(entries, len(questions), trie) for entries in parts))

    def _searched(self, questions: Questions) -> _Entries:
        asked = np.flatnonzero((questions.query >= 0) & (questions.query < len(self.query_offsets) - 1))
        rows, question = _rows(self.query_offsets, questions.query[asked])
        return asked[question], self.query_item[rows], self.query_count[rows].astype(np.float32)[:, None]

    def _own_searches(self, questions: Questions) -> _Entries:
        """Take away the user's own clicks after the query."""
        asked = np.flatnonzero((questions.query >= 0) & (questions.user >= 0) & (questions.user < self._n_users))
        pair = questions.query[asked] * self._n_users + questions.user[asked]
        first, last = (np.searchsorted(self.own, pair, side=side) for side in ("left", "right"))
        rows = ranges(first, last - first)
        question = np.repeat(asked, last - first)
        return question, self.own_item[rows], np.full((len(rows), 1), -1.0, dtype=np.float32)

    def _together(self, latest: _Latest) -> _Entries:
        rows, source = _rows(self.together_offsets, latest.item)
        weight = self.together_likeness[rows][:, None] * latest.weights()[source]
        return latest.question[source], self.together_item[rows], weight

    def _own_together(self, users: np.ndarray, latest: _Latest) -> _Entries:
        """Take away the user's own co-clicks."""
        latest = latest.where(users[latest.question] >= 0)
        user, n_items = users[latest.question], len(self.users)
        first, last = (np.searchsorted(self.clicked, (user + more) * n_items) for more in (0, 1))
        rows, source = ranges(first, last - first), np.repeat(np.arange(len(user)), last - first)
        item, other = latest.item[source], self.clicked[rows] - user[source] * n_items
        # Find the history's item itself among the user's; the training log may lack its click.
        place = np.zeros(len(user), dtype=np.int64)
        found = item == other
        place[source[found]] = self.clicked_place[rows[found]]
        holds = np.zeros(len(user), dtype=bool)
        holds[source[found]] = True
        both = holds[source] & ~found
        rows, source, item, other = rows[both], source[both], item[both], other[both]
        own = _WEIGHTS.of(self.clicked_place[rows] - place[source]) / np.sqrt(self.users[item] * self.users[other])
        return latest.question[source], other, -own.astype(np.float32)[:, None] * latest.weights()[source]

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


def _together(rows: Ragged, users: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """Sum the co-clicks of users with these ``rows`` of items, as rows of items: `offsets`, `item` and `likeness`."""

    def parts() -> Iterator[dict[str, np.ndarray]]:
        none = np.zeros(0, dtype=np.int64)
        yield {"length": none, "item": none, "likeness": none.astype(np.float32)}
        first = 0
        for block in co_clicks(rows, len(users), _WEIGHTS, folder):
            likeness = block.data / np.sqrt(users[first + block.row] * users[block.col])
            length = np.bincount(block.row, minlength=block.shape[0])
            yield {"length": length, "item": block.col, "likeness": likeness.astype(np.float32)}
            first += block.shape[0]

    found = mapped_parts(parts(), folder)
    offsets = Ragged.from_lengths(found.pop("length"), found["item"]).offsets
    return {"offsets": offsets, **found}


def _rows(offsets: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the values of the wanted rows, and which of ``wanted`` each belongs to."""
    lengths = offsets[wanted + 1] - offsets[wanted]
    return ranges(offsets[wanted], lengths), np.repeat(np.arange(len(wanted)), lengths)


class _Latest(NamedTuple):
    """Hold the different items of histories: which question's, the item, and its age (0: the last), each int64."""

    question: np.ndarray
    item: np.ndarray
    age: np.ndarray

    def where(self, chosen: np.ndarray) -> _Latest:
        """Return the ``chosen`` ones, bool."""
        return _Latest(*(column[chosen] for column in self))

    def weights(self) -> np.ndarray:
        """Return how much each counts as the last item, and as one of the history, float32 [len, 2]."""
        return np.stack([self.age == 0, _DECAY**self.age], axis=1).astype(np.float32)


def _latest(history: Ragged) -> _Latest:
    """Return the different items of each history, latest first."""
    question, item = history.rows[::-1], history.values[::-1].astype(np.int64)
    _, first = np.unique(question * (int(item.max(initial=0)) + 1) + item, return_index=True)
    kept = np.sort(first)
    question, item = question[kept], item[kept]
    begins = np.flatnonzero(np.diff(question, prepend=-1) != 0)
    age = np.arange(len(question)) - np.repeat(begins, np.diff(np.append(begins, len(question))))
    return _Latest(question, item, age)

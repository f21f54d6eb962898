"""Draw negatives by popularity among items the user has not interacted with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gensar_core import schema
from gensar_core.runtime.arrays import Ragged, add_counts, ranges
from gensar_core.runtime.hashing import draws, scramble, uniform
from gensar_core.runtime.reading import table_parts

#: Matrix cells processed at once; limits memory, does not affect results.
_CELLS = 1 << 21
#: Draws per pool item beyond which drawing costs more than going through all items.
_SCARCE = 4


@dataclass(frozen=True)
class PopularityPool:
    """Hold the multiset of clicked items.

    ``items`` are the distinct items in ascending order, ``counts`` their numbers of clicks, and ``ends`` uint64 the
    clicks on each item and all before it.
    """

    items: np.ndarray
    counts: np.ndarray
    ends: np.ndarray

    @classmethod
    def from_clicks(cls, items: np.ndarray) -> PopularityPool:
        """Build the pool from the item of each click."""
        return cls.from_counts(np.bincount(items))

    @classmethod
    def from_counts(cls, counts: np.ndarray) -> PopularityPool:
        """Build the pool in which item ``i`` was clicked ``counts[i]`` times."""
        items = np.flatnonzero(counts).astype(np.int32)
        clicks = counts[items]
        return cls(items, clicks, np.cumsum(clicks).astype(np.uint64))

    def draw(self, numbers: np.ndarray) -> np.ndarray:
        """Draw the item of a click by each random number, uint64 of any shape, int32 of the same shape."""
        # A list of all clicks would be faster, but would grow with the log.
        drawn: np.ndarray = self.items[np.searchsorted(self.ends, numbers % self.ends[-1], side="right")]
        return drawn


def count_clicks(training_events: Path) -> np.ndarray:
    """Count the training clicks on each item, of both tasks together, int64 [items]; unclicked ones may be missing."""
    clicks = np.zeros(0, dtype=np.int64)
    for part in table_parts(training_events, schema.EVENTS, columns=["item_id"]):
        clicks = add_counts(clicks, part.get_column("item_id").to_numpy())
    return clicks


def popularity_negatives(pool: PopularityPool, keys: np.ndarray, taken: Ragged, count: int) -> np.ndarray:
    """Draw distinct items for each row in proportion to their clicks, excluding the row's ``taken`` items.

    ``keys`` uint64 [rows] determine the draws; ``taken`` holds item ids of each row. Returns int32 [rows, count] in the
    order drawn, -1 at the end of a row for which the pool has too few items. The first n columns equal the result of
    ``count=n``, as long as the pool is not nearly used up.
    """
    # Draw with replacement and keep new items: nearly all rows are full after the first width. A longer stream of draws
    # begins like a shorter one, so the widths do not affect the result.
    negatives = np.full((len(keys), count), -1, dtype=np.int32)
    open_rows = np.arange(len(keys))
    for width in (count + count // 4 + 4, 8 * (count + 4)):
        if not len(open_rows) or width >= _SCARCE * len(pool.items):
            break
        for part in _parts(open_rows, taken, width):
            negatives[part] = _first_distinct(pool, keys[part], taken.take(part), width, count)
        open_rows = open_rows[negatives[open_rows, -1] < 0]
    for part in np.array_split(open_rows, 1 + len(open_rows) * len(pool.items) // _CELLS):
        negatives[part] = _complete(pool, keys[part], taken.take(part), negatives[part])
    return negatives


def _parts(rows: np.ndarray, taken: Ragged, width: int) -> list[np.ndarray]:
    """Group rows by similar ``taken`` length, each group small enough to process at once."""
    lengths = taken.lengths[rows]
    order = np.argsort(lengths, kind="stable")
    group = np.cumsum(lengths[order] + width) // _CELLS
    return np.split(rows[order], np.flatnonzero(np.diff(group)) + 1)


def _first_distinct(pool: PopularityPool, keys: np.ndarray, taken: Ragged, width: int, count: int) -> np.ndarray:
    """Return the first ``count`` new items among ``width`` draws, int32 [rows, count], -1 at the end of short rows."""
    before = int(taken.lengths.max(initial=0))
    items = np.concatenate([taken.padded(before, -1), pool.draw(draws(keys, width))], axis=1)
    # Sorted by item and then column, an item's first occurrence leads its run; taken items precede all draws.
    shift = items.shape[1].bit_length()
    coded = np.sort((items.astype(np.int64) << shift) | np.arange(items.shape[1]), axis=1)
    item, column = coded >> shift, coded & ((1 << shift) - 1)
    leads = np.ones(items.shape, dtype=bool)
    leads[:, 1:] = item[:, 1:] != item[:, :-1]
    new = np.zeros(items.shape, dtype=bool)
    np.put_along_axis(new, column, leads & (column >= before), axis=1)
    drawn = Ragged.from_lengths(new.sum(axis=1), items[new])
    lengths = np.minimum(drawn.lengths, count)
    return Ragged.from_lengths(lengths, drawn.values[ranges(drawn.offsets[:-1], lengths)]).padded(count, -1)


def _complete(pool: PopularityPool, keys: np.ndarray, taken: Ragged, negatives: np.ndarray) -> np.ndarray:
    """Fill the open places of ``negatives`` by sampling the rest of the pool without replacement.

    The order of exponential variables with rates equal to the counts is the order in which distinct items would appear
    in further draws (Efraimidis and Spirakis, 2006), so the distribution is that of further draws.
    """
    count = negatives.shape[1]
    if not len(pool.items) or not count:
        return negatives
    waiting = -np.log(uniform(draws(scramble(~keys), len(pool.items)))) / pool.counts
    drawn = negatives >= 0
    for rows, items in ((taken.rows, taken.values), (np.nonzero(drawn)[0], negatives[drawn])):
        place = np.searchsorted(pool.items, items).clip(max=len(pool.items) - 1)
        in_pool = pool.items[place] == items
        waiting[rows[in_pool], place[in_pool]] = np.inf
    order = np.argsort(waiting, axis=1, kind="stable")[:, :count]
    rest = np.where(np.isfinite(np.take_along_axis(waiting, order, axis=1)), pool.items[order], -1)
    rest = np.pad(rest, ((0, 0), (0, count - rest.shape[1])), constant_values=-1)
    column = np.arange(count) - drawn.sum(axis=1, keepdims=True)
    further = np.take_along_axis(rest, column.clip(0), axis=1)
    return np.where(column >= 0, further, negatives).astype(np.int32)

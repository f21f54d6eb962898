"""Draw the negatives of targets: by popularity for recommendation, from BM25 hits for search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from gensar_core.config.datasets import NegativesSettings
from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.runtime.hashing import row_keys
from gensar_core.runtime.seeds import derive_seed
from gensar_core.runtime.writing import TableWriter
from gensar_core.samples.bm25 import BM25Index, lexical_negatives
from gensar_core.samples.events import EventLog
from gensar_core.samples.popularity import PopularityPool, popularity_negatives

#: Rows processed at once where each copies a row of hits; limits memory, does not affect results.
_SLICE = 1 << 15
#: Lists built and written at once; likewise.
_WRITTEN = 1 << 17


class Group(NamedTuple):
    """Hold targets of one task and split with their sample ids."""

    task: str
    ids: np.ndarray
    targets: EventLog


class NegativeSampler:
    """Draw negatives for the targets of some users.

    Items are drawn from ``pool``; a user has interacted with the items of the user's events in ``log``. Every draw is
    keyed on the seed, ``purpose`` and the target's user, item, query, task and time, so a target's negatives do not
    depend on the other targets, on row order or on threads.
    """

    def __init__(self, pool: PopularityPool, log: EventLog, seed: int, purpose: str) -> None:
        self._pool = pool
        pairs = np.unique(log.pairs)
        users = pairs >> 32
        self._first = int(users[0]) if len(users) else 0
        # Row u holds the items that user `_first + u` interacted with.
        self._items = Ragged.from_lengths(np.bincount(users - self._first), (pairs & 0xFFFFFFFF).astype(np.int32))
        self._seed = derive_seed(seed, purpose)

    def by_popularity(self, targets: EventLog, count: int) -> np.ndarray:
        """Draw items the user never interacted with, by popularity, int32 [targets, count]; -1 where too few exist."""
        return popularity_negatives(self._pool, self._keys(targets), self._interacted(targets), count)

    def by_bm25(self, targets: EventLog, hits: np.ndarray, hit_rows: np.ndarray, count: int) -> tuple[np.ndarray, int]:
        """Return the best hits of each target's query, without the target.

        ``hits`` int32 [queries, more than count] comes from `QueryHits.find`; ``hit_rows`` [targets] is each target's
        row in it. Too few hits are topped up with items that the user never interacted with, drawn by popularity.
        Returns int32 [targets, count], -1 where too few items exist, and the number of targets with too few hits.
        """
        negatives = np.empty((len(targets), count), dtype=np.int32)
        for start in range(0, len(targets), _SLICE):
            part = slice(start, start + _SLICE)
            negatives[part] = lexical_negatives(hits[hit_rows[part]], targets.item[part], count)
        short = np.flatnonzero((negatives < 0).any(axis=1))
        negatives[short] = self._top_up(targets.take(short), negatives[short])
        return negatives, len(short)

    def _top_up(self, targets: EventLog, negatives: np.ndarray) -> np.ndarray:
        """Fill the open places at the end of each row with sampled items."""
        has = negatives >= 0
        hits = Ragged.from_lengths(has.sum(axis=1), negatives[has])
        taken = _joined(self._interacted(targets), hits)
        sampled = popularity_negatives(self._pool, self._keys(targets), taken, negatives.shape[1])
        column = np.arange(negatives.shape[1]) - hits.lengths[:, None]
        filled: np.ndarray = np.where(has, negatives, np.take_along_axis(sampled, column.clip(0), axis=1))
        return filled

    def _interacted(self, targets: EventLog) -> Ragged:
        """Return the items that each target's user interacted with."""
        return self._items.take(targets.user - self._first)

    def _keys(self, targets: EventLog) -> np.ndarray:
        return row_keys(self._seed, targets.user, targets.item, targets.query, targets.searched, targets.time)


class QueryHits:
    """Store the BM25 hits of queries, each computed once, on first use.

    ``item_texts`` and ``query_texts`` hold the texts of all items and queries, by id.
    """

    def __init__(self, item_texts: Sequence[str], query_texts: Sequence[str], settings: NegativesSettings) -> None:
        self._item_texts = item_texts
        self._query_texts = query_texts
        self._settings = settings
        self._index: BM25Index | None = None
        self._place = np.full(len(query_texts), -1, dtype=np.int64)
        # More hits than negatives: the target is left out if it is among them, and a few are spare.
        self._hits = np.zeros((0, settings.negatives + 10), dtype=np.int32)

    def __len__(self) -> int:
        return len(self._hits)

    def find(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the `BM25Index.hits` of all queries looked up so far, and the row of each query [rows]."""
        new = np.unique(queries)
        new = new[self._place[new] < 0]
        if len(new):
            if self._index is None:
                self._index = BM25Index(self._item_texts, k1=self._settings.bm25_k1, b=self._settings.bm25_b)
            hits = self._index.hits([self._query_texts[query] for query in new], self._hits.shape[1])
            self._place[new] = len(self._hits) + np.arange(len(new))
            self._hits = np.concatenate([self._hits, hits])
        return self._hits, self._place[queries]


def write_negatives(
    table: TableWriter, sampler: NegativeSampler, groups: Iterable[Group], hits: QueryHits, count: int
) -> Counter[str]:
    """Write sample_id and ``count`` negatives of all targets of the groups, in order.

    Recommendation targets get items drawn by popularity, search targets the best BM25 hits of their query. Returns the
    counts of all lists, of lists topped up because BM25 returned too few hits, and of lists that stayed short.
    """
    counts = Counter(lists=0, lists_topped_up=0, lists_short=0)
    for task, ids, targets in _parts(groups):
        if task == "rec":
            negatives = sampler.by_popularity(targets, count)
        else:
            negatives, topped_up = sampler.by_bm25(targets, *hits.find(targets.query), count)
            counts["lists_topped_up"] += topped_up
        counts["lists"] += len(ids)
        counts["lists_short"] += int((negatives < 0).any(axis=1).sum())
        table.write(_list_frame(ids, negatives))
    return counts


def _parts(groups: Iterable[Group]) -> Iterator[Group]:
    """Yield the groups, long ones in parts."""
    for task, ids, targets in groups:
        for start in range(0, len(ids), _WRITTEN):
            rows = np.arange(start, min(start + _WRITTEN, len(ids)))
            yield Group(task, ids[rows], targets.take(rows))


def _list_frame(sample_ids: np.ndarray, negatives: np.ndarray) -> pl.DataFrame:
    """Build a frame of sample_id and negatives from int32 [samples, count] with -1 at the end of short lists."""
    has = negatives >= 0
    lists = Ragged.from_lengths(has.sum(axis=1), negatives[has]).to_series("negatives", pl.Int32())
    return pl.DataFrame({"sample_id": sample_ids, "negatives": lists})


def _joined(first: Ragged, second: Ragged) -> Ragged:
    """Append to each row of ``first`` the same row of ``second``."""
    lengths = first.lengths + second.lengths
    joined = Ragged.from_lengths(lengths, np.empty(int(lengths.sum()), dtype=first.values.dtype))
    joined.values[ranges(joined.offsets[:-1], first.lengths)] = first.values
    joined.values[ranges(joined.offsets[1:] - second.lengths, second.lengths)] = second.values
    return joined

"""Negatives of targets: sampled by popularity for recommendation, BM25 hits for search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from gensar_core.config.data import NegativesSettings
from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.runtime.hashing import row_keys
from gensar_core.runtime.seeds import derive_seed
from gensar_core.runtime.writing import TableWriter
from gensar_core.samples.bm25 import bm25_hits, lexical_negatives
from gensar_core.samples.events import EventLog
from gensar_core.samples.popularity import PopularityPool, popularity_negatives

#: Rows worked on at once where each takes a row of hits; bounds memory, not results.
_SLICE = 1 << 15
#: Lists made and written at once; likewise.
_WRITTEN = 1 << 17


class Group(NamedTuple):
    """Targets of one task and split, with their sample ids."""

    task: str
    ids: np.ndarray
    targets: EventLog


class NegativeSampler:
    """Draws negatives for targets of one data set.

    ``log`` is what the draws know of: its recommendation clicks are the pool, and what a user interacted with is what
    stands with that user there. Every draw is keyed on the seed, ``purpose`` and the target's user, item, query, task
    and time, so a target's negatives do not depend on the other targets, on row order or on threads.
    """

    def __init__(self, log: EventLog, seed: int, purpose: str) -> None:
        self._pool = PopularityPool.from_clicks(log.item[~log.searched])
        pairs = np.unique(log.pairs)
        # Row u holds the items that user u interacted with.
        self._interacted = Ragged.from_lengths(np.bincount(pairs >> 32), (pairs & 0xFFFFFFFF).astype(np.int32))
        self._seed = derive_seed(seed, purpose)

    def by_popularity(self, targets: EventLog, count: int) -> np.ndarray:
        """Items the user never interacted with, drawn by popularity, int32 [targets, count], -1 where too few exist."""
        return popularity_negatives(self._pool, self._keys(targets), self._interacted.take(targets.user), count)

    def by_bm25(self, targets: EventLog, hits: np.ndarray, hit_rows: np.ndarray, count: int) -> tuple[np.ndarray, int]:
        """The best hits of each target's query, without the target.

        ``hits`` int32 [queries, more than count] of `bm25_hits`, ``hit_rows`` [targets] each target's row there. Where
        hits are too few, items follow that the user never interacted with, drawn by popularity. Returns int32
        [targets, count], -1 where too few exist, and the number of targets with too few hits.
        """
        negatives = np.empty((len(targets), count), dtype=np.int32)
        for start in range(0, len(targets), _SLICE):
            part = slice(start, start + _SLICE)
            negatives[part] = lexical_negatives(hits[hit_rows[part]], targets.item[part], count)
        short = np.flatnonzero((negatives < 0).any(axis=1))
        negatives[short] = self._top_up(targets.take(short), negatives[short])
        return negatives, len(short)

    def _top_up(self, targets: EventLog, negatives: np.ndarray) -> np.ndarray:
        """Put sampled items into the open places at the end of each row."""
        has = negatives >= 0
        hits = Ragged.from_lengths(has.sum(axis=1), negatives[has])
        taken = _joined(self._interacted.take(targets.user), hits)
        sampled = popularity_negatives(self._pool, self._keys(targets), taken, negatives.shape[1])
        column = np.arange(negatives.shape[1]) - hits.lengths[:, None]
        filled: np.ndarray = np.where(has, negatives, np.take_along_axis(sampled, column.clip(0), axis=1))
        return filled

    def _keys(self, targets: EventLog) -> np.ndarray:
        return row_keys(self._seed, targets.user, targets.item, targets.query, targets.searched, targets.time)


def write_negatives(
    table: TableWriter,
    sampler: NegativeSampler,
    groups: Sequence[Group],
    item_texts: Sequence[str],
    query_texts: Sequence[str],
    settings: NegativesSettings,
) -> dict[str, int]:
    """Write sample_id and negatives of all targets of the groups, in their order; return what happened on the way.

    Recommendation targets get items drawn by popularity, search targets the best BM25 hits of their query.
    """
    asked = [group.targets.query for group in groups if group.task == "search"]
    hits, hit_rows = query_hits(np.concatenate([*asked, np.zeros(0, np.int32)]), item_texts, query_texts, settings)
    figures = {"queries": len(hits), "lists": 0, "lists_topped_up": 0, "lists_short": 0}
    for task, ids, targets in _parts(groups):
        if task == "rec":
            negatives = sampler.by_popularity(targets, settings.negatives)
        else:
            own, hit_rows = hit_rows[: len(targets)], hit_rows[len(targets) :]
            negatives, topped_up = sampler.by_bm25(targets, hits, own, settings.negatives)
            figures["lists_topped_up"] += topped_up
        figures["lists"] += len(ids)
        figures["lists_short"] += int((negatives < 0).any(axis=1).sum())
        table.write(_list_frame(ids, negatives))
    return figures


def _parts(groups: Sequence[Group]) -> Iterator[Group]:
    """The groups, the long ones in parts."""
    for task, ids, targets in groups:
        for start in range(0, len(ids), _WRITTEN):
            rows = np.arange(start, min(start + _WRITTEN, len(ids)))
            yield Group(task, ids[rows], targets.take(rows))


def query_hits(
    queries: np.ndarray, item_texts: Sequence[str], query_texts: Sequence[str], settings: NegativesSettings
) -> tuple[np.ndarray, np.ndarray]:
    """BM25 hits of each distinct query among ``queries`` [rows], and the row of hits of each query [rows]."""
    distinct, rows = np.unique(queries, return_inverse=True)
    texts = [query_texts[query] for query in distinct]
    hits = bm25_hits(item_texts, texts, settings.negatives + 10, k1=settings.bm25_k1, b=settings.bm25_b)
    return hits, rows


def _list_frame(sample_ids: np.ndarray, negatives: np.ndarray) -> pl.DataFrame:
    """sample_id and negatives, of int32 [samples, count] with -1 at the end of short lists."""
    has = negatives >= 0
    lists = Ragged.from_lengths(has.sum(axis=1), negatives[has]).to_series("negatives", pl.Int32())
    return pl.DataFrame({"sample_id": sample_ids, "negatives": lists})


def _joined(first: Ragged, second: Ragged) -> Ragged:
    """Each row of ``first`` followed by the same row of ``second``."""
    lengths = first.lengths + second.lengths
    joined = Ragged.from_lengths(lengths, np.empty(int(lengths.sum()), dtype=first.values.dtype))
    joined.values[ranges(joined.offsets[:-1], first.lengths)] = first.values
    joined.values[ranges(joined.offsets[1:] - second.lengths, second.lengths)] = second.values
    return joined

"""Store prediction targets as flat arrays for methods that train on one target, its history and its query at a time.

The *slots* of a history are its recommendation clicks and its search sessions. The *place* of a slot is its index among
all slots of its row, from 0, oldest first. In batches, rows are padded at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from gensar_core import schema
from gensar_core.ranking.candidates import SampleBlocks
from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.runtime.device import send
from gensar_core.runtime.mapped_arrays import mapped_parts
from gensar_core.runtime.reading import PART_ROWS

#: Train samples whose histories are decoded at a time.
_ROWS = 1 << 14


@dataclass(frozen=True)
class TargetHistories:
    """Hold the histories of rows [rows].

    ``clicks`` are the items of recommendation clicks and ``searches`` the queries of search sessions, both oldest
    first, with their places ``click_places`` [total clicks] and ``search_places`` [total searches]. ``searched_items``
    has one row per search, over all rows in order: the items clicked after it.
    """

    clicks: Ragged
    click_places: np.ndarray
    searches: Ragged
    search_places: np.ndarray
    searched_items: Ragged

    @classmethod
    def from_samples(cls, samples: pl.DataFrame, max_recommendations: int, max_searches: int) -> TargetHistories:
        """Read histories from a samples table, keeping each one's last recommendation clicks and search sessions."""
        behaviors = Ragged.from_series(samples.get_column("history_behavior"))
        objects = Ragged.from_series(samples.get_column("history_object")).values
        behavior, row = behaviors.values, behaviors.rows
        entries = Ragged(behaviors.offsets, np.arange(len(behavior)))
        clicks = entries.filter(behavior == schema.RECOMMENDED_ITEM).tail(max_recommendations)
        searches = entries.filter(behavior == schema.SEARCHED_QUERY).tail(max_searches)

        is_slot = np.zeros(len(behavior), dtype=bool)
        is_slot[clicks.values] = is_slot[searches.values] = True
        slots_before = np.concatenate([[0], np.cumsum(is_slot)])
        place = slots_before[:-1] - slots_before[behaviors.offsets[:-1]][row]

        # The clicks of a session follow its query. A session that is cut off loses its clicks too.
        query_before = np.maximum.accumulate(np.where(behavior == schema.SEARCHED_QUERY, entries.values, -1))
        searched = np.flatnonzero(behavior == schema.SEARCHED_ITEM)
        searched = searched[query_before[searched] >= behaviors.offsets[:-1][row[searched]]]
        searched = searched[is_slot[query_before[searched]]]
        number = np.zeros(len(behavior), dtype=np.int64)
        number[searches.values] = np.arange(len(searches.values))
        counts = np.bincount(number[query_before[searched]], minlength=len(searches.values))
        return cls(
            Ragged(clicks.offsets, objects[clicks.values]),
            place[clicks.values],
            Ragged(searches.offsets, objects[searches.values]),
            place[searches.values],
            Ragged.from_lengths(counts, objects[searched]),
        )

    def __len__(self) -> int:
        return len(self.clicks)

    def lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of slots of each of these rows."""
        lengths: np.ndarray = self.clicks.lengths_of(rows) + self.searches.lengths_of(rows)
        return lengths

    def take(self, rows: np.ndarray) -> TargetHistories:
        """Select rows, in the given order."""
        clicks, searches = self.clicks.take(rows), self.searches.take(rows)
        click_numbers = ranges(self.clicks.offsets[:-1][rows], clicks.lengths)
        search_numbers = ranges(self.searches.offsets[:-1][rows], searches.lengths)
        return TargetHistories(
            clicks,
            self.click_places[click_numbers],
            searches,
            self.search_places[search_numbers],
            self.searched_items.take(search_numbers),
        )

    def padded(self, device: torch.device) -> HistoryBatch:
        """Convert to padded tensors."""
        searches = self.searches
        width, depth, clicks = (
            max(1, int(rows.lengths.max(initial=0))) for rows in (searches, self.searched_items, self.clicks)
        )
        cells = searches.rows, np.arange(len(searches.values)) - searches.offsets[searches.rows]
        items, is_item = np.zeros((2, len(self), width, depth), dtype=np.int64)
        items[cells] = self.searched_items.padded(depth, 0)
        is_item[cells] = np.arange(depth) < self.searched_items.lengths[:, None]

        def moved(array: np.ndarray) -> torch.Tensor:
            return send(array, device)

        def slots(rows: Ragged, values: np.ndarray, width: int) -> torch.Tensor:
            return moved(Ragged(rows.offsets, values).padded(width, 0).astype(np.int64, copy=False))

        return HistoryBatch(
            slots(self.clicks, self.clicks.values, clicks),
            slots(self.clicks, self.click_places, clicks),
            moved(np.arange(clicks) < self.clicks.lengths[:, None]),
            slots(searches, searches.values, width),
            slots(searches, self.search_places, width),
            moved(np.arange(width) < searches.lengths[:, None]),
            moved(items),
            moved(is_item.astype(bool)),
        )


@dataclass(frozen=True)
class HistoryBatch:
    """Hold padded histories: int64 tensors with 0 as padding, and bool tensors that mark the real cells.

    ``clicks``, ``click_places`` and ``is_click`` [rows, clicks]; ``searches``, ``search_places`` and ``is_search``
    [rows, searches]; ``searched_items`` and ``is_searched_item`` [rows, searches, items per
    search]. Every width is at least 1.
    """

    clicks: torch.Tensor
    click_places: torch.Tensor
    is_click: torch.Tensor
    searches: torch.Tensor
    search_places: torch.Tensor
    is_search: torch.Tensor
    searched_items: torch.Tensor
    is_searched_item: torch.Tensor


@dataclass(frozen=True)
class RowBatch:
    """Hold a padded batch of targets of one task.

    ``users`` and ``queries`` int64 [rows] (for rec the query is 0 and must be ignored); ``candidates`` int64
    [rows, width] with the positive in column 0, and ``present`` bool [rows, width]; ``rows`` are the indices of these
    rows in their `Rows`.
    """

    task: str
    rows: np.ndarray
    users: torch.Tensor
    queries: torch.Tensor
    history: HistoryBatch
    candidates: torch.Tensor
    present: torch.Tensor


@dataclass(frozen=True)
class TargetRows:
    """Hold the targets of one task: ``users`` and ``queries`` int64 [rows], and their histories."""

    task: str
    users: np.ndarray
    queries: np.ndarray
    histories: TargetHistories

    @classmethod
    def from_samples(cls, task: str, samples: pl.DataFrame, max_recommendations: int, max_searches: int) -> TargetRows:
        """Read rows, in order, from a samples table that holds only this task."""
        return cls(
            task,
            samples.get_column("user_id").to_numpy().astype(np.int64),
            samples.get_column("query_id").fill_null(0).to_numpy().astype(np.int64),
            TargetHistories.from_samples(samples, max_recommendations, max_searches),
        )

    def __len__(self) -> int:
        return len(self.users)

    def batch(self, rows: np.ndarray, candidates: np.ndarray, device: torch.device) -> RowBatch:
        """Build a batch of the given rows with ``candidates`` int [rows, width], -1 as padding."""
        return RowBatch(
            self.task,
            rows,
            send(self.users[rows], device),
            send(self.queries[rows], device),
            self.histories.take(rows).padded(device),
            send(np.maximum(candidates, 0).astype(np.int64), device),
            send(candidates >= 0, device),
        )


@dataclass(frozen=True)
class TrainingRows:
    """Hold the train targets of one task and their stored negatives [rows], at most ``stored`` each.

    Where they come from a folder, all is mapped from its disk.
    """

    rows: TargetRows
    targets: np.ndarray
    negatives: Ragged
    stored: int

    @classmethod
    def read(
        cls, task: str, samples_folder: Path, negatives: Path | None, max_recommendations: int, max_searches: int
    ) -> TrainingRows:
        """Read a task's train rows; ``negatives`` is the file of the table `training_negatives`, None without any."""
        stored = 0

        def arrays(train: pl.DataFrame, drawn: pl.DataFrame | None) -> dict[str, np.ndarray | Ragged]:
            nonlocal stored
            lists = Ragged.from_lengths(np.zeros(len(train), dtype=np.int64), np.zeros(0, dtype=np.int32))
            if drawn is not None:
                joined = train.join(drawn, on="sample_id", how="left", maintain_order="left")
                lists = Ragged.from_series(joined.get_column("negatives"))
            stored = max(stored, int(lists.lengths.max(initial=0)))
            rows = TargetRows.from_samples(task, train, max_recommendations, max_searches)
            targets = train.get_column("target_item").to_numpy().astype(np.int64)
            of_rows = {"users": rows.users, "queries": rows.queries, "targets": targets, "negatives": lists}
            return {**of_rows, **vars(rows.histories)}

        def parts() -> Iterator[dict[str, np.ndarray | Ragged]]:
            yield arrays(schema.SAMPLES.empty(), None)
            blocks = SampleBlocks.open(samples_folder, task, "train", PART_ROWS)
            for train, within in blocks.parts(columns=list(schema.SAMPLES.columns)):
                drawn = None if negatives is None else schema.TRAINING_NEGATIVES.read(negatives, within)
                for rows in train.iter_slices(_ROWS):
                    yield arrays(rows, drawn)

        found = mapped_parts(parts(), samples_folder)
        users, queries, targets, lists = (found.pop(name) for name in ("users", "queries", "targets", "negatives"))
        return cls(TargetRows(task, users, queries, TargetHistories(**found)), targets, lists, stored)

    @classmethod
    def none(cls, task: str) -> TrainingRows:
        """Return no rows."""
        rows = TargetRows.from_samples(task, schema.SAMPLES.empty(), 0, 0)
        return cls(rows, rows.users, Ragged.from_lengths(rows.users, rows.users), 0)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: np.ndarray, sampled: np.ndarray, device: torch.device) -> RowBatch:
        """Build a batch of rows: each target, its stored negatives, and ``sampled`` [rows, any] except the target."""
        targets = self.targets[rows, None]
        sampled = np.where(sampled == targets, -1, sampled)
        stored = self.negatives.take(rows).padded(self.stored, -1)
        return self.rows.batch(rows, np.concatenate([targets, stored, sampled], axis=1), device)

"""The leak audit: what a finished set of samples gives away, counted from its tables alone.

Nothing here shares code with how the tables are made, so a mistake there shows here.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import polars as pl

from gensar_core.runtime.arrays import Ragged
from gensar_core.schema import RECOMMENDED_ITEM, SEARCHED_ITEM, SEARCHED_QUERY, SPLITS, TASKS

#: Samples worked on at once; bounds memory, not results.
_SLICE = 1 << 17

#: More items than any catalogue has: user * _ITEMS + item is one number for the pair.
_ITEMS = 1 << 31
_PAIR = pl.col("user_id").cast(pl.Int64) * _ITEMS + pl.col("target_item")

_NO_ENTRIES = pl.DataFrame(
    schema={
        "sample_id": pl.Int64,
        "user_id": pl.Int32,
        "time": pl.Int64,
        "target_item": pl.Int32,
        "behavior": pl.UInt8,
    }
)
_MARKS = ("leaks", "repeats", "targets_in_own_input", "targets_of_unseen_users", "targets_of_unseen_items")
_TRAINING_MARKS = (*_MARKS, "inputs_with_held_out", "targets_held_out")
_EVALUATION_MARKS = (
    *_MARKS,
    "training_targets_of_other_task",
    "candidates_equal_target",
    "candidate_lists_short",
    "candidate_lists_missing",
)


class Audit:
    """Counts, over all samples of a data set, in which something is wrong or worth knowing; a report at the end.

    Samples are added with those of their users; what a user's samples give is a few marks each, and histories and
    candidate lists are worked on slice by slice.

    - ``samples``: all of them; ``leak_share`` is ``leaks`` over it.
    - ``leaks``: the target's item stands in the sample's own input more often than the user's earlier clicks account
      for, so an entry is from the target's time or after it.
    - ``repeats``: it stands there, and an earlier click on it accounts for that.
    - ``targets_in_own_input``: it stands there for either reason.
    - ``targets_of_unseen_users``, ``targets_of_unseen_items``: no training event has the user, or the item.
    - train, ``inputs_with_held_out``, ``targets_held_out``: the input holds a (user, item) pair, or the target is one,
      that is also a valid or test target of either task.
    - valid and test, ``training_targets_of_other_task``: the pair is also a training target of the other task.
    - valid and test, ``candidates_equal_target``, ``candidate_lists_short`` (of ``negatives``),
      ``candidate_lists_missing``: samples whose candidates are so.
    """

    def __init__(self, training_events: pl.LazyFrame, negatives: int) -> None:
        """``training_events`` are all there are, ``negatives`` how many each candidate list should hold."""
        self._users = _distinct(training_events, "user_id")
        self._items = _distinct(training_events, "item_id")
        self._negatives = negatives
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def add(self, events: pl.DataFrame, samples: pl.DataFrame, candidates: pl.DataFrame) -> None:
        """Count all samples of some users; ``events`` are all of these users', ``candidates`` at least the samples'."""
        evaluated = pl.col("split") != "train"
        rows = samples.select("sample_id", "task", "split", "user_id", "target_item", pair=_PAIR)
        held_out = rows.filter(evaluated)["pair"].unique().sort()
        trained = {task: rows.filter(~evaluated & (pl.col("task") == task))["pair"].unique() for task in TASKS}
        rows = rows.with_columns(
            targets_of_unseen_users=~pl.col("user_id").is_in(self._users.implode()),
            targets_of_unseen_items=~pl.col("target_item").is_in(self._items.implode()),
            targets_held_out=pl.col("pair").is_in(held_out.implode()),
            training_targets_of_other_task=pl.when(pl.col("task") == "rec")
            .then(pl.col("pair").is_in(trained["search"].implode()))
            .otherwise(pl.col("pair").is_in(trained["rec"].implode())),
        )
        for marks in (
            _input_marks(samples, events, held_out.to_numpy()),
            _candidate_marks(rows.filter(evaluated), candidates, self._negatives),
        ):
            rows = rows.join(marks, on="sample_id", how="left", maintain_order="left")
        for task, split in itertools.product(TASKS, SPLITS):
            own = rows.filter((pl.col("task") == task) & (pl.col("split") == split))
            self._counts[task, split, "samples"] += len(own)
            for mark in _marks(split):
                self._counts[task, split, mark] += int(own[mark].sum())

    def report(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Task -> split -> counts."""
        return {task: {split: self._report(task, split) for split in SPLITS} for task in TASKS}

    def _report(self, task: str, split: str) -> dict[str, Any]:
        counts: dict[str, Any] = {mark: self._counts[task, split, mark] for mark in ("samples", *_marks(split))}
        return counts | {"leak_share": round(counts["leaks"] / max(counts["samples"], 1), 6)}


def audit_time_split(training_events: pl.LazyFrame, samples: pl.LazyFrame) -> dict[str, int | None]:
    """What lies on the wrong side of a split by time; all counts are zero when the split is right.

    - ``valid_from``, ``test_from``: time of the first valid and of the first test target.
    - ``late_training_events``, ``late_training_targets``: at or after the first valid or test target's time.
    - ``late_valid_targets``: at or after the first test target's time.
    """
    begins = samples.group_by("split").agg(pl.col("time").min()).collect(engine="streaming")
    first = dict(begins.iter_rows())
    valid, test = first.get("valid"), first.get("test")
    held_out = min((time for time in (valid, test) if time is not None), default=None)
    return {
        "valid_from": valid,
        "test_from": test,
        "late_training_events": _count_from(training_events, held_out),
        "late_training_targets": _count_from(samples.filter(pl.col("split") == "train"), held_out),
        "late_valid_targets": _count_from(samples.filter(pl.col("split") == "valid"), test),
    }


def _distinct(table: pl.LazyFrame, name: str) -> pl.Series:
    """The values of a column, each once."""
    return table.select(pl.col(name).unique()).collect(engine="streaming").to_series()


def _count_from(rows: pl.LazyFrame, moment: int | None) -> int:
    """How many rows are at or after the moment; none when there is no such moment."""
    if moment is None:
        return 0
    return int(rows.filter(pl.col("time") >= moment).select(pl.len()).collect(engine="streaming").item())


def _marks(split: str) -> tuple[str, ...]:
    return _TRAINING_MARKS if split == "train" else _EVALUATION_MARKS


def _input_marks(samples: pl.DataFrame, events: pl.DataFrame, held_out: np.ndarray) -> pl.DataFrame:
    """What the inputs of samples hold: sample_id, leaks, repeats, targets_in_own_input, inputs_with_held_out.

    ``held_out`` are (user, item) pairs in ascending order.
    """
    holds, entries = [pl.DataFrame(schema={"sample_id": pl.Int64, "inputs_with_held_out": pl.Boolean})], [_NO_ENTRIES]
    for part in samples.iter_slices(_SLICE):
        inputs = Ragged.from_series(part["history_behavior"])
        is_item = inputs.values != SEARCHED_QUERY
        row, behavior = inputs.rows[is_item], inputs.values[is_item]
        item = Ragged.from_series(part["history_object"]).values[is_item]
        held = _holds(part["user_id"].to_numpy(), row, item, held_out)
        holds.append(part.select("sample_id", inputs_with_held_out=pl.Series(held)))
        own = item == part["target_item"].to_numpy()[row]
        targets = part.select("sample_id", "user_id", "time", "target_item")[row[own]]
        entries.append(targets.with_columns(behavior=pl.Series(behavior[own], dtype=pl.UInt8)))
    return pl.concat(holds).join(_own_item(pl.concat(entries), events), on="sample_id", how="left")


def _own_item(entries: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """sample_id, leaks, repeats and targets_in_own_input of the samples whose input holds the target's item.

    ``entries`` are those entries of inputs that are the target's item: what `_NO_ENTRIES` has.
    """
    identity = ["sample_id", "behavior"]
    counted = entries.group_by(*identity, "user_id", "time", "target_item").agg(entries=pl.len())
    clicks = events.lazy().select(
        "user_id",
        target_item="item_id",
        clicked="time",
        behavior=pl.when(pl.col("task") == "rec").then(RECOMMENDED_ITEM).otherwise(SEARCHED_ITEM).cast(pl.UInt8),
    )
    earlier = (
        counted.lazy()
        .join(clicks, on=["user_id", "target_item", "behavior"])
        .filter(pl.col("clicked") < pl.col("time"))
        .group_by(identity)
        .agg(earlier=pl.len())
        .collect(engine="streaming")
    )
    return (
        counted.join(earlier, on=identity, how="left")
        .with_columns(pl.col("earlier").fill_null(0))
        .group_by("sample_id")
        .agg(
            leaks=(pl.col("entries") > pl.col("earlier")).any(),
            repeats=(pl.col("earlier") > 0).any(),
            targets_in_own_input=pl.lit(True),
        )
    )


def _holds(users: np.ndarray, row: np.ndarray, item: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Whether each user [rows] has one of the ``pairs`` (ascending) among the items of its row, bool [rows].

    ``row`` and ``item`` are [entries].
    """
    codes = users.astype(np.int64)[row] * _ITEMS + item
    place = np.searchsorted(pairs, codes).clip(max=max(len(pairs) - 1, 0))
    hit = row[pairs[place] == codes] if len(pairs) else row[:0]
    holds: np.ndarray = np.bincount(hit, minlength=len(users)) > 0
    return holds


def _candidate_marks(evaluated: pl.DataFrame, candidates: pl.DataFrame, negatives: int) -> pl.DataFrame:
    """sample_id and what is wrong with the candidates of each valid and test sample."""
    targets = evaluated.select("sample_id", "target_item")
    marks = [
        part.join(targets, on="sample_id", how="inner").select(
            "sample_id",
            candidates_equal_target=pl.col("negatives").list.contains(pl.col("target_item")),
            candidate_lists_short=pl.col("negatives").list.len() < negatives,
            candidate_lists_missing=False,
        )
        for part in candidates.iter_slices(_SLICE)
    ]
    names = ("candidates_equal_target", "candidate_lists_short", "candidate_lists_missing")
    empty = pl.DataFrame(schema={"sample_id": pl.Int64, **dict.fromkeys(names, pl.Boolean)})
    found = pl.concat([empty, *marks])
    return (
        targets.select("sample_id")
        .join(found, on="sample_id", how="left")
        .with_columns(pl.col("candidate_lists_missing").fill_null(True))
    )

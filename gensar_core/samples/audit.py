"""The leak audit: what a finished set of samples gives away, counted from its tables alone.

Nothing here shares code with how the tables are made, so a mistake there shows here.
"""

from __future__ import annotations

from collections.abc import Iterator
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

_MARKS = ("leaks", "repeats", "targets_of_unseen_users", "targets_of_unseen_items")
_TRAINING_MARKS = (*_MARKS, "inputs_with_held_out", "targets_held_out")
_EVALUATION_MARKS = (
    *_MARKS,
    "training_targets_of_other_task",
    "candidates_equal_target",
    "candidate_lists_short",
    "candidate_lists_missing",
)


def audit(
    events: pl.DataFrame,
    training_events: pl.DataFrame,
    samples: pl.DataFrame,
    candidates: pl.DataFrame,
    *,
    negatives: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Task -> split -> counts of samples in which something is wrong or worth knowing.

    - ``samples``: all of them; ``leak_share`` is ``leaks`` over it.
    - ``leaks``: the target's item stands in the sample's own input more often than the user's earlier clicks account
      for, so an entry is from the target's time or after it.
    - ``repeats``: it stands there, and an earlier click on it accounts for that.
    - ``targets_of_unseen_users``, ``targets_of_unseen_items``: no training event has the user, or the item.
    - train, ``inputs_with_held_out``, ``targets_held_out``: the input holds a (user, item) pair, or the target is one,
      that is also a valid or test target of either task.
    - valid and test, ``training_targets_of_other_task``: the pair is also a training target of the other task.
    - valid and test, ``candidates_equal_target``, ``candidate_lists_short`` (of ``negatives``),
      ``candidate_lists_missing``: samples whose candidates are so.
    """
    samples = samples.sort("sample_id")
    evaluated = pl.col("split") != "train"
    rows = samples.select("sample_id", "task", "split", "user_id", "target_item", pair=_PAIR)
    held_out = rows.filter(evaluated)["pair"].unique().sort()
    trained = {task: rows.filter(~evaluated & (pl.col("task") == task))["pair"].unique() for task in TASKS}
    rows = rows.with_columns(
        inputs_with_held_out=_inputs_with(samples, held_out.to_numpy()),
        targets_of_unseen_users=~pl.col("user_id").is_in(training_events["user_id"].unique().implode()),
        targets_of_unseen_items=~pl.col("target_item").is_in(training_events["item_id"].unique().implode()),
        targets_held_out=pl.col("pair").is_in(held_out.implode()),
        training_targets_of_other_task=pl.when(pl.col("task") == "rec")
        .then(pl.col("pair").is_in(trained["search"].implode()))
        .otherwise(pl.col("pair").is_in(trained["rec"].implode())),
    )
    for marks in (_own_item(samples, events), _candidate_marks(rows.filter(evaluated), candidates, negatives)):
        rows = rows.join(marks, on="sample_id", how="left", maintain_order="left")
    return {
        task: {
            split: _counts(rows.filter((pl.col("task") == task) & (pl.col("split") == split)), split)
            for split in SPLITS
        }
        for task in TASKS
    }


def _counts(rows: pl.DataFrame, split: str) -> dict[str, Any]:
    marks = _TRAINING_MARKS if split == "train" else _EVALUATION_MARKS
    counts: dict[str, Any] = {"samples": len(rows), **{mark: int(rows[mark].sum()) for mark in marks}}
    return counts | {"leak_share": round(counts["leaks"] / max(len(rows), 1), 6)}


def _item_entries(samples: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, np.ndarray, np.ndarray, np.ndarray]]:
    """Slices of the samples, with the item entries of their inputs: row in the slice, behavior, item [entries]."""
    for part in samples.iter_slices(_SLICE):
        behavior = Ragged.from_series(part["history_behavior"])
        items = Ragged.from_series(part["history_object"])
        is_item = behavior.values != SEARCHED_QUERY
        yield part, items.rows[is_item], behavior.values[is_item], items.values[is_item]


def _own_item(samples: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """sample_id, leaks and repeats of the samples whose input holds the target's item."""
    found = [samples.clear().select("sample_id", "user_id", "time", "target_item", behavior=pl.lit(0, pl.UInt8))]
    for part, row, behavior, item in _item_entries(samples):
        own = item == part["target_item"].to_numpy()[row]
        entries = part.select("sample_id", "user_id", "time", "target_item")[row[own]]
        found.append(entries.with_columns(behavior=pl.Series(behavior[own], dtype=pl.UInt8)))
    identity = ["sample_id", "behavior"]
    entries = pl.concat(found).group_by(*identity, "user_id", "time", "target_item").agg(entries=pl.len())
    clicks = events.select(
        "user_id",
        target_item="item_id",
        clicked="time",
        behavior=pl.when(pl.col("task") == "rec").then(RECOMMENDED_ITEM).otherwise(SEARCHED_ITEM).cast(pl.UInt8),
    )
    earlier = (
        entries.join(clicks, on=["user_id", "target_item", "behavior"])
        .filter(pl.col("clicked") < pl.col("time"))
        .group_by(identity)
        .agg(earlier=pl.len())
    )
    return (
        entries.join(earlier, on=identity, how="left")
        .with_columns(pl.col("earlier").fill_null(0))
        .group_by("sample_id")
        .agg(leaks=(pl.col("entries") > pl.col("earlier")).any(), repeats=(pl.col("earlier") > 0).any())
    )


def _inputs_with(samples: pl.DataFrame, pairs: np.ndarray) -> pl.Series:
    """Whether each sample's input holds one of these (user, item) pairs (ascending)."""
    holds = [pl.Series([], dtype=pl.Boolean)]
    for part, row, _, item in _item_entries(samples):
        codes = part["user_id"].to_numpy().astype(np.int64)[row] * _ITEMS + item
        place = np.searchsorted(pairs, codes).clip(max=max(len(pairs) - 1, 0))
        hit = row[pairs[place] == codes] if len(pairs) else row[:0]
        holds.append(pl.Series(np.bincount(hit, minlength=len(part)) > 0))
    return pl.concat(holds)


def _candidate_marks(evaluated: pl.DataFrame, candidates: pl.DataFrame, negatives: int) -> pl.DataFrame:
    """sample_id and what is wrong with the candidates of each valid and test sample."""
    return (
        evaluated.select("sample_id", "target_item")
        .join(candidates, on="sample_id", how="left", maintain_order="left")
        .select(
            "sample_id",
            candidates_equal_target=pl.col("negatives").list.contains(pl.col("target_item")),
            candidate_lists_short=pl.col("negatives").list.len() < negatives,
            candidate_lists_missing=pl.col("negatives").is_null(),
        )
    )

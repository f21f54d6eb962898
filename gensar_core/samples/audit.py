"""Count the leaks of a finished set of samples, from its tables alone.

Nothing here shares code with the building of the tables, so a mistake there shows here.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import polars as pl

from gensar_core.runtime.arrays import Ragged
from gensar_core.schema import RECOMMENDED_ITEM, SEARCHED_ITEM, SEARCHED_QUERY, SPLITS, TASKS

#: Samples processed at once; limits memory, does not affect results.
_SLICE = 1 << 17

#: More items than any catalogue has, so that user * _ITEMS + item identifies the pair.
_ITEMS = 1 << 31


def _pair(item: str) -> pl.Expr:
    """Encode user and item of a row in one number; ``item`` names the column of the item."""
    return pl.col("user_id").cast(pl.Int64) * _ITEMS + pl.col(item)


#: Behavior code of an event in an input.
_BEHAVIOR = pl.when(pl.col("task") == "rec").then(RECOMMENDED_ITEM).otherwise(SEARCHED_ITEM).cast(pl.UInt8)

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
_MEMBERSHIP = ("only_candidate_in_history", "only_candidate_not_in_history")
_EVALUATION_MARKS = (
    *_MARKS,
    "clicked_before",
    "clicked_before_but_untrained",
    "training_targets_of_other_task",
    "targets_with_later_training",
    "later_training_events",
    "targets_with_future_of_others",
    *_MEMBERSHIP,
    "candidates_equal_target",
    "candidate_lists_short",
    "candidate_lists_missing",
)


class Audit:
    """Count the samples of a data set that have a fault or another property worth knowing, and report the counts.

    All samples of a user are added together; each sample is reduced to a few marks, and histories and candidate lists
    are processed slice by slice.

    - ``samples``: all samples; ``leak_share`` is ``leaks`` over it, ``later_training_share`` is
      ``targets_with_later_training`` over it, and ``future_of_others_share`` is
      ``targets_with_future_of_others`` over it.
    - ``leaks``: the target's item is in the sample's own input more often than the user's earlier clicks account for,
      so an entry is from the target's time or later.
    - ``repeats``: the target's item is in the input, and an earlier click on it accounts for that.
    - ``targets_in_own_input``: the target's item is in the input for either reason.
    - ``targets_of_unseen_users``, ``targets_of_unseen_items``: no training event has the user, or the item.
    - train, ``inputs_with_held_out``: the input holds the item of a valid or test target of the user, of either task,
      more often than the user's clicks before that target account for; ``targets_held_out``: the training target is on
      such an item, at the time of that valid or test target or later.
    - valid and test, ``clicked_before``: the user clicked the item earlier, in either task, whether or not the input
      reaches back that far; ``clicked_before_but_untrained``: and none of the user's clicks on it is in training.
    - valid and test, ``training_targets_of_other_task``: a training target of the other task has the same user and
      item, at the target's time or later.
    - valid and test, ``targets_with_later_training``: a training event of the user, of either task, is later than the
      target; ``later_training_events``: the number of such events, summed over the targets.
    - valid and test, ``targets_with_future_of_others``: a training event of another user is later than the
      target, so a model may know what was clicked after it. A split by time has no such target (Ji et al., 2023).
    - valid and test, ``only_candidate_in_history``: of all candidates, only the target is in the input;
      ``only_candidate_not_in_history``: only the target is not. Either picks out the target without a model.
    - valid and test, ``candidates_equal_target``: the target is among its negatives; ``candidate_lists_short``: the
      list has fewer than ``negatives``; ``candidate_lists_missing``: there is no list.
    """

    def __init__(self, training_events: pl.LazyFrame, negatives: int) -> None:
        """Take all ``training_events``, and the number of ``negatives`` that each candidate list should hold."""
        self._training = training_events.select("user_id", "time", pair=_pair("item_id"))
        self._users = _trained(training_events, "user_id")
        self._items = _trained(training_events, "item_id")
        self._last = _last_events(training_events)
        self._negatives = negatives
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def add(self, events: pl.DataFrame, samples: pl.DataFrame, candidates: pl.DataFrame) -> None:
        """Count all samples of some users, given all their events and at least the samples' candidate lists."""
        evaluated = pl.col("split") != "train"
        rows = samples.select("sample_id", "task", "split", "user_id", "time", "target_item", pair=_pair("target_item"))
        # The first valid or test target on each pair: any event on the pair from then on reveals it.
        held_out = rows.filter(evaluated).group_by("pair").agg(held_from=pl.col("time").min()).sort("pair")
        rows = rows.join(held_out, on="pair", how="left", maintain_order="left").with_columns(
            targets_of_unseen_users=_unseen(rows["user_id"], self._users),
            targets_of_unseen_items=_unseen(rows["target_item"], self._items),
            targets_held_out=(pl.col("time") >= pl.col("held_from")).fill_null(False),
            targets_with_future_of_others=pl.any_horizontal(
                pl.lit(False),
                *((pl.col("user_id") != user) & (pl.col("time") < time) for user, time in self._last),
            ),
        )
        users = events.select(first=pl.col("user_id").min(), last=pl.col("user_id").max())
        training = self._training.filter(pl.col("user_id").is_between(*users.row(0))).collect()
        for marks in (
            _input_marks(samples, events, held_out),
            _training_marks(rows, events, training),
            _candidate_marks(samples.filter(evaluated), candidates, self._negatives),
        ):
            rows = rows.join(marks, on="sample_id", how="left", maintain_order="left")
        for task, split in itertools.product(TASKS, SPLITS):
            group = rows.filter((pl.col("task") == task) & (pl.col("split") == split))
            self._counts[task, split, "samples"] += len(group)
            for mark in _marks(split):
                self._counts[task, split, mark] += int(group[mark].sum())

    def report(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the counts, as task -> split -> name -> count."""
        return {task: {split: self._report(task, split) for split in SPLITS} for task in TASKS}

    def _report(self, task: str, split: str) -> dict[str, Any]:
        counts: dict[str, Any] = {mark: self._counts[task, split, mark] for mark in ("samples", *_marks(split))}
        shares = {"leak_share": "leaks"}
        if split != "train":
            shares["later_training_share"] = "targets_with_later_training"
            shares["future_of_others_share"] = "targets_with_future_of_others"
        return counts | {name: round(counts[of] / max(counts["samples"], 1), 6) for name, of in shares.items()}


def audit_time_split(training_events: pl.LazyFrame, samples: pl.LazyFrame) -> dict[str, int | None]:
    """Count the rows on the wrong side of a split by time; all counts are zero when the split is right.

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


def _trained(training_events: pl.LazyFrame, name: str) -> np.ndarray:
    """Mark the users or items of training events, bool [ids up to the largest, and one for all others]."""
    ids = training_events.select(pl.col(name).unique()).collect(engine="streaming").to_series().to_numpy()
    trained = np.zeros(int(ids.max(initial=-1)) + 2, dtype=bool)
    trained[ids] = True
    return trained


def _unseen(ids: pl.Series, trained: np.ndarray) -> pl.Series:
    """Return which users or items are not marked."""
    return pl.Series(~trained[np.minimum(ids.to_numpy(), len(trained) - 1)])


def _last_events(training_events: pl.LazyFrame) -> list[tuple[int, int]]:
    """Return the users whose last training events are the two latest, and their times: of any user, one is another."""
    last = training_events.group_by("user_id").agg(pl.col("time").max()).top_k(2, by=["time", "user_id"])
    return last.select("user_id", "time").collect(engine="streaming").rows()


def _count_from(rows: pl.LazyFrame, moment: int | None) -> int:
    """Count the rows at or after the moment; 0 without a moment."""
    if moment is None:
        return 0
    return int(rows.filter(pl.col("time") >= moment).select(pl.len()).collect(engine="streaming").item())


def _marks(split: str) -> tuple[str, ...]:
    return _TRAINING_MARKS if split == "train" else _EVALUATION_MARKS


def _input_marks(samples: pl.DataFrame, events: pl.DataFrame, held_out: pl.DataFrame) -> pl.DataFrame:
    """Mark samples by their inputs: sample_id, leaks, repeats, targets_in_own_input, inputs_with_held_out.

    ``held_out`` holds the pairs of valid and test targets, ascending, and the time ``held_from`` of each pair's first.
    """
    pairs, accounted = held_out["pair"].to_numpy(), _clicks_before(held_out, events)
    holds, entries = [pl.DataFrame(schema={"sample_id": pl.Int64, "inputs_with_held_out": pl.Boolean})], [_NO_ENTRIES]
    for part in samples.iter_slices(_SLICE):
        inputs = Ragged.from_series(part["history_behavior"])
        is_item = inputs.values != SEARCHED_QUERY
        row, behavior = inputs.rows[is_item], inputs.values[is_item]
        item = Ragged.from_series(part["history_object"]).values[is_item]
        held = _holds(part["user_id"].to_numpy(), row, item, behavior, pairs, accounted)
        holds.append(part.select("sample_id", inputs_with_held_out=pl.Series(held)))
        is_target = item == part["target_item"].to_numpy()[row]
        targets = part.select("sample_id", "user_id", "time", "target_item")[row[is_target]]
        entries.append(targets.with_columns(behavior=pl.Series(behavior[is_target], dtype=pl.UInt8)))
    return pl.concat(holds).join(_target_marks(pl.concat(entries), events), on="sample_id", how="left")


def _target_marks(entries: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Mark samples whose input holds the target's item: sample_id, leaks, repeats, targets_in_own_input.

    ``entries`` has a row for each place of an input that holds the target's item, with the columns of `_NO_ENTRIES`.
    """
    identity = ["sample_id", "behavior"]
    counted = entries.group_by(*identity, "user_id", "time", "target_item").agg(entries=pl.len())
    clicks = events.lazy().select("user_id", target_item="item_id", clicked="time", behavior=_BEHAVIOR)
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


def _clicks_before(held_out: pl.DataFrame, events: pl.DataFrame) -> np.ndarray:
    """Count the user's clicks on the item of each pair before its first target, int64 [pairs, 2]: rec, search."""
    clicks = events.select(pair=_pair("item_id"), clicked="time", behavior=_BEHAVIOR)
    cells = (
        held_out.lazy()
        .with_row_index("place")
        .join(clicks.lazy(), on="pair")
        .filter(pl.col("clicked") < pl.col("held_from"))
        .select(pl.col("place").cast(pl.Int64) * 2 + (pl.col("behavior") == SEARCHED_ITEM))
        .collect(engine="streaming")
    )
    counts: np.ndarray = np.bincount(cells.to_series().to_numpy(), minlength=2 * len(held_out)).reshape(-1, 2)
    return counts


def _holds(
    users: np.ndarray, row: np.ndarray, item: np.ndarray, behavior: np.ndarray, pairs: np.ndarray, accounted: np.ndarray
) -> np.ndarray:
    """Return whether each input holds one of the ``pairs`` more often than is accounted for, bool [rows].

    ``users`` [rows] are the inputs' users; ``row``, ``item`` and ``behavior`` [items] are the items of all inputs.
    ``pairs`` [pairs] is ascending; ``accounted`` [pairs, 2]: rec, search.
    """
    holds = np.zeros(len(users), dtype=bool)
    if not len(pairs):
        return holds
    codes = users.astype(np.int64)[row] * _ITEMS + item
    place = np.searchsorted(pairs, codes).clip(max=len(pairs) - 1)
    hit = pairs[place] == codes
    cells = (row[hit] * len(pairs) + place[hit]) * 2 + (behavior[hit] == SEARCHED_ITEM)
    cells, counts = np.unique(cells, return_counts=True)
    more = counts > accounted.ravel()[cells % (2 * len(pairs))]
    holds[cells[more] // (2 * len(pairs))] = True
    return holds


def _training_marks(rows: pl.DataFrame, events: pl.DataFrame, training: pl.DataFrame) -> pl.DataFrame:
    """Mark valid and test samples by their user's training: sample_id and one column for each mark.

    ``rows`` are all samples of some users, with their ``pair``; ``events`` are all events of these users; ``training``
    their training events: user_id, time and pair.
    """
    first = events.group_by(pair=_pair("item_id")).agg(clicked=pl.col("time").min())
    last = rows.filter(pl.col("split") == "train").group_by("task", "pair").agg(trained=pl.col("time").max())
    other = dict(zip(TASKS, reversed(TASKS), strict=True))
    last = last.with_columns(pl.col("task").replace_strict(other, return_dtype=last.schema["task"]))
    evaluated = rows.filter(pl.col("split") != "train").select("sample_id", "task", "user_id", "time", "pair")
    before = (pl.col("clicked") < pl.col("time")).fill_null(False)
    later = pl.Series(_later(evaluated, training), dtype=pl.Int64)
    return (
        evaluated.join(first, on="pair", how="left", maintain_order="left")
        .join(last, on=["task", "pair"], how="left", maintain_order="left")
        .select(
            "sample_id",
            clicked_before=before,
            clicked_before_but_untrained=before & ~pl.col("pair").is_in(training["pair"].unique().implode()),
            training_targets_of_other_task=(pl.col("trained") >= pl.col("time")).fill_null(False),
            targets_with_later_training=later > 0,
            later_training_events=later,
        )
    )


def _later(targets: pl.DataFrame, training: pl.DataFrame) -> np.ndarray:
    """Count the user's training events later than each target, int64 [targets]."""
    moments = np.unique(training["time"].to_numpy())
    width = len(moments) + 1

    def codes(frame: pl.DataFrame) -> np.ndarray:
        # The user in the upper digit, the number of moments at or before the row's time in the lower.
        users, times = frame["user_id"].to_numpy().astype(np.int64), frame["time"].to_numpy()
        return users * width + np.searchsorted(moments, times, side="right")

    event_codes, target_codes = np.sort(codes(training)), codes(targets)
    ends = np.searchsorted(event_codes, (target_codes // width + 1) * width)
    later: np.ndarray = ends - np.searchsorted(event_codes, target_codes, side="right")
    return later


def _candidate_marks(evaluated: pl.DataFrame, candidates: pl.DataFrame, negatives: int) -> pl.DataFrame:
    """Mark valid and test samples by their candidates: sample_id and one column for each mark; null means no.

    ``evaluated`` are those samples, with their inputs.
    """
    marks = []
    for part in candidates.iter_slices(_SLICE):
        lists = part.join(evaluated, on="sample_id", how="inner")
        faults = lists.select(
            "sample_id",
            candidates_equal_target=pl.col("negatives").list.contains(pl.col("target_item")),
            candidate_lists_short=pl.col("negatives").list.len() < negatives,
            candidate_lists_missing=False,
        )
        marks.append(faults.join(_membership_marks(lists), on="sample_id", how="left"))
    names = ("candidates_equal_target", "candidate_lists_short", "candidate_lists_missing", *_MEMBERSHIP)
    empty = pl.DataFrame(schema={"sample_id": pl.Int64, **dict.fromkeys(names, pl.Boolean)})
    marked = evaluated.select("sample_id").join(pl.concat([empty, *marks]), on="sample_id", how="left")
    return marked.with_columns(pl.col("candidate_lists_missing").fill_null(True))


def _membership_marks(lists: pl.DataFrame) -> pl.DataFrame:
    """Mark samples whose target is the only candidate in the input, or the only one not in it: sample_id, both marks.

    ``lists`` are samples with their inputs and ``negatives``. Samples without either mark may be missing.
    """
    count, shown = pl.col("negatives").list.len(), pl.col("shown")
    # Short inputs cannot hold all negatives, and few inputs hold the target, so most lists need no comparison.
    possible = pl.col("history_object").list.contains(pl.col("target_item"))
    possible |= pl.col("history_object").list.len() >= count
    lists = lists.filter((count > 0) & possible)
    is_item = Ragged.from_series(lists["history_behavior"]).values != SEARCHED_QUERY
    items = Ragged.from_series(lists["history_object"]).filter(is_item).to_series("items", pl.Int32())
    target_shown = pl.col("items").list.contains(pl.col("target_item"))
    return (
        lists.with_columns(items)
        .with_columns(shown=pl.col("negatives").list.set_intersection("items").list.len())
        .select(
            "sample_id",
            only_candidate_in_history=target_shown & (shown == 0),
            only_candidate_not_in_history=~target_shown & (shown == count),
        )
    )

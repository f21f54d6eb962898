"""Select the clicks to predict, and split them into train, valid and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gensar_core.config.datasets import SampleSettings
from gensar_core.samples.events import EventLog
from gensar_core.samples.histories import Histories
from gensar_core.schema import SPLITS, TASKS

TRAIN, VALID, TEST = range(len(SPLITS))
_NOT_A_TARGET = -1
#: Reasons to drop a target of the train split, of which the first that applies is counted: the strict protocol
#: withholds it, the training cut-off withholds it, its item is cold, or it is left without one of its histories.
DROPPED = ("held_out", "after_cutoff", "cold", "without_history")


@dataclass(frozen=True)
class Selection:
    """Hold the targets of a data set and the events that training may see.

    ``targets`` maps (task, split) to rows of the log, in event order. ``training`` bool [events] marks the training
    events, ``shown`` bool [events] the events that inputs of training samples may hold. ``counts`` are the counts for
    the stage's record.
    """

    targets: Mapping[tuple[str, str], np.ndarray]
    training: np.ndarray
    shown: np.ndarray
    counts: Mapping[str, int]


def select_targets(
    log: EventLog,
    settings: SampleSettings,
    moments: np.ndarray | None = None,
    *,
    searching: bool = True,
    cold: np.ndarray | None = None,
) -> Selection:
    """Select the targets of both tasks and split them by leave-one-out or by time.

    ``log`` holds all events of some users. ``moments`` are the two moments of a split by time, computed from the
    targets of all users; without them, ``log`` must hold all users.

    A target is a click whose history holds a recommendation click and, where the data set has searches
    (``searching``), a search session. With
    ``split: leave_one_out``, the last of a user's targets of one task is test, the one before it valid, and the rest
    train; a user with fewer than ``min_targets`` of a task has none of that task. With ``split: time``, the targets of
    all users and both tasks are split at the same two moments (`moments_of_split`), and training sees no event at or
    after the first moment.

    Under the strict protocol, training never sees a valid or test target of either task, its twin at the same moment,
    or a later click of the user on its item: neither as a target, nor in an input, nor among the training events.
    Earlier clicks on the item stay: if genuine earlier clicks were removed, their absence would reveal the target. With
    ``training_cutoff: per_user``, under either protocol, training sees nothing later than a user's first valid or test
    target. Nor does training see any event on an item marked in ``cold`` bool [items] (None: none). A training target
    left without one of its histories is dropped. A log without targets yields an empty selection.
    """
    complete = Histories(log, settings.history_protocol).complete(log, searching=searching)
    if settings.split != "time":
        moments = None
    elif moments is None:
        moments = moments_of_split(log.time[complete], settings.time_shares)
    counts: dict[str, int] = {}
    early = np.ones(len(log), dtype=bool)
    if moments is not None and len(moments):
        counts = {"valid_from": int(moments[0]), "test_from": int(moments[1])}
        early = log.time < moments[0]
    targets: dict[tuple[str, str], np.ndarray] = {}
    for task in TASKS:
        rows = np.flatnonzero(complete & (log.searched == (task == "search")))
        if moments is None:
            parts = leave_one_out(log.user[rows], settings.min_targets)
        else:
            parts = at_moments(log.time[rows], moments)
        counts[f"{task}_with_both_histories"] = len(rows)
        counts[f"{task}_users"] = len(np.unique(log.user[rows[parts != _NOT_A_TARGET]]))
        # Counts of the split itself, before training targets are dropped.
        counts[f"{task}_targets"] = int((parts != _NOT_A_TARGET).sum())
        counts[f"{task}_train_split"] = int((parts == TRAIN).sum())
        targets |= {(task, split): rows[parts == part] for part, split in enumerate(SPLITS)}
    held_out = np.zeros(len(log), dtype=bool)
    for (_, split), rows in targets.items():
        held_out[rows] |= split != "train"
    revealing, late = _withheld(log, held_out, settings)
    of_cold = np.zeros(len(log), dtype=bool) if cold is None else cold[log.item]
    shown = early & ~revealing & ~late & ~of_cold
    histories = Histories(log.take(shown), settings.history_protocol)
    for task in TASKS:
        rows = targets[task, "train"]
        remaining = np.ones(len(rows), dtype=bool)
        complete = histories.complete(log.take(rows), searching=searching)
        tests = (~revealing[rows], ~late[rows], ~of_cold[rows], complete)
        for reason, passed in zip(DROPPED, tests, strict=True):
            counts[f"{task}_train_dropped_{reason}"] = int((remaining & ~passed).sum())
            remaining &= passed
        targets[task, "train"] = rows[remaining]
    counts |= {f"{task}_{split}": len(rows) for (task, split), rows in targets.items()}
    return Selection(targets, shown & ~held_out, shown, counts)


def moments_of_split(times: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Return the times at which valid and test begin, int64 [2]; empty for fewer than three distinct times.

    ``times`` [targets] may be in any order. Valid begins at the distinct time whose earlier targets come nearest to the
    first share of all targets; test begins at the one whose earlier targets come nearest to the first two shares. No
    part is empty; of two equally near times, the earlier is chosen.
    """
    return moments_of_counts(*np.unique(times, return_counts=True), shares)


def moments_of_counts(moments: np.ndarray, counts: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Compute `moments_of_split` from the distinct times in ascending order and the number of targets at each."""
    if len(moments) < len(SPLITS):
        return moments[:0]
    total = int(counts.sum())
    earlier = np.cumsum(counts) - counts
    valid = 1 + int(np.abs(earlier[1:-1] - shares[0] * total).argmin())
    test = valid + 1 + int(np.abs(earlier[valid + 1 :] - (shares[0] + shares[1]) * total).argmin())
    begins: np.ndarray = moments[[valid, test]]
    return begins


def at_moments(times: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Return the split of each time, given the moments of `moments_of_split`; -1 for all without moments."""
    if not len(moments):
        return np.full(len(times), _NOT_A_TARGET)
    parts: np.ndarray = np.searchsorted(moments, times, side="right")
    return parts


def leave_one_out(users: np.ndarray, min_targets: int) -> np.ndarray:
    """Split targets, given their users [targets] in event order: the split of each, -1 for users with too few."""
    if not len(users):
        return np.zeros(0, dtype=np.int64)
    begins = np.flatnonzero(np.diff(users, prepend=users[0] - 1))
    counts = np.diff(begins, append=len(users))
    from_end = np.repeat(begins + counts, counts) - np.arange(len(users))
    parts = np.select([from_end == 1, from_end == 2], [TEST, VALID], TRAIN)
    return np.where(np.repeat(counts, counts) >= min_targets, parts, _NOT_A_TARGET)


def _withheld(log: EventLog, held_out: np.ndarray, settings: SampleSettings) -> tuple[np.ndarray, np.ndarray]:
    """Mark the events withheld from training by the strict protocol, and those withheld by the cut-off; bool [events].

    ``held_out`` bool [events] marks the valid and test targets of both tasks.
    """
    revealing, late = np.zeros((2, len(log)), dtype=bool)
    if settings.history_protocol == "strict":
        revealing = log.time >= _first_held_out(log.pairs, log.time, held_out)
    if settings.training_cutoff == "per_user":
        late = log.time > _first_held_out(log.user, log.time, held_out)
    return revealing, late


def _first_held_out(keys: np.ndarray, times: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Return the time of the first held-out target with each event's key, int64 [events]; the int64 maximum if none.

    ``keys`` and ``times`` [events] are in event order; ``held_out`` bool [events] marks the valid and test targets. A
    key belongs to one user.
    """
    held, first = np.unique(keys[held_out], return_index=True)
    # A user's events are in time order, so the first with a key is the earliest. The last row is for keys without one.
    moments = np.append(times[held_out][first], np.iinfo(np.int64).max)
    place = np.searchsorted(held, keys)
    has_target = np.append(held, -1)[place] == keys
    first_times: np.ndarray = moments[np.where(has_target, place, len(held))]
    return first_times

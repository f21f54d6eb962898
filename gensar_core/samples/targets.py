"""Which clicks are to be predicted, and which of them train, validate and test."""

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
#: Why a target that the split gives to train is dropped, the first reason that applies: the strict protocol withholds
#: it, or the cut-off does, or too little is left of its history.
DROPPED = ("held_out", "after_cutoff", "without_history")


@dataclass(frozen=True)
class Selection:
    """The targets of a data set and what training may see.

    ``targets`` maps (task, split) to rows of the log, in event order. ``training`` bool [events] says which events
    training may use, ``shown`` bool [events] which of them the inputs of training rows may hold.
    """

    targets: Mapping[tuple[str, str], np.ndarray]
    training: np.ndarray
    shown: np.ndarray
    figures: Mapping[str, int]


def select_targets(log: EventLog, settings: SampleSettings, moments: np.ndarray | None = None) -> Selection:
    """Targets of both tasks, split by leaving one out or at two moments.

    ``log`` holds all events of some users. ``moments`` are those of all users' targets, for a split by time; without
    them the users are all there are.

    A target is a click whose history shows both a recommendation click and a search session. With
    ``split: leave_one_out``, of a user's targets of one task the last is test, the one before it valid, the rest train;
    a user with fewer than ``min_targets`` has none. With ``split: time``, the targets of all users and both tasks part
    at the same two moments (`moments_of_split`), and training sees no event from the first of them on.

    Under the strict protocol, training never meets a valid or test target of either task, its twin at the same moment,
    or a later click of the user on its item: neither as a target, nor in an input, nor among the training events. What
    the user clicked before stays: to take genuine earlier clicks away would make their absence tell the target. With
    ``training_cutoff: per_user``, under either protocol, nothing later than a user's first valid or test target is for
    training. A training target that this leaves without one of its histories is dropped. A log that gives no targets
    gives a selection without any.
    """
    both_sides = Histories(log, settings.history_protocol).both_sides(log)
    if settings.split != "time":
        moments = None
    elif moments is None:
        moments = moments_of_split(log.time[both_sides], settings.time_shares)
    figures: dict[str, int] = {}
    early = np.ones(len(log), dtype=bool)
    if moments is not None and len(moments):
        figures = {"valid_from": int(moments[0]), "test_from": int(moments[1])}
        early = log.time < moments[0]
    targets: dict[tuple[str, str], np.ndarray] = {}
    for task in TASKS:
        rows = np.flatnonzero(both_sides & (log.searched == (task == "search")))
        if moments is None:
            parts = leave_one_out(log.user[rows], settings.min_targets)
        else:
            parts = at_moments(log.time[rows], moments)
        figures[f"{task}_with_both_histories"] = len(rows)
        figures[f"{task}_users"] = len(np.unique(log.user[rows[parts != _NOT_A_TARGET]]))
        # What the split gives, before the strict protocol drops training targets.
        figures[f"{task}_targets"] = int((parts != _NOT_A_TARGET).sum())
        figures[f"{task}_train_split"] = int((parts == TRAIN).sum())
        targets |= {(task, split): rows[parts == part] for part, split in enumerate(SPLITS)}
    held_out = np.zeros(len(log), dtype=bool)
    for (_, split), rows in targets.items():
        held_out[rows] |= split != "train"
    told, late = _withheld(log, held_out, settings)
    shown = early & ~told & ~late
    histories = Histories(log.take(shown), settings.history_protocol)
    for task in TASKS:
        rows = targets[task, "train"]
        kept = np.ones(len(rows), dtype=bool)
        tests = (~told[rows], ~late[rows], histories.both_sides(log.take(rows)))
        for why, passed in zip(DROPPED, tests, strict=True):
            figures[f"{task}_train_dropped_{why}"] = int((kept & ~passed).sum())
            kept &= passed
        targets[task, "train"] = rows[kept]
    figures |= {f"{task}_{split}": len(rows) for (task, split), rows in targets.items()}
    return Selection(targets, shown & ~held_out, shown, figures)


def moments_of_split(times: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """The times at which valid and test begin, int64 [2]; none at all when there are fewer than three times.

    ``times`` [targets] in any order. Of the moments at which targets stand, those are taken whose earlier targets come
    nearest to the first share, and to the first two, so that no part is empty; of two equally near ones the earlier.
    """
    return moments_of_counts(*np.unique(times, return_counts=True), shares)


def moments_of_counts(moments: np.ndarray, counts: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """As `moments_of_split`, from the distinct times in ascending order and the number of targets at each."""
    if len(moments) < len(SPLITS):
        return moments[:0]
    total = int(counts.sum())
    earlier = np.cumsum(counts) - counts
    valid = 1 + int(np.abs(earlier[1:-1] - shares[0] * total).argmin())
    test = valid + 1 + int(np.abs(earlier[valid + 1 :] - (shares[0] + shares[1]) * total).argmin())
    begins: np.ndarray = moments[[valid, test]]
    return begins


def at_moments(times: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Split of each time, given the moments of `moments_of_split`; -1 for all when there are none."""
    if not len(moments):
        return np.full(len(times), _NOT_A_TARGET)
    parts: np.ndarray = np.searchsorted(moments, times, side="right")
    return parts


def leave_one_out(users: np.ndarray, min_targets: int) -> np.ndarray:
    """Split of each target [targets], given their users in event order; -1 for users with too few."""
    if not len(users):
        return np.zeros(0, dtype=np.int64)
    begins = np.flatnonzero(np.diff(users, prepend=users[0] - 1))
    counts = np.diff(begins, append=len(users))
    from_end = np.repeat(begins + counts, counts) - np.arange(len(users))
    parts = np.select([from_end == 1, from_end == 2], [TEST, VALID], TRAIN)
    return np.where(np.repeat(counts, counts) >= min_targets, parts, _NOT_A_TARGET)


def _withheld(log: EventLog, held_out: np.ndarray, settings: SampleSettings) -> tuple[np.ndarray, np.ndarray]:
    """Events that training may not see: by the strict protocol, and by the cut-off; bool [events] each.

    ``held_out`` bool [events] are the valid and test targets of both tasks.
    """
    told, late = np.zeros((2, len(log)), dtype=bool)
    if settings.history_protocol == "strict":
        told = log.time >= _first_held_out(log.pairs, log.time, held_out)
    if settings.training_cutoff == "per_user":
        late = log.time > _first_held_out(log.user, log.time, held_out)
    return told, late


def _first_held_out(keys: np.ndarray, times: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Time of the first valid or test target that has each event's key, int64 [events]; the end of time where none has.

    ``keys`` and ``times`` are of events in event order, ``held_out`` bool [events]; a key belongs to one user.
    """
    held, first = np.unique(keys[held_out], return_index=True)
    # A user's events are in the order of time, so the first with a key is the earliest; the last row is for no key.
    moments = np.append(times[held_out][first], np.iinfo(np.int64).max)
    place = np.searchsorted(held, keys)
    found = np.append(held, -1)[place] == keys
    moment: np.ndarray = moments[np.where(found, place, len(held))]
    return moment

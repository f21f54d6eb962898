"""Which clicks are to be predicted, and which of them train, validate and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gensar_core.config.data import SampleSettings
from gensar_core.samples.events import EventLog
from gensar_core.samples.histories import Histories
from gensar_core.schema import SPLITS, TASKS

TRAIN, VALID, TEST = range(len(SPLITS))
_NOT_A_TARGET = -1


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

    Under the strict protocol, training then never meets a (user, item) pair of a valid or test target, of either task:
    neither as a target, nor in an input, nor among the training events; a training target that this leaves without one
    of its histories is dropped. A log that gives no targets gives a selection without any.
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
    training, shown = early & ~held_out, early
    if settings.history_protocol == "strict":
        training = shown = early & ~np.isin(log.pairs, np.unique(log.pairs[held_out]))
        for task in TASKS:
            targets[task, "train"], dropped = _without_held_out(log, targets[task, "train"], training)
            figures |= {f"{task}_{name}": count for name, count in dropped.items()}
    figures |= {f"{task}_{split}": len(rows) for (task, split), rows in targets.items()}
    return Selection(targets, training, shown, figures)


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


def _without_held_out(log: EventLog, rows: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """The training targets that stay when held-out pairs are gone, and how many went, by reason."""
    allowed = rows[training[rows]]
    kept = allowed[Histories(log.take(training), "strict").both_sides(log.take(allowed))]
    return kept, {
        "train_dropped_held_out": len(rows) - len(allowed),
        "train_dropped_without_history": len(allowed) - len(kept),
    }

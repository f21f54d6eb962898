"""Which clicks are to be predicted, and which of them train, validate and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gensar_core.samples.events import EventLog
from gensar_core.samples.histories import Histories, Protocol
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


def select_targets(log: EventLog, protocol: Protocol, min_targets: int) -> Selection:
    """Targets of both tasks, split by leaving one out.

    A target is a click whose history shows both a recommendation click and a search session. Of a user's targets of
    one task the last is test, the one before it valid, the rest train; a user with fewer than ``min_targets`` has
    none. Under the strict protocol, training then never meets a (user, item) pair of a valid or test target, of
    either task: neither as a target, nor in an input, nor among the training events; a training target that this
    leaves without one of its histories is dropped.
    """
    both_sides = Histories(log, protocol).both_sides(log)
    figures: dict[str, int] = {}
    targets: dict[tuple[str, str], np.ndarray] = {}
    for task in TASKS:
        rows = np.flatnonzero(both_sides & (log.searched == (task == "search")))
        parts = leave_one_out(log.user[rows], min_targets)
        figures[f"{task}_with_both_histories"] = len(rows)
        figures[f"{task}_users"] = int((parts == TEST).sum())
        targets |= {(task, split): rows[parts == part] for part, split in enumerate(SPLITS)}
    held_out = np.zeros(len(log), dtype=bool)
    for (_, split), rows in targets.items():
        held_out[rows] |= split != "train"
    training = shown = np.ones(len(log), dtype=bool)
    if protocol == "strict":
        training = shown = ~np.isin(log.pairs, np.unique(log.pairs[held_out]))
        for task in TASKS:
            targets[task, "train"], dropped = _without_held_out(log, targets[task, "train"], training)
            figures |= {f"{task}_{name}": count for name, count in dropped.items()}
    else:
        training = ~held_out
    figures |= {f"{task}_{split}": len(rows) for (task, split), rows in targets.items()}
    return Selection(targets, training, shown, figures)


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

"""Compute the k-core of a log: the users and items that keep at least k events when all others are removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Core:
    """Hold a k-core: which users and items are in it, and what was removed.

    ``users`` bool [users] and ``items`` bool [items] mark those with events of the core. ``rounds`` counts the rounds
    of removal; the other fields count the users, items and events that occur in the log but not in the core.
    """

    users: np.ndarray
    items: np.ndarray
    rounds: int
    users_outside: int
    items_outside: int
    events_outside: int

    def inside(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Mark the events of these users and items that are in the core, bool [events]."""
        marks: np.ndarray = self.users[users] & self.items[items]
        return marks


def core_of_blocks(
    blocks: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]], users: int, items: int, minimum: int
) -> Core:
    """Compute the core of a log that is read block by block, once more than there are rounds.

    ``blocks`` yields the number of the user and of the item of each event [events]; numbers are below ``users`` and
    ``items``. In the core, every user and every item has at least ``minimum`` events of the core; it is the largest
    such set, so the order of removal does not matter, and it may be empty. A ``minimum`` of 0 or 1 keeps every event.
    """
    kept = [np.ones(users, dtype=bool), np.ones(items, dtype=bool)]
    before, rounds = None, 0
    while True:
        counts = [np.zeros(len(side), dtype=np.int32) for side in kept]
        for block in blocks():
            inside = kept[0][block[0]] & kept[1][block[1]]
            for count, numbers in zip(counts, block, strict=True):
                np.add.at(count, numbers[inside], np.int32(1))
        occurring = np.array([*map(np.count_nonzero, counts), counts[0].sum()])
        before = occurring if before is None else before
        if not any(((count > 0) & (count < minimum)).any() for count in counts):
            return Core(counts[0] > 0, counts[1] > 0, rounds, *(before - occurring).tolist())
        rounds += 1
        kept = [count >= max(minimum, 1) for count in counts]


def interaction_core(users: np.ndarray, items: np.ndarray, minimum: int) -> tuple[np.ndarray, int]:
    """Mark the events in the core, bool [events], and count the rounds it took to remove the others.

    ``users`` and ``items`` number the user and the item of each event, whole numbers from 0 [events]; otherwise as
    ``core_of_blocks``.
    """
    sizes = [int(numbers.max(initial=-1)) + 1 for numbers in (users, items)]
    core = core_of_blocks(lambda: [(users, items)], sizes[0], sizes[1], minimum)
    return core.inside(users, items), core.rounds

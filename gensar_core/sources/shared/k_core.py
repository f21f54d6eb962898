"""Compute the k-core of a log: the users and items that keep at least k events when all others are removed."""

from __future__ import annotations

import numpy as np


def interaction_core(users: np.ndarray, items: np.ndarray, minimum: int) -> tuple[np.ndarray, int]:
    """Mark the events in the core, bool [events], and count the rounds it took to remove the others.

    ``users`` and ``items`` number the user and the item of each event, whole numbers from 0 [events]. In the core,
    every user and every item has at least ``minimum`` events of the core; it is the largest such set, so the order of
    removal does not matter, and it may be empty. A ``minimum`` of 0 or 1 keeps every event.
    """
    inside = np.ones(len(users), dtype=bool)
    remaining = np.arange(len(users))
    rounds = 0
    while True:
        enough = (np.bincount(users) >= minimum)[users] & (np.bincount(items) >= minimum)[items]
        if enough.all():
            return inside, rounds
        rounds += 1
        inside[remaining[~enough]] = False
        remaining, users, items = remaining[enough], users[enough], items[enough]

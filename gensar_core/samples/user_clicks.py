"""Read the clicks of each user as flat arrays, mapped from the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.mapped_arrays import mapped_parts
from gensar_core.runtime.reading import table_parts


@dataclass(frozen=True)
class UserClicks:
    """Hold the training clicks of one task, or of all, mapped from the disk.

    ``users`` int32 [users] are the users that have some, ascending; ``items`` int32 holds the items of each one's
    clicks in the order of events, ``queries`` int32 [clicks] the query before each click (0: none).
    """

    users: np.ndarray
    items: Ragged
    queries: np.ndarray

    @classmethod
    def read(cls, training_events: Path, task: str | None = None) -> UserClicks:
        """Read the clicks of one task, or of all (None), from a file of training events (table `events`).

        Raises UserError when it is not in the order of users.
        """
        found = mapped_parts(_clicks(training_events, task), training_events.parent)
        return cls(found["users"], Ragged(found["first"], found["items"]), found["queries"])

    def users_of(self, clicks: np.ndarray) -> np.ndarray:
        """Return the user of each of these clicks, given by their places among all, int32."""
        users: np.ndarray = self.users[np.searchsorted(self.items.offsets, clicks, side="right") - 1]
        return users


def _clicks(training_events: Path, task: str | None) -> Iterator[dict[str, np.ndarray]]:
    """Yield clicks part by part: their items and queries, the users that begin there, and where each begins.

    The last part tells where the last user ends.
    """
    columns, before, last = ("user_id", "event_id", "task", "item_id", "query_id"), 0, (-1, -1)
    for part in table_parts(training_events, schema.EVENTS, columns=columns):
        clicks = part if task is None else part.filter(pl.col("task") == task)
        user, event = (clicks.get_column(name).to_numpy() for name in ("user_id", "event_id"))
        steps = np.diff(user, prepend=last[0])
        if ((steps < 0) | (steps == 0) & (np.diff(event, prepend=last[1]) <= 0)).any():
            raise UserError(
                f"{training_events}: rows are not in the order of users and events; build the samples again"
            )
        begins = np.flatnonzero(steps)
        yield {
            "users": user[begins],
            "first": before + begins,
            "items": clicks.get_column("item_id").to_numpy(),
            "queries": clicks.get_column("query_id").fill_null(0).to_numpy(),
        }
        before += len(user)
        if len(user):
            last = int(user[-1]), int(event[-1])
    none = np.zeros(0, dtype=np.int32)
    yield {"users": none, "first": np.array([before]), "items": none, "queries": none}

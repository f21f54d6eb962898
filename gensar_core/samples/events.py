"""The events table as flat arrays in event order: what targets and histories are computed from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError

#: Stands for "no query" and "no session" of a recommendation click.
NONE = -1


@dataclass(frozen=True)
class EventLog:
    """Some events of a data set, in event order; every field is an array [events].

    ``twins`` counts the earlier events of the whole data set that have the same user, time and item: no more events
    than that can be hidden from the event's history for being the event's own click under another name.
    """

    event: np.ndarray
    user: np.ndarray
    time: np.ndarray
    item: np.ndarray
    query: np.ndarray
    session: np.ndarray
    searched: np.ndarray
    twins: np.ndarray

    @classmethod
    def from_frame(cls, events: pl.DataFrame) -> EventLog:
        """All events of a data set (table `events`, in order)."""
        twins = events.select(pl.int_range(pl.len()).over("user_id", "time", "item_id")).to_series()
        return cls(
            event=events["event_id"].to_numpy(),
            user=events["user_id"].to_numpy(),
            time=events["time"].to_numpy(),
            item=events["item_id"].to_numpy(),
            query=events["query_id"].fill_null(NONE).to_numpy(),
            session=events["session_id"].fill_null(NONE).to_numpy(),
            searched=(events["task"] == "search").to_numpy(),
            twins=twins.to_numpy(),
        )

    def __len__(self) -> int:
        return len(self.event)

    def take(self, rows: np.ndarray) -> EventLog:
        """Some of the events: a mask [events], or row numbers."""
        return EventLog(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def pairs(self) -> np.ndarray:
        """User and item of each event as one number, int64 [events]: the user in the upper half, the item below."""
        codes: np.ndarray = (self.user.astype(np.int64) << 32) | self.item
        return codes


def read_events(canonical: Path, n_items: int, n_queries: int) -> pl.DataFrame:
    """The events table in event order, checked for all that targets and histories rely on.

    Raises UserError when event_id is no row number, the order is not that of user and time, an id has no row in its
    table, a search click lacks its query or session, or a session has more than one user or query.
    """
    path = canonical / "events.parquet"
    events = schema.EVENTS.read(path).sort("event_id")
    searches = events.filter(pl.col("task") == "search")
    step = pl.col("user_id").diff().fill_null(0)
    wrong = {
        "event_id is not the row number": (events["event_id"] != pl.Series(np.arange(len(events)))).any(),
        "events are not in the order of user and time": events.select(
            ((step < 0) | ((step == 0) & (pl.col("time").diff() < 0))).any()
        ).item(),
        "an item_id has no row in items.parquet": not _all_below(events["item_id"], n_items),
        "a query_id has no row in queries.parquet": not _all_below(events["query_id"], n_queries),
        "a user_id is negative": (events["user_id"] < 0).any(),
        "a search click lacks its query_id or session_id": searches["query_id"].has_nulls()
        or searches["session_id"].has_nulls(),
        "a session has more than one user or query": searches.select("session_id", "user_id", "query_id")
        .unique()["session_id"]
        .is_duplicated()
        .any(),
    }
    for what, found in wrong.items():
        if found:
            raise UserError(f"{path}: {what}; build the canonical tables again")
    return events


def _all_below(ids: pl.Series, count: int) -> bool:
    return bool(ids.is_between(0, count - 1).all())

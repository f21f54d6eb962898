"""Read the events table as flat arrays in event order, the source of targets and histories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError

#: Means "no query" and "no session" of a recommendation click.
NONE = -1
#: Events read at once; limits memory, does not affect results.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class EventLog:
    """Hold some events of a data set in event order; every field is an array [events].

    ``twins`` counts the earlier events of the whole data set with the same user, time and item. At most that many
    events can be hidden from the event's history for being the same click under another name.
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
        """Build the log of all given events (table `events`, in event order); twins are counted among them."""
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
        """Select events by a mask [events] or by row numbers."""
        return EventLog(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def pairs(self) -> np.ndarray:
        """Encode each event's user and item in one number, int64 [events]: user in the upper half, item below."""
        codes: np.ndarray = (self.user.astype(np.int64) << 32) | self.item
        return codes


class EventTable:
    """Read the events table of a data set (checked by `check_events`) for some users at a time.

    ``offsets`` int64 [users + 1]: the rows where users' events begin, and where the last user's end.
    """

    def __init__(self, path: Path, offsets: np.ndarray) -> None:
        self._rows = schema.EVENTS.scan(path)
        self._offsets = offsets

    def read(self, users: range) -> pl.DataFrame:
        """Read the events of these users, in event order."""
        first, end = self._offsets[[users.start, users.stop]].tolist()
        return self._rows.slice(first, end - first).collect()

    def users(self, part: int, parts: int) -> range:
        """Return the users of one of ``parts`` parts with about equally many events; ``part`` counts from 0."""
        bounds = np.searchsorted(self._offsets, [self._offsets[-1] * place // parts for place in (part, part + 1)])
        return range(*bounds.tolist())

    def blocks(self, users: range | None = None) -> Iterator[range]:
        """Yield ranges of users (by default of all users) with few enough events to be in memory together."""
        users = users if users is not None else range(len(self._offsets) - 1)
        first = users.start
        while first < users.stop:
            end = int(np.searchsorted(self._offsets, self._offsets[first] + _BLOCK, side="right")) - 1
            block = range(first, min(max(end, first + 1), users.stop))
            if self._offsets[block.start] < self._offsets[block.stop]:
                yield block
            first = block.stop


def check_events(path: Path, n_items: int, n_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Check everything that targets and histories assume of the events table, block by block.

    Returns the number of events of each user, int64 [users], and of recommendation clicks on each item, int64 [items].
    Raises UserError when the table is missing or not readable, an event_id is not the row number, events are not in the
    order of user and time, an id has no row in its table, a user_id is negative, a search click lacks its query or
    session, or a session has more than one user or query.
    """
    users, clicks = np.zeros(0, dtype=np.int64), np.zeros(n_items, dtype=np.int64)
    last: pl.DataFrame | None = None
    sessions_ascend = True
    for first, block in _row_blocks(path):
        joined = block if last is None else pl.concat([last, block])
        _check_block(path, first, block, joined, n_items, n_queries)
        sessions_ascend = sessions_ascend and _sessions_ascend(joined)
        # The next session is compared with the last search, which may precede a run of other clicks.
        last = pl.concat([joined.filter(pl.col("task") == "search").tail(1), block.tail(1)]).unique().sort("event_id")
        counts = np.bincount(block["user_id"].to_numpy(), minlength=len(users))
        counts[: len(users)] += users
        users = counts
        clicks += np.bincount(block.filter(pl.col("task") == "rec")["item_id"].to_numpy(), minlength=n_items)
    if not sessions_ascend and not _sessions_agree(path):
        raise _inconsistent(path, "a session has more than one user or query")
    return users, clicks


def _row_blocks(path: Path) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield the events table in blocks of rows, each with the number of its first row."""
    rows, count = schema.EVENTS.open(path)
    for first in range(0, count, _BLOCK):
        try:
            block = rows.slice(first, _BLOCK).collect()
        except pl.exceptions.PolarsError as error:
            raise UserError(f"{path}: not a readable Parquet file; delete it and run again") from error
        yield first, schema.EVENTS.check(block, path)


def _check_block(
    path: Path, first: int, block: pl.DataFrame, joined: pl.DataFrame, n_items: int, n_queries: int
) -> None:
    """Check a block of rows; ``joined`` also holds the row and the search before it."""
    searches = block.filter(pl.col("task") == "search")
    step = pl.col("user_id").diff().fill_null(0)
    unordered = (step < 0) | ((step == 0) & (pl.col("time").diff() < 0))
    faults = {
        "event_id is not the row number": (block["event_id"] != pl.Series(np.arange(first, first + len(block)))).any(),
        "events are not in the order of user and time": joined.select(unordered.any()).item(),
        "an item_id has no row in items.parquet": not block["item_id"].is_between(0, n_items - 1).all(),
        "a query_id has no row in queries.parquet": not block["query_id"].is_between(0, n_queries - 1).all(),
        "a user_id is negative": (block["user_id"] < 0).any(),
        "a search click lacks its query_id or session_id": any(
            searches[["query_id", "session_id"]].null_count().row(0)
        ),
    }
    for fault, occurs in faults.items():
        if occurs:
            raise _inconsistent(path, fault)


def _sessions_ascend(rows: pl.DataFrame) -> bool:
    """Return whether sessions are numbered in event order, and each has one user and one query."""
    searches = rows.filter(pl.col("task") == "search")
    step = pl.col("session_id").diff().fill_null(1)
    other = (pl.col("user_id").diff() != 0) | (pl.col("query_id").diff() != 0)
    return not searches.select(((step < 0) | ((step == 0) & other)).any()).item()


def _sessions_agree(path: Path) -> bool:
    """Return whether each session has one user and one query, however sessions are numbered."""
    searches = schema.EVENTS.scan(path).filter(pl.col("task") == "search")
    differ = [pl.col(name).min() != pl.col(name).max() for name in ("user_id", "query_id")]
    sessions = searches.group_by("session_id").agg(differ=pl.any_horizontal(*differ))
    return not sessions.select(pl.col("differ").any()).collect(engine="streaming").item()


def _inconsistent(path: Path, fault: str) -> UserError:
    return UserError(f"{path}: {fault}; build the canonical tables again")

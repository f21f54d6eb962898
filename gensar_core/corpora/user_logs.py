"""Write users' logs as token rows, which a causal model reads in one pass (tables `user_logs` and `asked_logs`).

A row holds a user's *entries* (Eq. 11), oldest first: each recommendation click, each query, and each click after a
query. Every entry may be a target: its item is predicted from what precedes it, in the same pass that reads it as
history.

Two entries are kept apart when one would reveal the other. Under the strict protocol these are events of one user with
the same time and item, and the clicks of one session; under the authors' protocol, a search click and the
recommendation click just before it, if both are of the same time and item. Entries that are kept apart, directly or
through others, form a *group*. An entry sees exactly the groups that end before its own group begins, and a search
click sees its own query. This order of groups is transitive: nothing hidden from an entry reaches it through a third.

Positions count only tokens that an entry sees. So the states of an entry equal those of reading its history alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numba
import numpy as np
import polars as pl
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from gensar_core import schema
from gensar_core.runtime.arrays import Ragged, add_counts, ranges, stretches
from gensar_core.runtime.mapped_arrays import MappedArray
from gensar_core.runtime.reading import table_parts
from gensar_core.runtime.sorting import Groups
from gensar_core.runtime.writing import TableWriter
from gensar_core.samples.events import EventLog, EventTable
from gensar_core.samples.histories import Protocol

#: Mark of an entry that is only read.
NO_TARGET = -1


@dataclass(frozen=True)
class Entries:
    """Hold the entries of some users' logs, oldest first, one user after the other; every field is int64 [entries].

    ``behavior`` is a code of schema.BEHAVIORS, ``object`` the item or query. ``event`` is the row of the log that the
    entry comes from; a query comes from its session's first click. ``opens`` and ``closes`` are the rows of the first
    and last event of the entry's group. ``query`` is the entry of a search click's query, and the entry itself for
    others. ``inside`` bool marks search clicks whose query is in their own group.
    """

    user: np.ndarray
    behavior: np.ndarray
    object: np.ndarray
    event: np.ndarray
    opens: np.ndarray
    closes: np.ndarray
    query: np.ndarray
    inside: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def take(self, entries: slice) -> Entries:
        """Select a range of entries; ``query`` keeps numbering the whole log."""
        return Entries(**{field.name: getattr(self, field.name)[entries] for field in fields(self)})


def log_entries(log: EventLog, protocol: Protocol) -> Entries:
    """Return the entries of all events of ``log``, which holds whole users in event order."""
    rows = np.arange(len(log))
    searches = np.flatnonzero(log.searched)
    _, first, session = np.unique(log.session[searches], return_index=True, return_inverse=True)
    opening = searches[first]
    group = _groups(log, searches, session, protocol)
    opens, closes = np.full(len(rows), len(rows)), np.full(len(rows), -1)
    np.minimum.at(opens, group, rows)
    np.maximum.at(closes, group, rows)
    # A query stands right before the first click of its session.
    events = np.concatenate([rows, opening])
    order = np.argsort(np.concatenate([2 * rows + 1, 2 * opening]), kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    query = place.copy()
    query[searches] = place[len(rows) + session]
    inside = np.zeros(len(order), dtype=bool)
    inside[searches] = group[searches] == group[opening[session]]
    clicked = np.where(log.searched, schema.SEARCHED_ITEM, schema.RECOMMENDED_ITEM)
    asked = np.full(len(opening), schema.SEARCHED_QUERY)
    return Entries(
        user=log.user[events[order]].astype(np.int64),
        behavior=np.concatenate([clicked, asked])[order],
        object=np.concatenate([log.item, log.query[opening]]).astype(np.int64)[order],
        event=events[order],
        opens=opens[group[events[order]]],
        closes=closes[group[events[order]]],
        query=query[order],
        inside=inside[order],
    )


def _groups(log: EventLog, searches: np.ndarray, session: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the number of each event's group, int64 [events], below the number of events."""
    if protocol == "paper":
        clicks = np.flatnonzero(~log.searched)
        before = np.searchsorted(clicks, searches) - 1
        found = before >= 0
        searches, last = searches[found], clicks[before[found]]
        same = (log.user[searches] == log.user[last]) & (log.time[searches] == log.time[last])
        same &= log.item[searches] == log.item[last]
        left, right = searches[same], last[same]
    else:
        moments = pl.DataFrame({"user": log.user, "time": log.time, "item": log.item})
        moment = moments.select(pl.struct(pl.all()).rank("dense") - 1).to_series().to_numpy().astype(np.int64)
        keys = np.concatenate([len(log) + moment, 2 * len(log) + session])
        left, right = np.concatenate([np.arange(len(log)), searches]), keys
    size = 3 * len(log)
    graph = coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), shape=(size, size))
    components: np.ndarray = connected_components(graph, directed=False)[1][: len(log)]
    return np.unique(components, return_inverse=True)[1].astype(np.int64)


def positions(row: np.ndarray, opens: np.ndarray, closes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Count the tokens that each entry sees of earlier groups in its ``row``, int64 [entries].

    Rows ascend; ``opens``, ``closes`` and ``lengths`` (tokens) are those of the entries. A group that opens before its
    row does (negative) sees nothing there.
    """
    opens = np.maximum(opens, 0)
    width = int(closes.max(initial=0)) + 2
    order = np.argsort(row * width + closes, kind="stable")
    total = np.append(0, np.cumsum(lengths[order]))
    closed = (row * width + closes)[order]
    earlier = np.append(0, np.cumsum(lengths))[np.searchsorted(row, row)]
    seen: np.ndarray = total[np.searchsorted(closed, row * width + opens)] - earlier
    return seen


@dataclass(frozen=True)
class Windows:
    """Hold the rows to write, each a range of entries; arrays [rows].

    A row holds the entries ``first`` to ``stop`` (excluded); its targets are the wanted ones from ``asked`` on.
    """

    first: np.ndarray
    asked: np.ndarray
    stop: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def cut_windows(entries: Entries, lengths: np.ndarray, wanted: np.ndarray, width: int, history: int) -> Windows:
    """Cut logs into windows of at most ``width`` tokens, so that every ``wanted`` entry is a target exactly once.

    The first target of a window has up to ``history`` tokens before it, and the later ones more. A window exceeds
    ``width`` only where a target and its own query do not fit otherwise.
    """
    ends = np.cumsum(lengths)
    bounds = np.flatnonzero(np.diff(entries.user, prepend=-1, append=-1))
    return Windows(*_cut(bounds, ends - lengths, ends, entries.query, wanted, width, history))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _cut(
    bounds: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    query: np.ndarray,
    wanted: np.ndarray,
    width: int,
    history: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first, asked, stop = np.empty_like(starts), np.empty_like(starts), np.empty_like(starts)
    count = 0
    for user in range(len(bounds) - 1):
        begin, end = bounds[user], bounds[user + 1]
        entry = begin
        oldest = begin
        while True:
            while entry < end and not wanted[entry]:
                entry += 1
            if entry == end:
                break
            while oldest < entry and (starts[entry] - starts[oldest] > history or ends[entry] - starts[oldest] > width):
                oldest += 1
            from_ = min(oldest, query[entry])
            last = entry
            following = entry + 1
            while following < end and ends[following] - starts[from_] <= width:
                if wanted[following]:
                    if query[following] < from_:
                        break
                    last = following
                following += 1
            first[count], asked[count], stop[count] = from_, entry, last + 1
            count += 1
            entry = last + 1
    return first[:count], asked[:count], stop[:count]


def log_rows(entries: Entries, tokens: Ragged, target: np.ndarray, width: int, history: int) -> pl.DataFrame:
    """Return the windows of some users' logs as a frame of table `user_logs`.

    ``tokens`` holds the token ids of each entry, ``target`` int64 [entries] what each asks (`NO_TARGET`: nothing).
    """
    lengths = tokens.lengths
    windows = cut_windows(entries, lengths, target != NO_TARGET, width, history)
    sizes = windows.stop - windows.first
    rows = np.repeat(np.arange(len(windows)), sizes)
    members = ranges(windows.first, sizes)

    def column(name: str, values: np.ndarray, dtype: pl.DataType) -> pl.Series:
        return Ragged.from_lengths(sizes, values).to_series(name, dtype)

    own = tokens.take(members)
    asked = np.where(members >= windows.asked[rows], target[members], NO_TARGET)
    first = windows.first[rows]
    # A query that a window cuts off is no longer seen by its clicks, which are no targets there.
    query = np.where(entries.query[members] < first, members, entries.query[members])
    opens, closes = (part[members] - entries.opens[first] for part in (entries.opens, entries.closes))
    position = positions(rows, opens, closes, lengths[members])
    position += np.where(entries.inside[members] & (query != members), lengths[query], 0)
    return pl.DataFrame(
        [
            pl.Series("user_id", entries.user[windows.first], pl.Int32()),
            Ragged(own.offsets[np.append(0, np.cumsum(sizes))], own.values).to_series("token_ids", pl.Int32()),
            column("lengths", lengths[members], pl.Int32()),
            column("behavior", entries.behavior[members], pl.UInt8()),
            column("object", entries.object[members], pl.Int32()),
            column("position", position, pl.Int32()),
            column("opens", opens, pl.Int32()),
            column("closes", closes, pl.Int32()),
            column("query", query - first, pl.Int32()),
            column("target", asked, pl.Int64()),
        ]
    )


def training_targets(entries: Entries, log: EventLog) -> np.ndarray:
    """Make every entry a target, named by its event_id, int64 [entries]."""
    named: np.ndarray = log.event[entries.event].astype(np.int64)
    return named


class HeldOut:
    """Find the valid and test samples of events, on the disk of the file of samples (table `samples`)."""

    def __init__(self, samples: Path) -> None:
        stores = {name: MappedArray(samples.parent, np.int64) for name in ("event_id", "sample_id")}
        for part in table_parts(samples, schema.SAMPLES, columns=(*stores, "split")):
            held_out = part.filter(pl.col("split") != "train")
            for name, store in stores.items():
                store.append(held_out.get_column(name).to_numpy())
        events, self._samples = (store.read_only() for store in stores.values())
        self._events = Groups.of((events[places] for places in stretches(len(events))), samples.parent)

    def targets(self, entries: Entries, log: EventLog) -> np.ndarray:
        """Make the clicks of valid and test samples targets, named by their sample_id, int64 [entries]."""
        first, samples = self._events.spans(log.event[entries.event])
        wanted = (entries.behavior != schema.SEARCHED_QUERY) & (samples > 0)
        target = np.full(len(entries), NO_TARGET)
        target[wanted] = self._samples[self._events.rows[first[wanted]]]
        return target


def write_logs(
    events: Path,
    path: Path,
    target_of: Callable[[Entries, EventLog], np.ndarray],
    tokens_of: Callable[[Entries], Ragged],
    tasks: Sequence[str],
    protocol: Protocol,
    width: int,
    history: int,
) -> dict[str, int]:
    """Write the logs in the file ``events`` as table `user_logs`, some users at a time; return the counts of its rows.

    ``target_of`` returns what each entry asks, ``tokens_of`` its token ids; users without a target have no row. Events
    of other ``tasks`` are left out.
    """
    users = np.zeros(0, dtype=np.int64)
    for part in table_parts(events, schema.EVENTS, columns=["user_id"]):
        users = add_counts(users, part.get_column("user_id").to_numpy())
    table = EventTable(events, np.append(0, np.cumsum(users)))
    counts = {"rows": 0, "tokens": 0, "targets": 0}
    with TableWriter(schema.USER_LOGS, path) as writer:
        for block in table.blocks():
            log = EventLog.from_frame(table.read(block).filter(pl.col("task").is_in(tasks)))
            entries = log_entries(log, protocol)
            frame = log_rows(entries, tokens_of(entries), target_of(entries, log), width, history)
            writer.write(frame)
            counts["rows"] += len(frame)
            counts["tokens"] += int(frame.get_column("lengths").list.sum().sum())
            counts["targets"] += int((frame.get_column("target").explode() != NO_TARGET).sum())
    return counts

"""Build the histories of targets, the inputs of Eq. 1, under either protocol and for all targets at once.

A history holds a target's last recommendation clicks and last search sessions, up to a maximum of each, merged in event
order. A session is one block, its query once and then its clicks, at the place of its first click.

Two protocols define "before". Under both, an event is before a target when it precedes the target in event order.

- ``strict``: leaves out events with the target's time and item, and the target's session. So nothing in an input
  reveals the target, however coarse the times are.
- ``paper``: keeps them, as the authors prepared their data; only the very last recommendation click before a search
  target is left out when it is that target's own review.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.samples.events import EventLog
from gensar_core.schema import RECOMMENDED_ITEM, SEARCHED_ITEM, SEARCHED_QUERY

Protocol = Literal["strict", "paper"]

#: Targets processed at once; limits memory, does not affect results.
_SLICE = 1 << 18


@dataclass(frozen=True)
class Inputs:
    """Hold the histories of targets [rows], oldest first.

    ``behavior`` holds what the user did (codes of schema.BEHAVIORS), ``object`` the item or query it was done to.
    """

    behavior: Ragged
    object: Ragged

    def __len__(self) -> int:
        return len(self.behavior)


class Histories:
    """Look up the clicks and sessions of a log that precede targets.

    ``log`` holds the events that histories may contain: all events, or those that training may see. Targets are events
    of the same data set; they need not be in the log.
    """

    def __init__(self, log: EventLog, protocol: Protocol) -> None:
        self._strict = protocol == "strict"
        self._width = int(log.event.max(initial=0)) + 1
        self._clicks = log.take(~log.searched)
        searches = log.take(log.searched)
        _, first, names = np.unique(searches.session, return_index=True, return_inverse=True)
        # Number sessions by their first click, so a user's sessions are contiguous and in order.
        number = np.empty(len(first), dtype=np.int64)
        number[np.argsort(first)] = np.arange(len(first))
        session = number[names]
        self._searches = searches.take(np.argsort(session, kind="stable"))
        counts = np.bincount(session, minlength=len(first))
        self._members = Ragged.from_lengths(counts, np.arange(len(searches)))
        self._sessions = self._searches.take(self._members.offsets[:-1])

    def complete(self, targets: EventLog, *, searching: bool = True) -> np.ndarray:
        """Return which targets have the history that a sample needs, bool [targets].

        A recommendation click must precede the target and, where the data set has searches (``searching``), a search
        session.
        """
        parts = [np.zeros(0, dtype=bool)]
        for part in _slices(targets):
            complete = self._recommendations(part, 1).lengths > 0
            if searching:
                complete &= self._search_sessions(part, 1)[0].lengths > 0
            parts.append(complete)
        return np.concatenate(parts)

    def inputs(self, targets: EventLog, max_recommendations: int, max_searches: int) -> Inputs:
        """Build the histories of targets from the last recommendation clicks and search sessions before each."""
        parts = [
            self._merge(self._recommendations(part, max_recommendations), *self._search_sessions(part, max_searches))
            for part in _slices(targets)
        ]
        empty = (np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int32))
        lengths, behaviors, objects = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
        return Inputs(Ragged.from_lengths(lengths, behaviors), Ragged.from_lengths(lengths, objects))

    def _recommendations(self, targets: EventLog, most: int) -> Ragged:
        """Return the rows of the recommendation clicks before each target, the last ``most`` of them."""
        window = _before(self._clicks, targets, most + targets.twins)
        row, click = window.rows, window.values
        hidden = self._same_moment(self._clicks, click, targets, row)
        if not self._strict:
            last = np.zeros(len(click), dtype=bool)
            last[window.offsets[1:][window.lengths > 0] - 1] = True
            hidden &= last & targets.searched[row]
        return window.filter(~hidden).tail(most)

    def _search_sessions(self, targets: EventLog, most: int) -> tuple[Ragged, Ragged]:
        """Return the search sessions before each target, and the rows of the visible searches in each session.

        The sessions of a target are the last ``most`` with at least one visible search.
        """
        # One session more than twins can hide, for the target's own session.
        window = _before(self._sessions, targets, most + targets.twins + 1)
        row = window.rows
        members = self._members.take(window.values)
        members = members.filter(self._visible(targets, row[members.rows], members.values))
        places = Ragged(window.offsets, np.arange(len(window.values))).filter(members.lengths > 0).tail(most)
        return Ragged(places.offsets, window.values[places.values]), members.take(places.values)

    def _visible(self, targets: EventLog, row: np.ndarray, search: np.ndarray) -> np.ndarray:
        """Return which (target, search) pairs the protocol lets the target's history show."""
        visible: np.ndarray = self._searches.event[search] < targets.event[row]
        if self._strict:
            visible &= ~self._same_moment(self._searches, search, targets, row)
            visible &= self._searches.session[search] != targets.session[row]
        return visible

    @staticmethod
    def _same_moment(log: EventLog, events: np.ndarray, targets: EventLog, row: np.ndarray) -> np.ndarray:
        """Return whether each event has the time and the item of its target."""
        same: np.ndarray = (log.time[events] == targets.time[row]) & (log.item[events] == targets.item[row])
        return same

    def _merge(
        self, recommended: Ragged, sessions: Ragged, searches: Ragged
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Merge clicks and sessions into histories; return lengths [targets], behaviors and objects [total]."""
        # Each session becomes its query, followed by its clicks.
        sizes = searches.lengths + 1
        starts = np.cumsum(sizes) - sizes
        clicked = ranges(starts + 1, searches.lengths)
        behaviors = np.full(int(sizes.sum()), SEARCHED_ITEM, dtype=np.uint8)
        behaviors[starts] = SEARCHED_QUERY
        objects = np.empty(len(behaviors), dtype=np.int32)
        objects[starts] = self._sessions.query[sessions.values]
        objects[clicked] = self._searches.item[searches.values]
        recommended_key = recommended.rows * self._width + self._clicks.event[recommended.values]
        session_key = np.repeat(sessions.rows * self._width + self._sessions.event[sessions.values], sizes)
        # Both runs are sorted, so the stable sort is one linear merge, and a session's block stays together.
        order = np.argsort(np.concatenate([recommended_key, session_key]), kind="stable")
        per_target = np.bincount(sessions.rows, weights=sizes, minlength=len(sessions)).astype(np.int64)
        clicks = np.full(len(recommended_key), RECOMMENDED_ITEM, dtype=np.uint8)
        return (
            recommended.lengths + per_target,
            np.concatenate([clicks, behaviors])[order],
            np.concatenate([self._clicks.item[recommended.values], objects])[order],
        )


def _before(log: EventLog, targets: EventLog, most: np.ndarray) -> Ragged:
    """Return the user's rows of ``log`` (in event order) before each target, the last ``most`` [targets] of them."""
    stop = np.searchsorted(log.event, targets.event)
    start = np.searchsorted(log.user, targets.user)
    lengths = np.minimum(stop - start, most)
    return Ragged.from_lengths(lengths, ranges(stop - lengths, lengths))


def _slices(targets: EventLog) -> Iterator[EventLog]:
    for start in range(0, len(targets), _SLICE):
        yield targets.take(np.arange(start, min(start + _SLICE, len(targets))))

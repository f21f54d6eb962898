"""Show progress of long loops: a bar with rate and time left on a terminal, plain lines at intervals in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 15.0

#: Stream for bars when stderr itself is redirected to a log (set by runtime.logs.ScriptLog).
terminal: TextIO | None = None

#: Silence this process: one of several processes speaks for all (set by training.launch).
silent = False


def progress(
    items: Iterable[T], description: str, total: int | None = None, unit: str = "it", initial: int = 0
) -> Iterator[T]:
    """Yield ``items`` while showing the loop's progress. ``initial`` counts the items that an earlier run has done."""
    if silent:
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items) + initial
    screen = terminal or sys.stderr
    bar = tqdm(
        desc=description,
        total=total,
        unit=unit,
        initial=initial,
        file=screen,
        disable=not screen.isatty(),
        dynamic_ncols=True,
    )
    lines = _Lines(description, total, unit, initial, quiet=sys.stderr.isatty())
    with bar:
        for item in items:
            yield item
            bar.update()
            lines.update()
    lines.close()


def say(line: str) -> None:
    """Write one plain line to the log at once; on a terminal it does not tear a running bar."""
    if not silent:
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


def announce(line: str) -> None:
    """Write one plain line to the log and, where stderr itself is redirected there, to the terminal as well."""
    say(line)
    if not silent and terminal is not None:
        tqdm.write(line, file=terminal)
        terminal.flush()


class _Lines:
    """Write the plain lines of one loop."""

    def __init__(self, description: str, total: int | None, unit: str, initial: int, quiet: bool) -> None:
        self.description, self.total, self.unit, self.initial, self.quiet = description, total, unit, initial, quiet
        self.done = initial
        self.started = self.last = time.monotonic()

    def update(self) -> None:
        self.done += 1
        now = time.monotonic()
        if not self.quiet and now - self.last >= _SECONDS_BETWEEN_LINES:
            self.last = now
            say(f"{self.description}: {self._state(now - self.started)}")

    def close(self) -> None:
        elapsed = time.monotonic() - self.started
        if not self.quiet and elapsed >= 1.0:
            say(f"{self.description}: {self._state(elapsed)}, done")

    def _state(self, elapsed: float) -> str:
        rate = (self.done - self.initial) / max(elapsed, 1e-9)
        if not self.total:
            return f"{self.done:,} {self.unit}, {rate:,.1f} {self.unit}/s"
        left = max(self.total - self.done, 0) / max(rate, 1e-9)
        return f"{self.done:,} of {self.total:,} {self.unit}, {rate:,.1f} {self.unit}/s, {left:,.0f} s left"

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
        # A finished bar makes room for the line of the next stage.
        leave=False,
        dynamic_ncols=True,
    )
    in_log = not sys.stderr.isatty()
    done, started = initial, time.monotonic()
    last = started
    with bar:
        for done, item in enumerate(items, initial + 1):
            yield item
            bar.update()
            now = time.monotonic()
            if in_log and now - last >= _SECONDS_BETWEEN_LINES:
                last = now
                say(f"{description}: {_state(done, initial, total, unit, now - started)}")
    elapsed = time.monotonic() - started
    if in_log and elapsed >= 1.0:
        say(f"{description}: {_state(done, initial, total, unit, elapsed)}, done")


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


def _state(done: int, initial: int, total: int | None, unit: str, elapsed: float) -> str:
    """Tell how far a loop is, at what rate, and how many seconds it will still take."""
    rate = (done - initial) / max(elapsed, 1e-9)
    if not total:
        return f"{done:,} {unit}, {rate:,.1f} {unit}/s"
    seconds = max(total - done, 0) / max(rate, 1e-9)
    return f"{done:,} of {total:,} {unit}, {rate:,.1f} {unit}/s, {seconds:,.0f} s left"

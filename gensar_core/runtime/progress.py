"""Progress of long loops: a bar with rate and time left on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 15.0


def progress(
    items: Iterable[T], description: str, total: int | None = None, unit: str = "it", initial: int = 0
) -> Iterator[T]:
    """Yield ``items`` while showing how far the loop is. ``initial`` counts what an earlier run has done."""
    if total is None and isinstance(items, Sized):
        total = len(items) + initial
    if sys.stderr.isatty():
        yield from tqdm(items, desc=description, total=total, unit=unit, initial=initial, dynamic_ncols=True)
        return
    started = last = time.monotonic()
    done = initial
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            say(f"{description}: {_state(done, initial, total, unit, now - started)}")
    elapsed = time.monotonic() - started
    if elapsed >= 1.0:
        say(f"{description}: {_state(done, initial, total, unit, elapsed)}, done")


def say(line: str) -> None:
    """One plain line to the log, at once; on a terminal it does not tear a running bar."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


def _state(done: int, initial: int, total: int | None, unit: str, elapsed: float) -> str:
    rate = (done - initial) / max(elapsed, 1e-9)
    if not total:
        return f"{done:,} {unit}, {rate:,.1f} {unit}/s"
    left = max(total - done, 0) / max(rate, 1e-9)
    return f"{done:,} of {total:,} {unit}, {rate:,.1f} {unit}/s, {left:,.0f} s left"

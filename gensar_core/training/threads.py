"""Pieces of work that do not depend on each other, at the same time: on a CPU each piece computes on one core.

Torch by itself divides every product among the cores. Where matrices are small, the cores then wait for each other
after each of thousands of operations, and two of them can be slower than one. Whole pieces meet once. What a piece
computes does not depend on how many run beside it, so results are the same bytes with any number of threads.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Piece], Result], pieces: Iterable[Piece], device: torch.device) -> Iterator[Result]:
    """``work(piece)`` of each of the ``pieces``, in their order.

    On a CPU as many run at a time as torch has threads, and one result more than that is held at most. ``work`` draws
    no numbers from torch's common generator, and enters modes such as `torch.inference_mode` itself: they belong to a
    thread. A GPU takes the pieces one after the other. The first error is raised, and what has not begun never does.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield from map(work, pieces)
        return
    pool = _pool(threads)
    begun: deque[Future[Result]] = deque()
    try:
        for piece in pieces:
            begun.append(pool.submit(work, piece))
            if len(begun) > threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """So many threads, each of which computes on one core; kept, as torch sets up a thread anew at its first use."""
    return ThreadPoolExecutor(threads, thread_name_prefix="piece", initializer=_compute_on_one_core)


def _compute_on_one_core() -> None:
    # A thread takes over torch's common number when it is first asked, which would undo what was set before.
    torch.get_num_threads()
    torch.set_num_threads(1)

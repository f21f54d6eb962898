"""Run independent pieces of work at the same time: on a CPU each piece computes on one core.

By default, torch divides every product among the cores. With small matrices, the cores then wait for each other after
each of thousands of operations, and two of them can be slower than one. Whole pieces synchronize once. A piece's
computation does not depend on how many run beside it, so results are the same bytes with any number of threads.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Piece], Result], pieces: Iterable[Piece], device: torch.device) -> Iterator[Result]:
    """Yield ``work(piece)`` for each of the ``pieces``, in their order.

    On a CPU, as many pieces run at a time as torch has threads, and at most one more result than that is held. ``work``
    must not draw from torch's common generator, and must enter modes such as `torch.inference_mode` itself: they belong
    to a thread. On a GPU the pieces run one after the other. The first error is raised, and pieces not yet begun never
    start.
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
    """Create ``threads`` threads that compute on one core each; cached, as torch sets up a thread at its first use."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="piece", initializer=_compute_on_one_core)
    all_begun = threading.Barrier(threads)
    for begun in [pool.submit(all_begun.wait) for _ in range(threads)]:
        begun.result()
    # They have set torch's common number too, which threads adopt that compute for the first time later.
    torch.set_num_threads(threads)
    return pool


def _compute_on_one_core() -> None:
    # A thread adopts torch's common number of threads when first queried, which would undo an earlier setting.
    torch.get_num_threads()
    torch.set_num_threads(1)

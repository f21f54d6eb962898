"""Pieces of work side by side: their order, their cores and their errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from gensar_core.training.threads import _pool, side_by_side

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_pieces() -> None:
    def late(piece: int) -> int:
        time.sleep(0.02 if piece % 3 == 0 else 0.0)
        return piece * piece

    assert list(side_by_side(late, range(20), CPU)) == [piece * piece for piece in range(20)]
    assert list(side_by_side(late, [], CPU)) == []


def test_pieces_run_at_the_same_time_each_on_one_core() -> None:
    meet = threading.Barrier(3, timeout=20)

    def work(_: int) -> int:
        # Passes only if as many pieces as there are threads have begun.
        meet.wait()
        return torch.get_num_threads()

    assert list(side_by_side(work, range(6), CPU)) == [1] * 6
    assert torch.get_num_threads() == 3


def test_threads_that_begin_later_have_all_cores() -> None:
    # A new pool: the common number was set again since the last one began.
    _pool.cache_clear()
    list(side_by_side(lambda piece: piece, range(6), CPU))
    cores: list[int] = []
    later = threading.Thread(target=lambda: cores.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert cores == [3]


def test_few_results_are_held_at_a_time() -> None:
    begun = []
    results = side_by_side(begun.append, range(100), CPU)
    next(results)
    time.sleep(0.1)
    assert len(begun) <= 4
    assert len(list(results)) == 99


def test_the_first_error_is_raised_and_later_pieces_never_begin() -> None:
    begun = []

    def work(piece: int) -> None:
        begun.append(piece)
        if piece == 1:
            raise ValueError("piece 1")

    with pytest.raises(ValueError, match="piece 1"):
        list(side_by_side(work, range(100), CPU))
    time.sleep(0.1)
    assert max(begun) <= 5


def test_on_a_gpu_pieces_run_in_the_callers_thread() -> None:
    threads = side_by_side(lambda _: threading.current_thread(), range(3), torch.device("cuda"))
    assert set(threads) == {threading.current_thread()}

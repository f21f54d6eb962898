"""A main for processes that the tests of `training.launch` start: `python -m tests.support.process_worker MODE FOLDER`."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from gensar_core.errors import UserError
from gensar_core.training.launch import work
from gensar_core.training.processes import Processes


def sums(processes: Processes, folder: Path) -> None:
    """What processes say to each other, against sums by hand."""
    rank = processes.rank
    assert processes.count == 2
    assert processes.own(5).tolist() == [[0, 2, 4], [1, 3]][rank]
    assert processes.sum(np.array([1.0, 10.0 * rank])).tolist() == [2.0, 10.0]
    assert processes.agree({"a": 1.0 + rank, "b": 5.0 - rank}) == {"a": 1.0, "b": 5.0}
    assert processes.tell("ab" * 32 if processes.first else None) == "ab" * 32

    module = torch.nn.ParameterList([torch.zeros(3), torch.zeros(2), torch.zeros(1)])
    module[0].grad = torch.tensor([1.0, 2.0, 3.0]) * (rank + 1)
    if rank == 1:
        # Zeros are a gradient: the other process must take them for one as well.
        module[1].grad = torch.zeros(2)
    losses = processes.sum_step(module, {"loss": torch.tensor(0.5 + rank), "other": torch.tensor(2.0)})
    assert {name: float(value) for name, value in losses.items()} == {"loss": 2.0, "other": 4.0}
    assert module[0].grad.tolist() == [3.0, 6.0, 9.0]
    assert module[1].grad.tolist() == [0.0, 0.0]
    assert module[2].grad is None
    (folder / f"done{rank}").touch()


def mistake(processes: Processes, folder: Path) -> None:  # noqa: ARG001
    """A user's mistake that one process meets while the other waits for it."""
    if processes.rank == 1:
        raise UserError("embeddings: no such file; build it first")
    processes.sum(np.zeros(1))


def killed(processes: Processes, folder: Path) -> None:  # noqa: ARG001
    """One process killed from outside."""
    if processes.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    processes.sum(np.zeros(1))


def endless(processes: Processes, folder: Path) -> None:
    """Processes that work until they are ended."""
    (folder / f"pid{processes.rank}").write_text(str(os.getpid()))
    while True:
        time.sleep(0.1)


def _main(processes: Processes) -> None:
    globals()[sys.argv[1]](processes, Path(sys.argv[2]))


if __name__ == "__main__":
    work(_main)

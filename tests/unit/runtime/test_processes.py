"""Several processes of one training: their messages, their shares of the work, and their end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensar_core.errors import UserError
from gensar_core.training.launch import count_processes, launch
from gensar_core.training.processes import ALONE, shares

WORKER = "tests.support.process_worker"


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("GENSAR_DEVICE", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


def test_shares_by_hand():
    # The most expensive first: 9 | 7; 5 to the second (12), 4 to the first (13), 3 to the second (15), 1 to the first (14).
    assert shares([5, 1, 9, 4, 7, 3], 2) == [[1, 2, 3], [0, 4, 5]]
    assert shares([4, 4, 4], 1) == [[0, 1, 2]]
    assert shares([2, 2], 3) == [[0], [1], []]


@given(st.lists(st.integers(1, 100), max_size=40), st.integers(1, 8))
def test_shares_hold_every_job_once_and_are_balanced(costs, count):
    dealt = shares(costs, count)
    assert sorted(place for places in dealt for place in places) == list(range(len(costs)))
    assert all(places == sorted(places) for places in dealt)
    loads = [sum(costs[place] for place in places) for places in dealt]
    assert max(loads) - min(loads) <= max(costs, default=0)


def test_a_lone_process_returns_its_inputs():
    values, losses, module = np.ones(2), {"loss": torch.ones(())}, torch.nn.Linear(1, 1)
    assert ALONE.sum(values) is values
    assert ALONE.sum_step(module, losses) is losses
    assert module.weight.grad is None
    assert ALONE.own(3).tolist() == [0, 1, 2]
    assert ALONE.tell("abc") == "abc"


def test_each_gpu_has_a_process_and_a_cpu_as_many_as_configured(monkeypatch):
    assert count_processes(gpus=4, processes=2) == 2
    assert count_processes(gpus=1, processes=0) == 1
    assert count_processes(gpus=1, processes=6, nodes=2) == 3
    with pytest.raises(UserError, match="processes=3 cannot be shared by nodes=2 alike"):
        count_processes(gpus=2, processes=3, nodes=2)
    monkeypatch.delenv("GENSAR_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [count_processes(gpus, processes=7) for gpus in (0, 1, 4)] == [1, 1, 4]
    assert count_processes(gpus=8, processes=7, nodes=2) == 4
    with pytest.raises(UserError, match="gpu=5, but this machine shows 4"):
        count_processes(5, 1)
    with pytest.raises(UserError, match="gpu=3 cannot be shared by nodes=2 alike"):
        count_processes(3, 2, nodes=2)
    monkeypatch.setenv("GENSAR_DEVICE", "cuda:1")
    assert count_processes(gpus=4, processes=7) == 1


def test_several_nodes_are_those_of_a_slurm_job(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match="nodes=2 takes the Slurm profile"):
        launch(WORKER, [], 1, nodes=2)


@pytest.mark.slow
def test_two_processes_sum_and_agree(tmp_path):
    launch(WORKER, ["sums", str(tmp_path)], 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done0", "done1"]
    # The cores are shared out as well.
    assert os.environ["OMP_NUM_THREADS"] == "1"


@pytest.mark.slow
def test_a_users_mistake_in_one_process_ends_all_with_one_line(tmp_path, capfd):
    with pytest.raises(UserError, match=r"^embeddings: no such file; build it first$"):
        launch(WORKER, ["mistake", str(tmp_path)], 2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_killed_process_ends_all(tmp_path):
    with pytest.raises(RuntimeError, match=r"process 1 of 2 failed: Signal 9 \(SIGKILL\)"):
        launch(WORKER, ["killed", str(tmp_path)], 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_job_ends_all_its_processes(tmp_path, number):
    code = f"from gensar_core.training.launch import launch; launch({WORKER!r}, ['endless', {str(tmp_path)!r}], 2)"
    job = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while len(list(tmp_path.glob("pid?"))) < 2 and job.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    pids = [int(path.read_text()) for path in tmp_path.glob("pid?")]
    job.send_signal(number)
    job.wait(60)
    while any(map(running, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert len(pids) == 2
    assert not any(map(running, pids))


def running(pid: int) -> bool:
    """Check whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False

"""One training on two nodes of a real Slurm."""

import os
import subprocess
import sys

import pytest

from tests.workflow.planning import ROOT

from .slurm import slurm

LAUNCH = "from gensar_core.training.launch import launch; launch('tests.support.process_worker', {words!r}, 1, nodes=2)"


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    with slurm(tmp_path_factory.mktemp("slurm")) as variables:
        yield {**os.environ, **variables, "GENSAR_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}


def launch(variables, *words):
    """Launch a process on each of two nodes from within a job that has both."""
    command = ["salloc", "--quiet", "--nodes=2", "--ntasks=2", "--mem=2000", sys.executable, "-c"]
    return subprocess.run(
        [*command, LAUNCH.format(words=list(map(str, words)))],
        cwd=ROOT, env=variables, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_processes_of_two_nodes_sum_and_agree(variables, tmp_path):
    done = launch(variables, "sums", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done0", "done1"]


def test_a_mistake_on_one_node_ends_both_with_its_line(variables, tmp_path):
    done = launch(variables, "mistake", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("gensar_core.errors.UserError: embeddings: no such file; build it first\n")


def test_a_process_killed_on_one_node_ends_both(variables, tmp_path):
    done = launch(variables, "killed", tmp_path)
    assert done.returncode == 1
    assert "RuntimeError: process 1 of 2 failed: Signal 9 (SIGKILL)" in done.stderr

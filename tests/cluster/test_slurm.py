"""The whole flow on a real Slurm, through the profile that clusters use."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from tests.workflow import test_processes as training
from tests.workflow.conftest import TABLE, TINY, Workflow
from tests.workflow.planning import ROOT

from .slurm import slurm

GPU_RULES = set(yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())["set-resources"])
#: Longest time that a run may take; a hung one is ended.
LIMIT_SECONDS = 900
LAUNCH = "from gensar_core.training.launch import launch; launch('tests.support.process_worker', {words!r}, 1, nodes=2)"


class Cluster:
    """A working folder whose jobs go to Slurm."""

    def __init__(self, folder, variables):
        self.workflow = Workflow(folder)
        self.variables = variables

    def run(self, target, *arguments, **variables):
        """Run the workflow through profiles/slurm, with what a small cluster without accounting needs.

        Jobs have as many threads as those of the local run, whose bytes they are to give.
        """
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += [
            "--workflow-profile",
            str(ROOT / "profiles" / "slurm"),
            "--max-threads",
            "1",
            "--latency-wait",
            "10",
        ]
        # A stage takes seconds, and a check that finds nothing finished puts the next one off by ten.
        command += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "9"]
        command += [*arguments, "--", target]
        # A hung run does not heed the first signal.
        return subprocess.run(
            ["timeout", "-k", "10", str(LIMIT_SECONDS), *command],
            cwd=self.workflow.folder,
            env=self.workflow.environment(**{**self.variables, **variables}),
            capture_output=True,
            text=True,
            check=False,
        )

    def jobs(self):
        """Rule -> what Slurm knows of a job of it, key by key; finished jobs as well."""
        shown = subprocess.run(
            ["scontrol", "show", "job", "--oneliner"],
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            check=True,
        )
        found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in shown.stdout.splitlines()]
        return {
            re.match(r"rule_(.*?)_wildcards|rule_(.*)", job["Comment"])[1]: job for job in found if "Comment" in job
        }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "run").mkdir()
    with slurm(folder / "slurm") as variables:
        yield Cluster(folder / "run", variables)


def test_the_demo_on_slurm(cluster, tiny_demo, tmp_path):
    few = tmp_path / "few.yaml"
    few.write_text("tables: {demo: {rows: [minilm_cosine, gensar_demo], proposed: [gensar_demo]}}")
    # A job that dies is reported; jobs that do not need its outputs run on.
    (tmp_path / "only").write_text("results/demo/identifiers/.* commit")
    path = os.pathsep.join(filter(None, [str(ROOT / "tests" / "interruptions"), os.environ.get("PYTHONPATH")]))
    demo = (TABLE, "--configfile", str(TINY), str(few))
    failed = cluster.run(*demo, "--retries", "0", GENSAR_TEST_KILLS=str(tmp_path), PYTHONPATH=path)
    told = failed.stdout + failed.stderr
    assert failed.returncode == 1, told
    assert "Error in rule identifiers" in told
    assert "SLURM status is: 'FAILED'" in told
    results = cluster.workflow.folder / "results"
    assert not (results / "demo/identifiers/joint_demo/identifiers.parquet").exists()
    assert not (results / "tables/demo.csv").exists()
    assert (results / "demo/ranks/minilm_cosine.parquet").is_file()

    # The rerun finishes, in the bytes of a run on this machine alone.
    finished = cluster.run(*demo)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for name in ("minilm_cosine", "gensar_demo"):
        ranks = f"results/demo/ranks/{name}.parquet"
        assert (results.parent / ranks).read_bytes() == (tiny_demo.folder / ranks).read_bytes()

    # Trainings went to the partition with GPUs and had one each; no other job did.
    jobs = cluster.jobs()
    assert {"samples", "embed_text", "identifiers", "train_generator", "overall_table"} <= set(jobs)
    for rule, job in jobs.items():
        trains = rule in GPU_RULES
        assert job["Partition"] == ("gpu" if trains else "cpu"), rule
        assert ("gpu" in job.get("TresPerJob", "") + job.get("TresPerNode", "")) == trains, rule
        assert int(re.match(r"\d+", job["MinMemoryNode"])[0]) > 0
        assert job["TimeLimit"] != "UNLIMITED"


def test_a_training_on_two_nodes_learns_what_one_process_learns(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("GENSAR_DEVICE", "cpu")
    nodes = Cluster(tmp_path, cluster.variables)
    training.prepare(nodes.workflow)
    resources = ("slurm_partition=gpu", "mpi=srun", "nodes=2", "tasks=2", "tasks_per_gpu=0", "gpu=2", "processes=2")
    done = nodes.run(
        f"{training.MODEL}/stage.json",
        *("--allowed-rules", "train_generator", "--set-resources"),
        *(f"train_generator:{resource}" for resource in resources),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert nodes.jobs()["train_generator"]["NodeList"] == "node[1-2]"
    assert json.loads((tmp_path / training.MODEL / "stage.json").read_text())["counts"]["processes"] == 2
    # The first process alone speaks.
    assert (tmp_path / training.LOG).read_text().count("step 15 of 15") == 1
    training.assert_as_alone(tmp_path)


def launch(cluster, *words):
    """Launch a process on each of two nodes from within a job that has both."""
    command = ["salloc", "--quiet", "--nodes=2", "--ntasks=2", "--mem=2000", sys.executable, "-c"]
    return subprocess.run(
        [*command, LAUNCH.format(words=list(map(str, words)))],
        cwd=ROOT,
        env={**os.environ, **cluster.variables, "GENSAR_DEVICE": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


def test_processes_on_two_nodes_sum_and_agree(cluster, tmp_path):
    done = launch(cluster, "sums", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done0", "done1"]


def test_a_users_mistake_on_one_node_ends_both_with_its_line(cluster, tmp_path):
    done = launch(cluster, "mistake", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith("gensar_core.errors.UserError: embeddings: no such file; build it first\n")


def test_a_process_killed_on_one_node_ends_both(cluster, tmp_path):
    done = launch(cluster, "killed", tmp_path)
    assert done.returncode == 1
    assert "RuntimeError: process 1 of 2 failed: Signal 9 (SIGKILL)" in done.stderr

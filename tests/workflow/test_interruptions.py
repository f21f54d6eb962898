"""Killed at any moment, a run is taken up again and ends in the same bytes; a full disk is one clear error."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gensar_core.runtime.stage import read_record
from tests.disks import small_disk

from .conftest import COLLISIONS, TABLE, TINY, Workflow
from .planning import ROOT

#: A checkpoint after every step, so that every training leaves some; no result depends on it.
CHECKPOINTS = ("--config", "checkpoint_seconds=0")
#: Its sitecustomize.py kills processes; see there for the moments.
KILLER = ROOT / "tests" / "interruptions"
TRAININGS = {"gensar_demo", "gensar_demo_t5", "sasrec", "joint_demo"}
#: One method stands for all: every stage but those of the others.
KILLED = r"^(?!results/demo/(models|ranks)/(random|popularity|minilm_cosine|query_frequency)\b)"


def killing(marks: Path) -> dict[str, str]:
    """Variables that make Python processes kill themselves once at each moment of each stage in `KILLED`."""
    marks.mkdir()
    (marks / "only").write_text(KILLED)
    path = os.pathsep.join(filter(None, [str(KILLER), os.environ.get("PYTHONPATH")]))
    return {"GENSAR_TEST_KILLS": str(marks), "PYTHONPATH": path}


@pytest.mark.long
def test_every_stage_survives_a_kill_at_every_moment(tiny_demo, tmp_path):
    marks = tmp_path / "marks"
    (tmp_path / "run").mkdir()
    workflow = Workflow(tmp_path / "run", TINY)
    workflow.run(TABLE, options=("--retries", "99", *CHECKPOINTS), **killing(marks))
    kills = {tuple(mark.read_text().split()) for mark in marks.iterdir() if mark.name != "only"}

    results = workflow.folder / "results"
    expected = set()
    for path in results.rglob("*stage.json"):
        # A stage that has nothing but its record to leave (a method without weights) moves no outputs.
        moments = ("commit", "record", "cleanup") if read_record(path)["outputs"] else ("record", "cleanup")
        expected |= {(str(path.relative_to(workflow.folder)), moment) for moment in moments}
    assert {(path, moment) for path, moment in expected if re.match(KILLED, path)} <= kills
    assert {Path(path).name for path, moment in kills if moment == "checkpoint"} == TRAININGS
    assert_equal_bytes(results, tiny_demo.folder / "results")
    assert not [path for path in results.rglob("*") if ".partial" in path.name or path.suffix == ".pt"]
    for generator in ("gensar_demo", "gensar_demo_t5"):
        log = (results / f"demo/logs/train_generator_{generator}.log").read_text()
        continued = re.search(r"continues at step (\d+) of", log)
        assert continued
        assert int(continued[1]) > 0


def test_a_run_killed_whole_ends_in_the_bytes_of_another_run(tiny_demo, tiny_workflow):
    folder = tiny_workflow.folder
    checkpoints = folder / "results/demo/checkpoints/gensar_demo_t5"
    run = subprocess.Popen(
        tiny_workflow.command("results/demo/models/gensar_demo_t5/stage.json", options=CHECKPOINTS),
        cwd=folder,
        env=tiny_workflow.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 600
        while not list(checkpoints.glob("*.pt")) and run.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert list(checkpoints.glob("*.pt"))
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert not (folder / TABLE).exists()

    # As after a power cut, the lock of the killed run is still there, and Snakemake says how to take it away.
    refused = tiny_workflow.run(TABLE, check=False)
    assert refused.returncode == 1
    assert "--unlock" in refused.stdout
    tiny_workflow.run(TABLE, options=("--unlock",))
    tiny_workflow.run(TABLE, COLLISIONS)
    log = (folder / "results/demo/logs/train_generator_gensar_demo_t5.log").read_text()
    assert "continues at step" in log
    assert_equal_bytes(folder / "results", tiny_demo.folder / "results")


def assert_equal_bytes(results: Path, others: Path) -> None:
    """Compare what every stage has written in ``results`` with the same files of another run."""
    kinds = ("*.parquet", "*.safetensors", "*.csv", "*.gz", "audit.json", "vocabulary.json", "tokenizer.json")
    files = sorted(path.relative_to(results) for kind in kinds for path in results.rglob(kind))
    assert len(files) > 25
    assert [str(file) for file in files if (results / file).read_bytes() != (others / file).read_bytes()] == []


@pytest.mark.parametrize("room_kb", [20, 200])
def test_a_full_disk_is_one_clear_error_and_no_output(tiny_workflow, tmp_path, room_kb):
    with small_disk(tmp_path / "results", room_kb):
        done = tiny_workflow.run("results/demo/samples/samples.parquet", check=False)
        assert done.returncode == 1
        errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
        assert len(set(errors)) == 1, done.stdout
        assert re.fullmatch(r"error: results/demo/\w+: the disk is full; free some space and run again", errors[0])
        assert "Traceback" not in done.stdout
        stopped = errors[0].split(": ")[1]
        assert list((tmp_path / stopped).glob("*")) == []
        assert not (tmp_path / "results/demo/samples/samples.parquet").exists()

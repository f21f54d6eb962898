"""`gensar status`: what is done, running, interrupted and to do, over a small workflow that leaves records."""

import json
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from gensar_core.cli.main import app
from gensar_core.cli.status import StageStatus, begun_outputs, stages
from gensar_core.errors import UserError

#: Three stages one after the other; the second waits until it is told to go on.
SNAKEFILE = """
rule all:
    input: "results/shop/tables/stage.json"

rule canonical:
    output: "results/shop/canonical/stage.json", table="results/shop/canonical/events.parquet"
    shell: "cp record.json {output[0]}; touch {output.table}"

rule train:
    input: "results/shop/canonical/stage.json"
    output: "results/shop/models/m/stage.json"
    shell: "touch begun; while [ ! -e go ]; do sleep 0.05; done; cp record.json {output}"

rule table:
    input: "results/shop/models/m/stage.json"
    output: "results/shop/tables/stage.json"
    shell: "cp record.json {output}"
"""
RECORD = {"stage": "any", "seconds": 1234.5, "peak_memory_gb": 2.25}
TO_DO = [StageStatus(f"shop/{name}", "to do") for name in ("canonical", "models/m", "tables")]
DONE = [StageStatus(stage.name, "done", 1234.5, 2.25) for stage in TO_DO]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    return tmp_path


def snakemake(folder, *arguments):
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(happened):
    """Wait for something that takes seconds."""
    for _ in range(600):
        if happened():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within a minute")


def test_stages_are_to_do_then_running_then_done(folder):
    assert stages(folder, []) == TO_DO
    run = snakemake(folder)
    try:
        wait_for((folder / "begun").exists)
        running = StageStatus("shop/models/m", "running")
        assert stages(folder, []) == [DONE[0], running, TO_DO[2]]
        assert begun_outputs(folder) == {"results/shop/models/m/stage.json"}
        # Asked for a target, it lists only what leads there.
        assert stages(folder, ["results/shop/canonical/stage.json"]) == DONE[:1]
    finally:
        (folder / "go").touch()
        assert run.wait(60) == 0
    assert stages(folder, []) == DONE

    (folder / "results/shop/tables/stage.json").unlink()
    shown = CliRunner().invoke(app, ["status", "--directory", str(folder)], catch_exceptions=False).stdout
    header, _, *rows = [line.split() for line in shown.splitlines()]
    assert header == ["state", "seconds", "peak", "GB", "stage"]
    assert rows == [
        ["done", "1,234.5", "2.25", "shop/canonical"],
        ["done", "1,234.5", "2.25", "shop/models/m"],
        ["to", "do", "shop/tables"],
        ["2", "done,", "1", "to", "do;", "2,469", "s", "spent"],
    ]

    record = folder / "results/shop/canonical/stage.json"
    for text, fault in (("{", "not readable as JSON"), ("[]", "not a stage's record"), ("{}", "not a stage's record")):
        record.write_text(text)
        with pytest.raises(UserError, match=rf"canonical/stage\.json: {fault}; delete it and run its stage again"):
            stages(folder, ["results/shop/canonical/stage.json"])


def test_a_run_killed_outright_leaves_an_interrupted_stage(folder):
    run = snakemake(folder)
    wait_for((folder / "begun").exists)
    run.kill()
    run.wait(60)
    (folder / "go").touch()
    wait_for((folder / "results/shop/models/m/stage.json").exists)
    assert snakemake(folder, "--unlock").wait(60) == 0
    assert stages(folder, ["--rerun-incomplete"])[1] == StageStatus("shop/models/m", "interrupted")


def test_a_folder_without_a_workflow_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"snakemake cannot plan this run: Error: No Snakefile found"):
        stages(tmp_path, [])

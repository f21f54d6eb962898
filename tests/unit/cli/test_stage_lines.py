"""`gensar run`: a line a stage with the time left, errors with their log; and a small workflow run by it."""

import io
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from snakemake_interface_logger_plugins.common import LogEvent
from typer.testing import CliRunner

from gensar_core.cli.main import app
from gensar_core.cli.stage_lines import STAGES, LogHandler, duration
from gensar_core.errors import UserError

ROOT = Path(__file__).parents[3]
SNAKEFILE = """
rule all:
    input: "ranks"

rule simulate:
    output: "raw"
    log: "logs/simulate.log"
    shell: "echo written > {output}"

rule method:
    input: "raw"
    output: "ranks"
    log: "logs/method.log"
    shell: "(echo line one; echo 'error: raw: holds no click') > {log}; test -e healed && touch {output}"
"""


@pytest.fixture
def handler():
    made = LogHandler(SimpleNamespace(nocolor=True, dryrun=False), None)
    made.console = Console(file=io.StringIO(), width=200)
    made.now = 100.0
    made.clock = lambda: made.now
    return made


def emit(handler, event, level=logging.INFO, text="", **values):
    record = logging.LogRecord("snakemake", level, "", 0, text, (), None)
    vars(record).update(event=event, **values)
    handler.emit(record)


def lines(handler):
    return [re.sub(" +", " ", line).strip() for line in handler.console.file.getvalue().splitlines()]


def test_every_rule_has_its_words():
    rules = {
        name
        for file in (ROOT / "rules").glob("*.smk")
        for name in re.findall(r"^(?:use rule \w+ as|rule) (\w+)", file.read_text(), re.MULTILINE)
    }
    assert set(STAGES) == rules


def test_the_time_left_follows_what_the_stages_have_taken(handler):
    """The demo takes 10 s for a method and 60 s for a generator; this run is slower."""
    emit(handler, LogEvent.RUN_INFO, stats={"method": 2, "train_generator": 1, "all": 1, "total": 4})
    emit(handler, LogEvent.JOB_INFO, jobid=1, rule_name="method", wildcards={"dataset": "demo", "method": "a"})
    handler.now += 30
    emit(handler, LogEvent.JOB_FINISHED, job_id=1)
    emit(handler, LogEvent.JOB_INFO, jobid=2, rule_name="method", wildcards={"dataset": "demo", "method": "b"})
    handler.now += 60
    emit(handler, LogEvent.JOB_FINISHED, job_id=2)
    emit(
        handler,
        LogEvent.JOB_INFO,
        jobid=3,
        rule_name="train_generator",
        wildcards={"dataset": "demo", "generator": "g"},
    )
    handler.now += 240
    emit(handler, LogEvent.JOB_FINISHED, job_id=3)
    emit(handler, LogEvent.JOB_INFO, jobid=4, rule_name="all", wildcards={})
    emit(handler, None, text="Complete log(s): /run/.snakemake/log/1.log")
    # 80 s of the demo; then 70 s at (30 + 10) / (10 + 10) of its pace; then 60 s at (90 + 10) / (20 + 10).
    assert lines(handler) == [
        "1/3 fit a method and rank by it demo a about 80 s left",
        "2/3 fit a method and rank by it demo b about 2 min left",
        "3/3 train a generator demo g about 3 min left",
        "3 stages done after 6 min; Snakemake's log: /run/.snakemake/log/1.log",
    ]


def test_warnings_and_mistakes_before_the_run_are_told_and_chatter_is_not(handler):
    emit(handler, None, text="Building DAG of jobs...")
    emit(handler, None, logging.WARNING, "a [bold]warning[/bold]")
    emit(handler, LogEvent.ERROR, logging.ERROR, "WorkflowError:\nconfig: no such entry")
    emit(handler, None, text="Nothing to be done (all requested files are present and up to date).")
    assert lines(handler) == [
        "a [bold]warning[/bold]",
        "WorkflowError:",
        "config: no such entry",
        "Nothing to be done (all requested files are present and up to date).",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1.5 h")]
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize("command", ["run", "status", "adopt"])
def test_outside_a_checkout_the_cure_is_told(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^Snakefile: no such file; .*run this in a checkout of GenSAR$"):
        CliRunner().invoke(app, [command, "results/tables/demo.csv"], catch_exceptions=False)


@pytest.mark.slow
def test_a_run_says_its_stages_and_a_failing_one_shows_its_error_and_its_log(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    for name in ("below.yaml", "above.yaml"):
        (tmp_path / name).write_text("{}")

    def run(*arguments):
        command = [sys.executable, "-m", "gensar_core", "run", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, [re.sub(" +", " ", line).strip() for line in done.stderr.splitlines()]

    code, told = run("--cores", "1")
    assert code == 1
    assert re.fullmatch(r"1/2 simulate a shop's raw logs about \d+ s left", told[0])
    assert re.fullmatch(r"2/2 fit a method and rank by it about \d+ s left", told[1])
    assert told[2:6] == [
        "failed: fit a method and rank by it (ranks)",
        "line one",
        "error: raw: holds no click",
        "whole log: logs/method.log",
    ]
    (log,) = re.findall(r"^stopped after \d+ s; Snakemake's log: (.*)$", told[6])
    assert len(told) == 7
    assert "Finished jobid" in Path(log).read_text()

    (tmp_path / "healed").touch()
    code, told = run("--cores", "1", "--configfile", "below.yaml", "above.yaml", "--", "ranks")
    assert code == 0
    assert told[0].startswith("1/1 fit a method and rank by it")
    assert re.match(r"1 stage done after \d+ s; Snakemake's log", told[1])

    # Targets may come first.
    assert run("ranks", "--cores", "1") == (0, ["Nothing to be done (all requested files are present and up to date)."])

"""Run the workflow with one line a stage: what happens, and how long is left (`gensar run`).

A logger plugin of Snakemake writes the lines. Snakemake's own, longer log goes to a file under .snakemake/log, and the
output of a stage to the log file of its rule.
"""

from __future__ import annotations

import logging
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

#: Words for each rule, and the seconds that it took in the demo on two cores (outside the demo: a guess).
#: The seconds are only weights: what the stages of a run have taken so far scales those that are left.
STAGES: Final[Mapping[str, tuple[str, float]]] = {
    "download_amazon": ("download reviews", 60),
    "download_product_search": ("download product search", 60),
    "simulate": ("simulate a shop's raw logs", 2),
    "canonical_amazon": ("read the raw logs", 2),
    "canonical_eventlog": ("read the raw logs", 2),
    "canonical_kuaisar": ("read the raw logs", 2),
    "canonical_qilin": ("read the raw logs", 2),
    "canonical_eventlog_survey": ("read and share out the raw logs", 2),
    "canonical_kuaisar_survey": ("read and share out the raw logs", 2),
    "canonical_qilin_survey": ("read and share out the raw logs", 2),
    "canonical_part": ("sort a part of the events", 2),
    "canonical_gather": ("gather events", 2),
    "samples": ("build samples and audit leaks", 2),
    "samples_survey": ("survey samples", 2),
    "samples_part": ("build a part of the samples", 2),
    "samples_gather": ("gather samples", 2),
    "training_negatives": ("draw training negatives", 2),
    "training_negatives_part": ("draw a part of the training negatives", 2),
    "training_negatives_gather": ("gather training negatives", 2),
    "embed_text": ("encode item texts", 15),
    "embed_trained_text": ("train text vectors on clicks", 30),
    "embed_sequential": ("take item vectors from a method", 3),
    "identifiers": ("learn identifiers", 12),
    "identifier_quality": ("measure identifiers", 3),
    "pseudo_queries": ("write pseudo-queries", 30),
    "corpus": ("write prompts", 5),
    "token_vectors": ("describe tokens by vectors", 3),
    "train_generator": ("train a generator", 60),
    "rank_generator": ("rank by a generator", 15),
    "rank_generator_part": ("rank a part by a generator", 15),
    "rank_generator_gather": ("gather ranks", 2),
    "full_rank_generator": ("rank all items by a generator", 30),
    "full_rank_generator_part": ("rank all items by a generator, a part", 30),
    "full_rank_generator_gather": ("gather ranks among all items", 2),
    "add_items": ("give new items identifiers", 5),
    "recommendations": ("recommend to all users", 30),
    "recommendations_part": ("recommend to a part of the users", 30),
    "recommendations_gather": ("gather recommendations", 2),
    "searches": ("search for a file of queries", 15),
    "tune_generator": ("search a generator's settings", 600),
    "tune_method": ("search a method's settings", 300),
    "method": ("fit a method and rank by it", 10),
    "full_rank_method": ("rank all items by a method", 10),
    "fuse": ("weigh rankers into one", 3),
    "full_rank_fusion": ("weigh methods into one among all items", 20),
    "overall_table": ("count hits and test the lead", 3),
    "named_table": ("count hits and test the lead", 3),
    "full_table": ("count hits among all items", 3),
    "cold_items": ("count hits on cold items", 3),
    "comparison_figure": ("draw a comparison", 3),
    "costs": ("sum up costs", 3),
    "named_costs": ("sum up costs", 3),
    "statistics": ("compute statistics", 4),
    "collisions": ("draw collisions", 3),
    "training_curves": ("draw training curves", 3),
    "overview": ("write the data set's page", 3),
}
#: Weight of the demo's pace against the run's own, in seconds of the demo.
_PRIOR: Final = 10.0
_CHATTER: Final = ("CalledProcessError", "eligible for caching")
#: Lines of a failed stage's log that are shown.
_LINES_OF_LOG: Final = 8


class LogHandler(LogHandlerBase):
    """Write Snakemake's events to the terminal: a line as a stage starts, its log as it fails, warnings and errors."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        """Prepare an empty run."""
        self.console = Console(stderr=True, highlight=False, no_color=self.common_settings.nocolor or None)
        self.clock = time.monotonic
        self._counts: dict[str, int] = {}
        self._rules: dict[int, str] = {}
        self._begun = self.clock()
        self._left = self._weight = 0.0
        self._failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write what an event of Snakemake means for the reader, if anything."""
        match getattr(record, "event", None):
            case LogEvent.RUN_INFO:
                self._plan(vars(record)["stats"])
            case LogEvent.JOB_INFO:
                self._start(record)
            case LogEvent.JOB_FINISHED:
                self._left -= _seconds(self._rules.pop(vars(record)["job_id"], "all"))
            case LogEvent.JOB_ERROR:
                self._fail(record)
            case None | LogEvent.ERROR:
                self._say(record)

    def _plan(self, stats: Mapping[str, int]) -> None:
        self._counts = {rule: count for rule, count in stats.items() if rule in STAGES}
        self._left = self._weight = sum(count * _seconds(rule) for rule, count in self._counts.items())
        self._begun, self._started = self.clock(), 0

    def _start(self, record: logging.LogRecord) -> None:
        job = vars(record)
        rule = job["rule_name"]
        self._rules[job["jobid"]] = rule
        if rule not in STAGES:
            return
        self._started += 1
        total = sum(self._counts.values())
        line = Text(f"{self._started:>{len(str(total))}}/{total}  ", style="dim")
        line.append(f"{STAGES[rule][0]:<36}", style="bold").append(f" {' '.join(job['wildcards'].values()):<28}")
        if not self.common_settings.dryrun:
            line.append(f" about {duration(self._seconds_left())} left", style="cyan")
        self.console.print(line, soft_wrap=True)

    def _seconds_left(self) -> float:
        done = self._weight - self._left
        pace = (self.clock() - self._begun + _PRIOR) / (done + _PRIOR)
        return pace * self._left

    def _fail(self, record: logging.LogRecord) -> None:
        job = vars(record)
        self._failed = True
        words = STAGES.get(job["rule_name"], (job["rule_name"],))[0]
        self.console.print(Text(f"failed: {words} ({', '.join(job['output'])})", style="bold red"), soft_wrap=True)
        for log in map(Path, job["log"]):
            text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
            for line in text.splitlines()[-_LINES_OF_LOG:]:
                self.console.print(Text(f"    {line}", style="dim"), soft_wrap=True)
            self.console.print(Text(f"whole log: {log}", style="red"), soft_wrap=True)

    def _say(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith(("Nothing to be done", "This was a dry-run")):
            self.console.print(Text(message), soft_wrap=True)
        elif message.startswith("Complete log"):
            count = sum(self._counts.values())
            done = "stopped" if self._failed else f"{count} stage{'s' * (count != 1)} done"
            took = duration(self.clock() - self._begun)
            self.console.print(f"{done} after {took}; Snakemake's log: {message.split(': ', 1)[1]}", soft_wrap=True)
        # Leave out what `_fail` says better, and what is no trouble.
        elif record.levelno >= logging.WARNING and not self._failed and not any(text in message for text in _CHATTER):
            style = "red" if record.levelno >= logging.ERROR else "yellow"
            self.console.print(Text(message, style=style), soft_wrap=True)


def _seconds(rule: str) -> float:
    return STAGES[rule][1] if rule in STAGES else 0.0


def duration(seconds: float) -> str:
    """Round a time to what a reader needs: seconds, minutes or hours."""
    for unit, name, limit in ((1, "s", 90), (60, "min", 90)):
        if seconds < limit * unit:
            return f"{max(1, round(seconds / unit))} {name}"
    return f"{seconds / 3600:.1f} h"


def run(arguments: Sequence[str]) -> None:
    """Run Snakemake in this process with its own ``arguments`` and these lines; ends the process with its exit code."""
    # Registered by hand, since Snakemake finds no plugins in packages that are installed to be edited.
    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_gensar", sys.modules[__name__])
    # With `=`, since the option takes many values and would take the targets.
    sys.argv = ["snakemake", "--logger=gensar", *arguments]
    runpy.run_module("snakemake", run_name="__main__")

"""Plans of the workflow, many in one process: what would run after a change, job by job."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from snakemake.api import SnakemakeApi
from snakemake.executors import touch
from snakemake.settings.enums import Quietness, RerunTrigger
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    OutputSettings,
    ResourceSettings,
    StorageSettings,
    WorkflowSettings,
)

ROOT = Path(__file__).parents[2]
#: A job: its rule and its wildcards by name.
Job = tuple[str, tuple[tuple[str, str], ...]]


class Plans:
    """The workflow of a checkout over a folder of finished results.

    ``values`` is the whole configuration. Results are finished by name alone: every file is there, empty, and Snakemake
    has noted the parameters, code and inputs it would have been made with, which is all that a plan looks at.
    """

    def __init__(self, folder: Path, values: Mapping[str, Any], targets: Iterable[str], snakefile: Path | None = None):
        self.folder = folder
        self.targets = set(targets)
        self.snakefile = snakefile or ROOT / "Snakefile"
        self.values = copy.deepcopy(dict(values))
        graph = self._graph(self.values)
        self.jobs = {_name(job): job for job in graph.jobs}
        self._followers: dict[Job, set[Job]] = {name: set() for name in self.jobs}
        for job in graph.jobs:
            for needed in graph.dependencies[job]:
                self._followers[_name(needed)].add(_name(job))
            for path in job.output:
                target = self.folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
        self._graph(self.values, executor="touch")

    def needed(self, values: Mapping[str, Any] | None = None, cores: int = 2) -> set[Job]:
        """The jobs that would run under another configuration."""
        graph = self._graph(self.values if values is None else values, cores)
        return {_name(job) for job in graph.needrun_jobs(exclude_finished=False)} - {("all", ())}

    def moved(self, folder: Path, snakefile: Path) -> Plans:
        """The same plans over another copy of the results and of the workflow."""
        elsewhere = copy.copy(self)
        elsewhere.folder, elsewhere.snakefile = folder, snakefile
        return elsewhere

    def following(self, jobs: Iterable[Job]) -> set[Job]:
        """The jobs and everything that reads what they write, directly or not."""
        reached: set[Job] = set()
        waiting = list(jobs)
        while waiting:
            job = waiting.pop()
            if job not in reached:
                reached.add(job)
                waiting.extend(self._followers[job])
        return reached - {("all", ())}

    def _graph(self, values: Mapping[str, Any], cores: int = 2, executor: str = "dryrun") -> Any:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return job_graph(self.folder, self.targets, self.snakefile, cores=cores, executor=executor)


def job_graph(
    folder: Path,
    targets: Iterable[str],
    snakefile: Path = ROOT / "Snakefile",
    configfiles: Iterable[Path] = (),
    cores: int = 2,
    executor: str = "dryrun",
    allowed_rules: Iterable[str] = (),
) -> Any:
    """Plan the jobs that lead to the targets in a working folder; the executor `touch` also notes all as done."""
    # The Snakefile sets variables for its jobs; to note a job as done takes no tenth of a second.
    with (
        SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api,
        mock.patch.dict(os.environ),
        mock.patch.object(touch.Executor, "SLEEPING_TIME", 0.001),
    ):
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=cores),
            config_settings=ConfigSettings(configfiles=list(configfiles)),
            storage_settings=StorageSettings(),
            workflow_settings=WorkflowSettings(),
            snakefile=snakefile,
            workdir=folder,
        )
        profile = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text())
        settings = DAGSettings(
            targets=set(targets),
            forceall=executor == "touch",
            allowed_rules=frozenset(allowed_rules),
            rerun_triggers=frozenset(RerunTrigger.parse_choice(name) for name in profile["rerun-triggers"]),
            max_checksum_file_size=profile["max-checksum-file-size"],
        )
        workflow.dag(dag_settings=settings).execute_workflow(executor=executor)
        return workflow._workflow.dag


def _name(job: Any) -> Job:
    return job.rule.name, tuple(sorted(job.wildcards_dict.items()))

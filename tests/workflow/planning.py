"""Plans of the workflow, many in one process: what would run after a change, job by job."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness, RerunTrigger
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    OutputSettings,
    ResourceSettings,
    StorageSettings,
    WorkflowSettings,
)

from .conftest import ROOT

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
        dag = self._dag(self.values)
        self.jobs = {_name(job): job for job in dag.jobs}
        self._follow: dict[Job, set[Job]] = {name: set() for name in self.jobs}
        for job in dag.jobs:
            for needed in dag.dependencies[job]:
                self._follow[_name(needed)].add(_name(job))
        self._finish(dag)

    def needed(self, values: Mapping[str, Any] | None = None, cores: int = 2) -> set[Job]:
        """The jobs that would run under another configuration."""
        dag = self._dag(self.values if values is None else values, cores)
        return {_name(job) for job in dag.needrun_jobs(exclude_finished=False)} - {("all", ())}

    def moved(self, folder: Path, snakefile: Path) -> Plans:
        """The same plans over another copy of the results and of the workflow."""
        elsewhere = copy.copy(self)
        elsewhere.folder, elsewhere.snakefile = folder, snakefile
        return elsewhere

    def following(self, jobs: Iterable[Job]) -> set[Job]:
        """The jobs and everything that reads what they write, directly or not."""
        found: set[Job] = set()
        waiting = list(jobs)
        while waiting:
            job = waiting.pop()
            if job not in found:
                found.add(job)
                waiting.extend(self._follow[job])
        return found - {("all", ())}

    def _finish(self, dag: Any) -> None:
        for job in dag.jobs:
            for path in job.output:
                target = self.folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
        self._run(self.values, "touch")

    def _dag(self, values: Mapping[str, Any], cores: int = 2) -> Any:
        return self._run(values, "dryrun", cores)

    def _run(self, values: Mapping[str, Any], executor: str, cores: int = 2) -> Any:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=cores),
                config_settings=ConfigSettings(),
                storage_settings=StorageSettings(),
                workflow_settings=WorkflowSettings(),
                snakefile=self.snakefile,
                workdir=self.folder,
            )
            workflow.dag(dag_settings=dag_settings(self.targets, executor == "touch")).execute_workflow(
                executor=executor
            )
            return workflow._workflow.dag


def dag_settings(targets: set[str], everything: bool) -> DAGSettings:
    """What the default profile says of plans; ``everything`` runs all jobs, needed or not."""
    profile = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text())
    return DAGSettings(
        targets=targets,
        forceall=everything,
        rerun_triggers=frozenset(RerunTrigger.parse_choice(name) for name in profile["rerun-triggers"]),
        max_checksum_file_size=profile["max-checksum-file-size"],
    )


def _name(job: Any) -> Job:
    return job.rule.name, tuple(sorted(job.wildcards_dict.items()))

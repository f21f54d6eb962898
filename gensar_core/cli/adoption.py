"""Adopt results copied without Snakemake's notes: check them, then let them count as done (`gensar adopt`).

Snakemake notes the parameters and inputs with which it made every file. Where the notes are missing it goes by dates,
which a copy does not keep, and runs everything again. A stage's own record suffices instead: it holds what the stage
wrote, from which inputs, and by which settings and code.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gensar_core.baselines.check import check_methods
from gensar_core.baselines.interface import find
from gensar_core.config.base import validate
from gensar_core.config.experiments import Experiments, read_experiments
from gensar_core.config.seeds import with_seeds
from gensar_core.config.stage_settings import stage_seed, stage_settings
from gensar_core.config.tables import MethodSettings
from gensar_core.errors import UserError
from gensar_core.runtime.fingerprint import fingerprint
from gensar_core.runtime.stage import digest, read_record
from gensar_core.runtime.verification import faults, outputs

#: Rules that show rows; these must have been made from every row that they are to show.
_SHOW_ROWS = ("overall_table", "named_table", "full_table", "cold_items", "comparison_figure", "costs", "named_costs")


@dataclass(frozen=True)
class Job:
    """Describe a job as Snakemake plans it."""

    rule: str
    wildcards: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def records(self) -> list[str]:
        """List the records among the job's outputs."""
        return [path for path in self.outputs if path.endswith("stage.json")]


def adopt(folder: Path, arguments: Sequence[str]) -> list[str]:
    """Make Snakemake treat results in ``folder`` as done, as far as they lead to the targets in ``arguments``.

    ``arguments`` are Snakemake's own. Returns the records adopted. Raises UserError, and changes nothing, when a file
    is not as its stage wrote it, or when a stage was made by other settings, seed or code, or from other inputs.
    """
    jobs = list(planned(_snakemake(folder, "--dry-run", "--forceall", *arguments)))
    built = [(job, record) for job in jobs for record in job.records if (folder / record).is_file()]
    if not built:
        raise UserError(f"{folder}: adopt: nothing that leads to these targets has been built here")
    experiments = _experiments(folder, arguments)
    wrong = [line for job, record in built for line in _differences(folder, record, job, jobs, experiments)]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(f"{wrong[0]}{more}; nothing has been adopted")
    _snakemake(folder, "--touch", "--forceall", *arguments)
    return [record for _, record in built]


def planned(text: str) -> Iterator[Job]:
    """Parse the jobs of a dry run from Snakemake's output."""
    for rule, block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", text, re.MULTILINE):
        lines = dict(re.findall(r"^    (input|output|wildcards): (.*)$", block, re.MULTILINE))
        wildcards = dict(pair.split("=", 1) for pair in lines.get("wildcards", "").split(", ") if pair)
        files = {key: tuple(filter(None, lines.get(key, "").split(", "))) for key in ("input", "output")}
        yield Job(rule, wildcards, files["input"], files["output"])


def _differences(folder: Path, record: str, job: Job, jobs: Iterable[Job], experiments: Experiments) -> Iterator[str]:
    """Yield the reasons not to accept a stage's results as those of a job."""
    for fault in faults(folder / record, whole=True):
        yield str(fault)
        return
    content = read_record(folder / record)
    again = f"; delete {folder / record} to have it made again"
    # A generator's ranks among all items record its settings beside the data set's.
    settings = content["settings"].get("retrieval", content["settings"])
    for key, value in _settings(experiments, job).items():
        if settings.get(key) != value:
            yield f"{folder / record}: was made with {key} {settings.get(key)!r}, not {value!r}{again}"
    if content["seed"] not in (None, seed := stage_seed(experiments, job.rule, job.wildcards)):
        yield f"{folder / record}: was made with seed {content['seed']}, not {seed}{again}"
    if content["module"] is not None and content["code"] != fingerprint(content["module"]):
        yield f"{folder / record}: was made by another version of {content['module']}{again}"
    # A method's record of ranks names the weights that its own job wrote earlier.
    makers, declared = _makers(content["inputs"], jobs) - {job.outputs[0]}, _makers(job.inputs, jobs)
    if makers - declared or (job.rule in _SHOW_ROWS and declared - makers):
        yield f"{folder / record}: was made from other inputs than the configuration names{again}"
    for path, sha256 in content["inputs"].items():
        if _now(folder, path, jobs) not in (None, sha256):
            yield f"{folder / record}: was made from another {path} than stands there{again}"


def _makers(paths: Iterable[str], jobs: Iterable[Job]) -> set[str]:
    """Return the makers of results: the first output of each job, or the file itself if no planned job makes it."""
    makers = {path: _maker(path, jobs) for path in paths if path.startswith("results/")}
    return {path if job is None else job.outputs[0] for path, job in makers.items()}


def _maker(path: str, jobs: Iterable[Job]) -> Job | None:
    for job in jobs:
        # A stage with its own folder may write more into it than its rule declares, and read the folder whole.
        folders = [record.removesuffix("stage.json") for record in job.records if record.endswith("/stage.json")]
        if path in job.outputs or any(path.startswith(folder) for folder in folders):
            return job
    return None


def _now(folder: Path, path: str, jobs: Iterable[Job]) -> str | None:
    """Return the sha256 of an input: of a raw file, or of a result by its stage's record. None: unknown."""
    job = _maker(path, jobs)
    if job is None:
        return digest(folder / path) if (folder / path).is_file() else None
    for record in (record for record in job.records if (folder / record).is_file()):
        if Path(path).is_relative_to(Path(record).parent):
            output = outputs(folder / record).get(str(Path(path).relative_to(Path(record).parent)))
            if output is not None:
                return str(output["sha256"])
    return None


def _settings(experiments: Experiments, job: Job) -> dict[str, Any]:
    """Return the settings that a job's stage records; those of a method are read by the method's file."""
    settings = stage_settings(experiments, job.rule, job.wildcards)
    if isinstance(settings, MethodSettings):
        settings = validate(find(settings.kind).settings_model, settings.own(), "config", "methods")
    return {} if settings is None else settings.model_dump(mode="json")


def _experiments(folder: Path, arguments: Sequence[str]) -> Experiments:
    """Read the configuration that Snakemake reads, with the entries that its tables' seeds add."""
    experiments = read_experiments(folder / "config.yaml", *(folder / name for name in _overlays(arguments)))
    traits = check_methods(experiments)
    return with_seeds(experiments, lambda kind: traits[kind].seeded)[0]


def _overlays(arguments: Sequence[str]) -> list[str]:
    """List the files that Snakemake merges over config.yaml. Raises UserError on settings that are in no file."""
    overlays: list[str] = []
    option = ""
    for word in arguments:
        if word.startswith("-"):
            option, _, value = word.partition("=")
            overlays += [value] if option in ("--configfile", "--configfiles") and value else []
            if option in ("--config", "-C"):
                raise UserError("adopt compares settings with those in files; write them into one, for --configfile")
        elif option in ("--configfile", "--configfiles"):
            overlays.append(word)
    return overlays


def _snakemake(folder: Path, *arguments: Any) -> str:
    """Run Snakemake; return all its output. Raises UserError with its last lines when it refuses."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"snakemake refuses: {' '.join(lines[-2:])}")
    return done.stdout + done.stderr

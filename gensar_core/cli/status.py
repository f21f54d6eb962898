"""Show which stages of a run are done, running and to do, with their time and memory (`gensar status`)."""

from __future__ import annotations

import base64
import binascii
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from gensar_core.errors import UserError
from gensar_core.runtime.stage import read_record

#: Folder of Snakemake's notes: a mark for every output that a job has begun, and a lock during a run.
_NOTES = Path(".snakemake")
_COLORS = {"done": "green", "running": "yellow", "interrupted": "red"}


@dataclass(frozen=True)
class StageStatus:
    """Describe one stage: `done`, `running`, `interrupted` or `to do`; seconds and peak memory when it is done."""

    name: str
    state: str
    seconds: float | None = None
    peak_memory_gb: float | None = None

    def cells(self) -> tuple[Text, str, str, str]:
        """Format the status for the terminal: state, seconds, peak GB, name."""
        numbers = ("", "") if self.seconds is None else (f"{self.seconds:,.1f}", f"{self.peak_memory_gb:.2f}")
        return (Text(self.state, style=_COLORS.get(self.state, "")), *numbers, self.name)


def stages(folder: Path, arguments: Sequence[str]) -> list[StageStatus]:
    """List the stages in ``folder`` that lead to the targets in ``arguments`` (none: all), in pipeline order.

    ``arguments`` are Snakemake's own; the stages come from its summary. Raises UserError with Snakemake's message when
    it refuses, and on an invalid record.
    """
    command = [sys.executable, "-m", "snakemake", "--summary", *arguments]
    summary = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if summary.returncode:
        lines = [line for line in summary.stderr.splitlines() if line.strip()]
        raise UserError(f"snakemake cannot plan this run: {' '.join(lines[-2:])}")
    begun = begun_outputs(folder)
    running = any((folder / _NOTES / "locks").glob("*"))
    # Snakemake lists the targets first, then what they are made of.
    flow = reversed(list(_records(summary.stdout)))
    return [_status(folder, path, pending, begun, running) for path, pending in flow]


def begun_outputs(folder: Path) -> set[str]:
    """Return the outputs that jobs have begun and not finished."""
    begun = set()
    for mark in (folder / _NOTES / "incomplete").rglob("*"):
        name = "".join(mark.relative_to(folder / _NOTES / "incomplete").parts).replace("@", "")
        if mark.is_file():
            try:
                begun.add(base64.b64decode(name, altchars=b"-_").decode())
            except (binascii.Error, UnicodeDecodeError):
                continue
    return begun


def _records(summary: str) -> Iterable[tuple[str, bool]]:
    """Yield (record, whether it is still to be made) of every stage."""
    for line in summary.splitlines():
        columns = line.split("\t")
        if len(columns) == 6 and columns[0] != "output_file":
            path, pending = columns[0], columns[5] != "no update"
            if path.endswith("stage.json"):
                yield path, pending


def _status(folder: Path, path: str, pending: bool, begun: set[str], running: bool) -> StageStatus:
    record = folder / path
    name = path.removesuffix("stage.json").rstrip("/.").removeprefix("results/")
    if path in begun:
        return StageStatus(name, "running" if running else "interrupted")
    if pending or not record.is_file():
        return StageStatus(name, "to do" if pending else "done")
    content = read_record(record)
    if not isinstance(content, dict) or not {"seconds", "peak_memory_gb"} <= content.keys():
        raise UserError(f"{record}: not a stage's record; delete it and run its stage again")
    return StageStatus(name, "done", content["seconds"], content["peak_memory_gb"])

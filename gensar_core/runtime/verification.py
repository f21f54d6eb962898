"""Verify results against their records: that the files of a stage are still as it wrote them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gensar_core.errors import UserError
from gensar_core.runtime.stage import digest, read_record


@dataclass(frozen=True)
class Fault:
    """Describe one file that is not as its stage wrote it."""

    path: Path
    problem: str
    #: Record in which the stage listed its outputs.
    record: Path

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; delete {self.record} and run again, and its stage is made anew"


def records(folder: Path) -> list[Path]:
    """List the records of all finished stages under a folder. Raises UserError when there are none."""
    paths = sorted(folder.rglob("*stage.json"))
    # The hidden folder of a stage is unfinished: the stage is running, or was killed.
    finished = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not finished:
        raise UserError(f"{folder}: no finished stage in it; name a folder of results, such as results/demo")
    return finished


def faults(record: Path, *, whole: bool, names: Collection[str] = ()) -> Iterator[Fault]:
    """Yield the faults in the outputs of one stage: files that are missing or have another size.

    ``whole`` compares their sha256 as well, which reads every file. ``names`` are the files to look at, if not all.
    """
    try:
        written = outputs(record)
    except UserError as error:
        yield Fault(record, str(error).removeprefix(f"{record}: ").partition(";")[0], record)
        return
    for name, expected in written.items():
        if names and name not in names:
            continue
        path = record.parent / name
        if not path.is_file():
            yield Fault(path, "is missing", record)
        elif (size := path.stat().st_size) != expected["bytes"]:
            yield Fault(path, f"has {size:,} bytes, and was written with {expected['bytes']:,}", record)
        elif whole and digest(path) != expected["sha256"]:
            yield Fault(path, "is not what was written (its sha256 has changed)", record)


def outputs(record: Path) -> dict[str, dict[str, Any]]:
    """Read what a stage wrote: path in its folder -> `bytes`, `sha256`. Raises UserError where the record lacks it."""
    content = read_record(record)
    written = content.get("outputs") if isinstance(content, dict) else None
    if not isinstance(written, dict):
        raise UserError(f"{record}: does not tell the digests of its outputs; delete it and run its stage again")
    return written


def intact(folder: Path, *names: str) -> list[Path]:
    """List the files that a stage wrote into its folder, or those named.

    Raises UserError when one of them is missing or is not as the stage wrote it; every file is read.
    """
    record = folder / "stage.json"
    for fault in faults(record, whole=True, names=names):
        raise UserError(str(fault))
    return [folder / name for name in names or outputs(record)]

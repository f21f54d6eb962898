"""Results against their records: whether what a stage wrote still stands as it wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gensar_core.errors import UserError
from gensar_core.runtime.stage import digest, read_record


@dataclass(frozen=True)
class Fault:
    """One file that is not as its stage left it."""

    path: Path
    what: str
    #: Where the stage told what it wrote.
    record: Path

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; delete {self.record} and run again, and its stage is made anew"


def records(folder: Path) -> list[Path]:
    """The records of all finished stages under a folder. Raises UserError when there are none."""
    found = [path for path in sorted(folder.rglob("*stage.json")) if not _unfinished(path.relative_to(folder))]
    if not found:
        raise UserError(f"{folder}: no finished stage in it; name a folder of results, such as results/demo")
    return found


def faults(record: Path, *, whole: bool) -> Iterator[Fault]:
    """What is wrong with the outputs of one stage: files that are missing or have another size.

    ``whole`` compares their sha256 as well, for which every file is read.
    """
    try:
        written = outputs(record)
    except UserError as error:
        yield Fault(record, str(error).removeprefix(f"{record}: ").partition(";")[0], record)
        return
    for name, expected in written.items():
        path = record.parent / name
        if not path.is_file():
            yield Fault(path, "is missing", record)
        elif (size := path.stat().st_size) != expected["bytes"]:
            yield Fault(path, f"has {size:,} bytes, and was written with {expected['bytes']:,}", record)
        elif whole and digest(path) != expected["sha256"]:
            yield Fault(path, "is not what was written (its sha256 has changed)", record)


def outputs(record: Path) -> dict[str, dict[str, Any]]:
    """What a stage wrote: path in its folder -> `bytes`, `sha256`. Raises UserError where it is not told."""
    content = read_record(record)
    found = content.get("outputs") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise UserError(f"{record}: does not tell the digests of its outputs; delete it and run its stage again")
    return found


def _unfinished(path: Path) -> bool:
    """Whether a path lies in the hidden folder of a stage that is running, or was killed."""
    return any(part.startswith(".") for part in path.parts)

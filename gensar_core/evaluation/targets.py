"""Read test targets of ranks tables, and check that compared rows rank the same ones, among equally many candidates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.ranking.metrics import UNSEEN, rank_codes
from gensar_core.runtime.mapped_arrays import MappedArray
from gensar_core.runtime.reading import table_parts

_TARGET = ["sample_id", "target_item"]
#: How many items a target was ranked among, and its ranks; a table `ranks` has the first column of each alone.
_AMONG = ("n_candidates", "n_unseen")
_RANKS = ("rank", f"rank{UNSEEN}")


@dataclass(frozen=True)
class TargetRanks:
    """Hold the ranks of a file's test targets, mapped from the disk, so that memory does not grow with the targets.

    ``codes`` are the `rank_codes` of each task that the file ranks, [targets] with the fields `rank` and, in a table
    `full_ranks`, `rank_unseen`, in the order of samples. ``targets`` is a digest of each task's targets. ``unseen``
    tells whether there is a second ranking.
    """

    kind: schema.Table
    codes: Mapping[str, np.ndarray]
    targets: Mapping[str, str]
    unseen: bool


def read_test_ranks(path: Path, kind: schema.Table = schema.RANKS) -> TargetRanks:
    """Read the ranks of test targets from a file of the table ``kind``.

    Raises UserError when the file holds no test target, and as `target_parts` does.
    """
    among, fields = ([name for name in names if name in kind.columns] for names in (_AMONG, _RANKS))
    codes = {task: MappedArray(path.parent, [(name, np.uint16) for name in fields]) for task in schema.TASKS}
    digests = {task: hashlib.sha256() for task in schema.TASKS}
    ranked, unseen = set(), False
    for task, rows in target_parts(path, kind):
        coded = rows.select(pl.col(name).fill_null(np.inf) for name in fields).to_dict()
        of_part = np.empty(len(rows), dtype=[(name, np.uint16) for name in fields])
        for name, ranks in coded.items():
            of_part[name] = rank_codes(ranks.to_numpy())
        codes[task].append(of_part)
        digests[task].update(rows.select(*_TARGET, *among).fill_null(-1).to_numpy(structured=True).tobytes())
        ranked.add(task)
        unseen |= any(rows.get_column(name).count() for name in among[1:])
    if not ranked:
        raise UserError(f"{path}: holds no ranks of test targets; delete it and run again")
    tasks = [task for task in schema.TASKS if task in ranked]
    return TargetRanks(
        kind,
        {task: codes[task].read_only() for task in tasks},
        {task: digests[task].hexdigest() for task in tasks},
        unseen,
    )


def target_parts(path: Path, kind: schema.Table = schema.RANKS) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the rows of test targets of a file of the table ``kind`` part by part, each with its task.

    Raises UserError when the file is missing or of another table, and when a task's rows are not in the order of
    samples.
    """
    last = dict.fromkeys(schema.TASKS, -1)
    for part in table_parts(path, kind):
        for task in schema.TASKS:
            rows = part.filter((pl.col("split") == "test") & (pl.col("task") == task))
            samples = rows.get_column("sample_id").to_numpy()
            if (np.diff(samples, prepend=last[task]) <= 0).any():
                raise UserError(f"{path}: targets of {task} are not in the order of samples; delete it and run again")
            last[task] = int(samples.max(initial=last[task]))
            if len(rows):
                yield task, rows


def check_same_targets(files: Mapping[Path, TargetRanks]) -> None:
    """Raise UserError when two files rank different targets of a task.

    Targets are compared one by one, by sample and item, and by the number of candidates they were ranked among. A file
    counts in the tasks that it ranks.
    """
    first: dict[str, Path] = {}
    for path, ranks in files.items():
        for task, targets in ranks.targets.items():
            other = first.setdefault(task, path)
            if targets != files[other].targets[task]:
                raise UserError(_difference(task, path, other, ranks.kind))


def _difference(task: str, path: Path, other: Path, kind: schema.Table) -> str:
    """Explain why two files cannot be compared: name both, and the first target that differs."""
    among = [name for name in _AMONG if name in kind.columns]
    targets, expected = (
        pl.concat(rows.select(*_TARGET, *among) for of, rows in target_parts(file, kind) if of == task)
        for file in (path, other)
    )
    cure = "delete the one that is older than the samples and run again"
    only = pl.concat([targets.join(expected, on=_TARGET, how="anti"), expected.join(targets, on=_TARGET, how="anti")])
    if not only.is_empty():
        sample, item, *_ = only.sort(_TARGET).row(0)
        example = f"sample {sample} with item {item} is a target of one alone"
        return f"task {task}: {path} ranks other test targets than {other} ({example}); {cure}"
    both = targets.join(expected, on=_TARGET, suffix="_expected")
    name = next(name for name in among if not targets[name].equals(expected[name]))
    differing = both.filter(pl.col(name).ne_missing(pl.col(f"{name}_expected")))
    sample, number, expected_number = differing.select("sample_id", name, f"{name}_expected").row(0)
    example = f"sample {sample}: {number} and {expected_number}"
    return f"task {task}: {path} ranks among other numbers of candidates than {other} ({example}); {cure}"

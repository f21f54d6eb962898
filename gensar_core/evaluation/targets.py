"""Check test targets of ranks tables: compared rows must rank the same targets, among equally many candidates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError

_TARGET = ["sample_id", "target_item"]
#: How many items a target was ranked among; a table `ranks` has the first column alone.
_AMONG = ("n_candidates", "n_unseen")


def read_test_ranks(path: Path, kind: schema.Table = schema.RANKS) -> pl.DataFrame:
    """Read the rows of test targets from a file of the table ``kind``, ordered by sample.

    Raises UserError when the file is missing, is of another table, or holds no test target.
    """
    table = kind.read(path).filter(pl.col("split") == "test").sort("sample_id")
    if table.is_empty():
        raise UserError(f"{path}: holds no ranks of test targets; delete it and run again")
    return table


def check_same_targets(tables: Mapping[Path, pl.DataFrame]) -> None:
    """Raise UserError when two tables (of ``read_test_ranks``, by file) rank different targets of a task.

    Targets are compared one by one, by sample and item, and by the number of candidates they were ranked among. A table
    counts in the tasks that it ranks.
    """
    first: dict[str, tuple[Path, pl.DataFrame]] = {}
    for path, table in tables.items():
        for task in schema.TASKS:
            among = [name for name in _AMONG if name in table.columns]
            targets = table.filter(pl.col("task") == task).select(*_TARGET, *among)
            if not targets.is_empty():
                other, expected = first.setdefault(task, (path, targets))
                if not targets.equals(expected):
                    raise UserError(_difference(task, path, targets, other, expected))


def _difference(task: str, path: Path, targets: pl.DataFrame, other: Path, expected: pl.DataFrame) -> str:
    """Explain why two files cannot be compared: name both, and the first target that differs."""
    cure = "delete the one that is older than the samples and run again"
    only = pl.concat([targets.join(expected, on=_TARGET, how="anti"), expected.join(targets, on=_TARGET, how="anti")])
    if not only.is_empty():
        sample, item, *_ = only.sort(_TARGET).row(0)
        example = f"sample {sample} with item {item} is a target of one alone"
        return f"task {task}: {path} ranks other test targets than {other} ({example}); {cure}"
    both = targets.join(expected, on=_TARGET, suffix="_expected")
    name = next(name for name in _AMONG if not targets[name].equals(expected[name]))
    differing = both.filter(pl.col(name).ne_missing(pl.col(f"{name}_expected")))
    sample, among, expected_among = differing.select("sample_id", name, f"{name}_expected").row(0)
    example = f"sample {sample}: {among} and {expected_among}"
    return f"task {task}: {path} ranks among other numbers of candidates than {other} ({example}); {cure}"

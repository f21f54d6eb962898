"""List the files that hold the samples of one part of the users."""

from __future__ import annotations

import itertools
from typing import Final

from gensar_core.schema import SPLITS, TASKS

#: Pairs of task and split, in the order of their sample ids, and the pairs that have candidates.
GROUPS: Final = tuple(itertools.product(TASKS, SPLITS))
EVALUATED: Final = tuple((task, split) for task, split in GROUPS if split != "train")
EVENTS_FILE: Final = "training_events.parquet"


def part_files() -> list[str]:
    """List a part's files: training events, samples of each task and split, and candidates of valid and test."""
    return [
        EVENTS_FILE,
        *(group_file("samples", *group) for group in GROUPS),
        *(group_file("candidates", *group) for group in EVALUATED),
    ]


def group_file(table: str, task: str, split: str) -> str:
    """Return the name of the file with a table's rows of one task and split."""
    return f"{table}_{task}_{split}.parquet"

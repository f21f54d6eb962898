"""Read the valid candidate lists that a training ranks again and again, so that memory does not grow with them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from gensar_core import schema
from gensar_core.ranking.candidates import TARGET, CandidateBlocks, CandidateLists, Choice
from gensar_core.ranking.metrics import count_codes, mean_gain, rank_codes

#: Valid lists ranked at a time.
_ROWS: Final = 1 << 16
#: All columns of samples.
WHOLE: Final = tuple(schema.SAMPLES.columns)


@dataclass(frozen=True)
class ValidLists:
    """Yield the valid candidate lists of a task block by block, with some ``columns`` of their samples.

    A single block is read once.
    """

    blocks: CandidateBlocks
    columns: Sequence[str] = TARGET

    @classmethod
    def open(
        cls,
        samples_folder: Path,
        task: str,
        users: int = 0,
        choice: Choice = "spread",
        columns: Sequence[str] = TARGET,
    ) -> ValidLists:
        """Find the lists of a task; ``users`` > 0 takes that many, as `CandidateBlocks.open` does."""
        return cls(CandidateBlocks.open(samples_folder, task, "valid", _ROWS, users, choice), columns)

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[CandidateLists]:
        return self._read() if len(self.blocks) > self.blocks.rows else iter(self._held)

    @functools.cached_property
    def _held(self) -> list[CandidateLists]:
        return list(self._read())

    def _read(self) -> Iterator[CandidateLists]:
        return self.blocks.read(columns=self.columns)

    def metrics(self, ranks: Callable[[CandidateLists], np.ndarray]) -> dict[str, float]:
        """Compute NDCG@5 and HR@10; ``ranks`` maps lists to the ranks of their targets [rows]."""
        counts = sum(count_codes(rank_codes(ranks(lists))) for lists in self)
        return {name: mean_gain(np.asarray(counts), name) for name in ("ndcg@5", "hr@10")}

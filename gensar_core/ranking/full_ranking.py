"""Rank each test target among all items of the catalogue, by one protocol for every method.

All items are candidates. With ``unseen``, each target is ranked a second time, without the items that its user has
clicked before: items of the user's training events of either task, and the user's valid targets. The target itself
always stays a candidate. Papers do either, often without saying which, so a table can show both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import TARGET, SampleBlocks
from gensar_core.ranking.metrics import count_codes, mean_gain, rank_codes, ranks_of
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.progress import progress
from gensar_core.runtime.reading import PART_ROWS
from gensar_core.runtime.writing import TableWriter

#: (sample, item) pairs scored at a time.
_PAIRS = 1 << 20


@dataclass(frozen=True)
class CatalogueTargets:
    """Hold test targets of one task.

    ``samples`` are rows of the samples table; ``clicked`` [rows] holds the items to leave out of the second ranking,
    each once, and is None when there is no second ranking.
    """

    samples: pl.DataFrame
    clicked: Ragged | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, start: int, stop: int) -> CatalogueTargets:
        """Take rows ``start`` to ``stop``."""
        rows = np.arange(len(self))[start:stop]
        return CatalogueTargets(self.samples[start:stop], None if self.clicked is None else self.clicked.take(rows))


class TargetBlocks(SampleBlocks):
    """Read a task's test targets in blocks of ``rows``, in the order of sample_id."""

    def read(
        self, start: int = 0, stop: int | None = None, columns: Sequence[str] = TARGET, *, unseen: bool = False
    ) -> Iterator[CatalogueTargets]:
        """Yield targets ``start`` to ``stop``, several whole blocks at a time, with these ``columns`` of their samples.

        With ``unseen``, each comes with the items that its user has clicked before.
        """
        for samples, _ in self.parts(start, stop, columns):
            yield CatalogueTargets(samples, self._clicked(samples) if unseen else None)

    def _clicked(self, targets: pl.DataFrame) -> Ragged:
        users = targets.get_column("user_id")
        # Users are in order: the range leaves most of a file unread.
        theirs = pl.col("user_id").is_between(users.min(), users.max()) & pl.col("user_id").is_in(users.implode())
        training = schema.EVENTS.scan(self.folder / "training_events.parquet").filter(theirs)
        valid = schema.SAMPLES.scan(self.folder / "samples.parquet").filter(theirs & (pl.col("split") == "valid"))
        both = training.select("user_id", "item_id"), valid.select("user_id", item_id="target_item")
        clicked = pl.concat(both).unique().collect(engine="streaming").sort("user_id", "item_id")
        by_user = targets.select("user_id", "target_item").join(
            clicked.group_by("user_id", maintain_order=True).agg("item_id"),
            on="user_id",
            how="left",
            maintain_order="left",
        )
        items = Ragged.from_series(by_user.get_column("item_id"))
        return items.filter(items.values != by_user.get_column("target_item").to_numpy()[items.rows])


def block_rows(n_items: int) -> int:
    """Return the number of targets to rank by score at a time."""
    return max(1, _PAIRS // n_items)


def ranks_by_score(
    targets: CatalogueTargets, n_items: int, score: Callable[[pl.DataFrame], np.ndarray], *, description: str
) -> pl.DataFrame:
    """Build the table `full_ranks` from exact scores.

    ``score`` maps samples to scores of all items, float [rows, n_items].
    """
    rows = block_rows(n_items)
    ranks = [np.zeros((2, 0))]
    for start in progress(range(0, len(targets), rows), description, unit="batch"):
        batch = targets.take(start, start + rows)
        ranks.append(catalogue_ranks(score(batch.samples), batch))
    return full_ranks(targets, np.concatenate(ranks, axis=1), n_items)


def catalogue_ranks(scores: np.ndarray, targets: CatalogueTargets) -> np.ndarray:
    """Rank each target among all items and among unseen ones: 1 is best, ties are averaged, float64 [2, rows].

    ``scores`` [rows, n_items]. Without a second ranking, its ranks are NaN. Raises UserError on a NaN score.
    """
    if np.isnan(scores).any():
        raise UserError("full ranking: a score is not a number; the method cannot rank the catalogue")
    items = targets.samples.get_column("target_item").to_numpy()
    target_scores, candidate = scores[np.arange(len(scores)), items], np.ones(scores.shape, dtype=bool)
    ranks = np.full((2, len(scores)), np.nan)
    ranks[0] = ranks_of(target_scores, scores, candidate)
    if targets.clicked is not None:
        candidate[targets.clicked.rows, targets.clicked.values] = False
        ranks[1] = ranks_of(target_scores, scores, candidate)
    return ranks


def found_ranks(items: np.ndarray, scores: np.ndarray, targets: CatalogueTargets) -> np.ndarray:
    """Rank each target among the items that a beam search returned, float64 [rows]; NaN where it missed the target.

    ``items`` [rows, n] holds the items, best first, -1 for none, and ``scores`` their scores; ties are averaged.
    """
    hit = items == targets.samples.get_column("target_item").to_numpy()[:, None]
    target_scores = np.where(hit, scores, -np.inf).max(axis=1, initial=-np.inf)
    return np.where(hit.any(axis=1), ranks_of(target_scores, scores, np.ones_like(hit)), np.nan)


def full_ranks(targets: CatalogueTargets, ranks: np.ndarray, n_items: int) -> pl.DataFrame:
    """Build the table `full_ranks` of these targets; ``ranks`` [2, rows], of which NaN is stored as null."""
    unseen = None if targets.clicked is None else n_items - targets.clicked.lengths
    columns = targets.samples.select("task", "split", "sample_id", "user_id", "target_item")
    return schema.FULL_RANKS.check(
        columns.with_columns(
            rank=pl.Series(ranks[0], dtype=pl.Float64).fill_nan(None),
            n_candidates=pl.lit(n_items, dtype=pl.Int32),
            rank_unseen=pl.Series(ranks[1], dtype=pl.Float64).fill_nan(None),
            n_unseen=pl.lit(None, dtype=pl.Int32) if unseen is None else pl.Series(unseen, dtype=pl.Int32),
        )
    )


def write_full_ranks(tables: Iterable[pl.DataFrame], path: Path) -> dict[str, float]:
    """Write rows of the table `full_ranks`, one table after the other, into one file.

    Returns Recall@20 of each task, and its share of targets without a rank, for a stage's record.
    """
    counts: dict[str, np.ndarray] = {}
    missed: Counter[str] = Counter()
    with TableWriter(schema.FULL_RANKS, path, rows=PART_ROWS) as writer:
        for table in tables:
            writer.write(table)
            for (task,), rows in table.group_by("task", maintain_order=True):
                ranks = rows.get_column("rank")
                of_rows = count_codes(rank_codes(ranks.fill_null(np.inf).to_numpy()))
                counts[str(task)] = counts.get(str(task), 0) + of_rows
                missed[str(task)] += ranks.null_count()
    metrics: dict[str, float] = {}
    for task, of_task in counts.items():
        metrics[f"{task}_recall@20"] = mean_gain(of_task, "recall@20")
        metrics[f"{task}_not_found"] = missed[task] / int(of_task.sum())
    return metrics

"""Load the candidate lists that every method ranks, and build the ranks table that every method writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.ranking.metrics import average_ranks, hit_rate, ndcg
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.progress import progress
from gensar_core.runtime.stage import Stage

#: Which lists to take when there are more than wanted.
Choice: TypeAlias = Literal["spread", "latest"]


@dataclass(frozen=True)
class CandidateLists:
    """Hold samples and the items to rank for each.

    ``samples`` are rows of the samples table; ``items`` int32 [rows, width] holds the target in column 0, then the
    negatives, then -1 where a list is shorter.
    """

    samples: pl.DataFrame
    items: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    @property
    def present(self) -> np.ndarray:
        """Return which places hold a candidate, bool [rows, width]."""
        return self.items >= 0

    def take(self, start: int, stop: int) -> CandidateLists:
        """Take rows ``start`` to ``stop``."""
        return CandidateLists(self.samples[start:stop], self.items[start:stop])


@dataclass(frozen=True)
class Ranking:
    """Hold a method's results on candidate lists: the tables `ranks` and `scores`."""

    ranks: pl.DataFrame
    scores: pl.DataFrame

    def write(self, stage: Stage, name: str) -> None:
        """Write {name}.parquet and {name}.scores.parquet among the stage's outputs, and record their metrics."""
        schema.RANKS.write(self.ranks, stage.path(f"{name}.parquet"))
        schema.SCORES.write(self.scores, stage.path(f"{name}.scores.parquet"))
        stage.record(**split_metrics(self.ranks))


def split_metrics(table: pl.DataFrame) -> dict[str, float]:
    """Compute HR@5, HR@10 and NDCG@5 of each task and split of a ranks table, by name, for a stage's record."""
    metrics: dict[str, float] = {}
    for (task, split), group in table.group_by("task", "split", maintain_order=True):
        ranks, name = group.get_column("rank").to_numpy(), f"{task}_{split}"
        metrics |= {f"{name}_hr@{depth}": hit_rate(ranks, depth) for depth in (5, 10)}
        metrics[f"{name}_ndcg@5"] = ndcg(ranks, 5)
    return metrics


def load_candidates(
    samples_folder: Path,
    task: str,
    split: str,
    *,
    users: int = 0,
    choice: Choice = "spread",
    samples: pl.DataFrame | None = None,
) -> CandidateLists:
    """Load the candidate lists of one task and split, in the order of sample_id.

    ``users`` > 0 takes that many lists: evenly spread, or those with the latest targets in time. Passing ``samples``
    saves reading the table again. Raises UserError when a sample has no candidates.
    """
    if samples is None:
        samples = schema.SAMPLES.read(samples_folder / "samples.parquet")
    rows = samples.filter((pl.col("task") == task) & (pl.col("split") == split)).sort("sample_id")
    if users and choice == "latest":
        rows = rows.sort("time", "sample_id").tail(users).sort("sample_id")
    else:
        rows = evenly_spread(rows, users)
    path = samples_folder / "candidates.parquet"
    wanted = rows.get_column("sample_id")
    negatives = schema.CANDIDATES.read(path, pl.col("sample_id").is_in(wanted.implode()))
    rows = rows.join(negatives, on="sample_id", how="left", maintain_order="left")
    if rows.get_column("negatives").null_count():
        raise UserError(f"{path}: holds no candidates for some {task} samples of {split}; build the samples again")
    lists = Ragged.from_series(rows.get_column("negatives"))
    width = int(lists.lengths.max(initial=0))
    items = np.column_stack([rows.get_column("target_item").to_numpy(), lists.padded(width, -1)])
    return CandidateLists(rows.drop("negatives"), items.astype(np.int32))


def evenly_spread(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    """Take ``count`` rows, evenly spread; all of them if there are fewer, or if ``count`` is 0."""
    if not 0 < count < len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]


def rank_lists(
    lists: CandidateLists, score: Callable[[CandidateLists], np.ndarray], *, batch_rows: int = 4096, description: str
) -> Ranking:
    """Score candidate lists in batches and rank their targets.

    ``score`` maps lists to floats [rows, width]; values in places without a candidate are ignored.
    """
    ranks, scores = [], [schema.SCORES.empty()]
    for start in progress(range(0, len(lists), batch_rows), description, unit="batch"):
        batch = lists.take(start, start + batch_rows)
        values = score(batch)
        ranks.append(average_ranks(values, batch.present))
        rows = Ragged.from_lengths(batch.present.sum(axis=1), values[batch.present].astype(np.float32))
        scores.append(batch.samples.select("sample_id").with_columns(rows.to_series("scores", pl.Float32())))
    return Ranking(ranks_table(lists, np.concatenate(ranks) if ranks else np.zeros(0)), pl.concat(scores))


def ranks_table(lists: CandidateLists, ranks: np.ndarray) -> pl.DataFrame:
    """Build the ranks table of these lists from the rank of each target [rows]."""
    return schema.RANKS.check(
        lists.samples.select("task", "split", "sample_id", "user_id", "target_item").with_columns(
            rank=pl.Series(ranks, dtype=pl.Float64),
            n_candidates=pl.Series(lists.present.sum(axis=1), dtype=pl.Int32),
        )
    )


def concat_rankings(rankings: Iterable[Ranking]) -> Ranking:
    """Join the rankings of several tasks and splits, in the order of sample_id."""
    every = list(rankings)
    return Ranking(
        concat_ranks(ranking.ranks for ranking in every),
        pl.concat([ranking.scores for ranking in every]).sort("sample_id"),
    )


def concat_ranks(tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Join the ranks tables of several tasks and splits, in the order of sample_id."""
    return pl.concat(list(tables)).sort("sample_id")

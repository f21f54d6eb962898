"""Load the candidate lists that every method ranks, and build the ranks table that every method writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, TypeAlias

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.ranking.metrics import average_ranks, count_codes, mean_gain, rank_codes
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.progress import progress
from gensar_core.runtime.reading import PART_ROWS, table_parts
from gensar_core.runtime.stage import Stage
from gensar_core.runtime.writing import TableWriter

#: Which lists to take when there are more than wanted.
Choice: TypeAlias = Literal["spread", "latest"]
#: What a ranks table says of a target.
_TARGET: Final = ("task", "split", "sample_id", "user_id", "target_item")


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
        """Write the tables among the stage's outputs; see `RankingWriter`."""
        with RankingWriter(stage, name) as writer:
            writer.write(self.ranks, self.scores)


class RankingWriter:
    """Write {name}.parquet (table `ranks`) and {name}.scores.parquet (`scores`) part by part; a context manager.

    Leaving it records HR@5, HR@10 and NDCG@5 of each task and split in the stage.
    """

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage = stage
        self._ranks = TableWriter(schema.RANKS, stage.path(f"{name}.parquet"), rows=PART_ROWS)
        self._scores = TableWriter(schema.SCORES, stage.path(f"{name}.scores.parquet"), rows=PART_ROWS)
        self._counts: dict[tuple[str, str], np.ndarray] = {}

    def __enter__(self) -> RankingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in (self._ranks, self._scores):
            writer.__exit__(kind, error, trace)
        for (task, split), counts in self._counts.items():
            metrics = {name: mean_gain(counts, name) for name in ("hr@5", "hr@10", "ndcg@5")}
            self._stage.record(**{f"{task}_{split}_{name}": value for name, value in metrics.items()})

    def write(self, ranks: pl.DataFrame, scores: pl.DataFrame) -> None:
        """Append rows of both tables."""
        self._ranks.write(ranks)
        self._scores.write(scores)
        for (task, split), rows in ranks.group_by("task", "split", maintain_order=True):
            counts = count_codes(rank_codes(rows.get_column("rank").to_numpy()))
            self._counts[str(task), str(split)] = self._counts.get((str(task), str(split)), 0) + counts


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
        rows = load_samples(samples_folder, task, split, users, choice)
    else:
        rows = _chosen(samples.filter(_of(task, split)), users, choice)
    negatives = schema.CANDIDATES.read(
        samples_folder / "candidates.parquet", pl.col("sample_id").is_in(rows.get_column("sample_id").implode())
    )
    return _with_negatives(rows, negatives, samples_folder)


def load_samples(
    samples_folder: Path, task: str, split: str, users: int = 0, choice: Choice = "spread"
) -> pl.DataFrame:
    """Load samples of one task and split, in the order of sample_id; ``users`` and ``choice`` as in `load_candidates`.

    They are chosen by ids and times alone: the histories of all would take much more memory.
    """
    path, columns = samples_folder / "samples.parquet", ["sample_id", "time", "task", "split"]
    parts = [part.filter(_of(task, split)) for part in table_parts(path, schema.SAMPLES, columns=columns)]
    chosen = _chosen(pl.concat([schema.SAMPLES.empty().select(columns), *parts]), users, choice)
    within = pl.col("sample_id").is_in(chosen.get_column("sample_id").implode())
    return schema.SAMPLES.read(path, within).sort("sample_id")


def _chosen(rows: pl.DataFrame, users: int, choice: Choice) -> pl.DataFrame:
    if users and choice == "latest":
        return rows.sort("time", "sample_id").tail(users).sort("sample_id")
    return evenly_spread(rows.sort("sample_id"), users)


def _with_negatives(rows: pl.DataFrame, negatives: pl.DataFrame, samples_folder: Path) -> CandidateLists:
    """Put the target and the negatives of each sample side by side. Raises UserError when a sample has none."""
    rows = rows.join(negatives, on="sample_id", how="left", maintain_order="left")
    if rows.get_column("negatives").null_count():
        task, split = rows.select("task", "split").row(0)
        raise UserError(
            f"{samples_folder / 'candidates.parquet'}: holds no candidates for some {task} samples of {split}; build "
            "the samples again"
        )
    lists = Ragged.from_series(rows.get_column("negatives"))
    width = int(lists.lengths.max(initial=0))
    items = np.column_stack([rows.get_column("target_item").to_numpy(), lists.padded(width, -1)])
    return CandidateLists(rows.drop("negatives"), items.astype(np.int32))


@dataclass(frozen=True)
class CandidateBlocks:
    """Read the candidate lists of one task and split in blocks of ``rows``, in the order of sample_id.

    Their ``samples`` lack times, queries and histories.

    ``first`` are the ids at which blocks begin, ``last`` is the last id (-1: there is none).
    """

    folder: Path
    task: str
    split: str
    rows: int
    first: Sequence[int]
    last: int
    count: int

    @classmethod
    def open(cls, samples_folder: Path, task: str, split: str, rows: int) -> CandidateBlocks:
        """Find the blocks in a folder of samples.

        Raises UserError when its samples are not in the order of their ids.
        """
        path, first, last, count = samples_folder / "samples.parquet", list[int](), -1, 0
        for part in table_parts(path, schema.SAMPLES, columns=("sample_id", "task", "split")):
            ids = part.filter(_of(task, split)).get_column("sample_id").to_numpy()
            if (np.diff(ids, prepend=last) <= 0).any():
                raise UserError(f"{path}: rows are not in the order of sample_id; build the samples again")
            first += ids[-count % rows :: rows].tolist()
            last, count = int(ids.max(initial=last)), count + len(ids)
        return cls(samples_folder, task, split, rows, first, last, count)

    def __len__(self) -> int:
        return self.count

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[CandidateLists]:
        """Yield the blocks of lists ``start`` to ``stop``; blocks begin at both, or the lists end there.

        Raises UserError when a sample has no candidates.
        """
        bounds = [*self.first, self.last + 1]
        begin, end = (-(-row // self.rows) for row in (start, self.count if stop is None else stop))
        at_once = max(1, PART_ROWS // self.rows)
        for block in range(begin, end, at_once):
            within = pl.col("sample_id").is_between(bounds[block], bounds[min(block + at_once, end)] - 1)
            samples = (
                schema.SAMPLES.scan(self.folder / "samples.parquet")
                .filter(within & _of(self.task, self.split))
                .select(_TARGET)
                .collect(engine="streaming")
                .sort("sample_id")
            )
            negatives = schema.CANDIDATES.read(self.folder / "candidates.parquet", within)
            for rows in samples.iter_slices(self.rows):
                yield _with_negatives(rows, negatives, self.folder)


def _of(task: str, split: str) -> pl.Expr:
    return (pl.col("task") == task) & (pl.col("split") == split)


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
    rankings = [
        rank_batch(lists.take(start, start + batch_rows), score)
        for start in progress(range(0, len(lists), batch_rows), description, unit="batch")
    ]
    return concat_rankings([Ranking(schema.RANKS.empty(), schema.SCORES.empty()), *rankings])


def rank_batch(lists: CandidateLists, score: Callable[[CandidateLists], np.ndarray]) -> Ranking:
    """Score some candidate lists together and rank their targets; ``score`` as in `rank_lists`."""
    values, present = score(lists), lists.present
    rows = Ragged.from_lengths(present.sum(axis=1), values[present].astype(np.float32))
    scores = lists.samples.select("sample_id").with_columns(rows.to_series("scores", pl.Float32()))
    return Ranking(ranks_table(lists, average_ranks(values, present)), scores)


def ranks_table(lists: CandidateLists, ranks: np.ndarray) -> pl.DataFrame:
    """Build the ranks table of these lists from the rank of each target [rows]."""
    return schema.RANKS.check(
        lists.samples.select(_TARGET).with_columns(
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

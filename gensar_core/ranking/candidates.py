"""Load the candidate lists that every method ranks, and build the ranks table that every method writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.ranking.metrics import average_ranks, count_codes, mean_gain, rank_codes
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.reading import PART_ROWS, table_parts
from gensar_core.runtime.stage import Stage
from gensar_core.runtime.writing import TableWriter

#: Which lists to take when there are more than wanted.
Choice: TypeAlias = Literal["spread", "latest"]
#: Columns of samples: what a ranks table says of a target.
TARGET: Final = ("task", "split", "sample_id", "user_id", "target_item")


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
    samples_folder: Path, task: str, split: str, *, users: int = 0, choice: Choice = "spread"
) -> CandidateLists:
    """Load the candidate lists of one task and split, in the order of sample_id.

    ``users`` > 0 takes that many lists: evenly spread, or those with the latest targets in time. Raises UserError when
    a sample has no candidates.
    """
    rows = _load_samples(samples_folder, task, split, users, choice)
    negatives = schema.CANDIDATES.read(
        samples_folder / "candidates.parquet", pl.col("sample_id").is_in(rows.get_column("sample_id").implode())
    )
    return _with_negatives(rows, negatives, samples_folder)


def _load_samples(samples_folder: Path, task: str, split: str, users: int, choice: Choice) -> pl.DataFrame:
    """Load samples of one task and split; they are chosen by ids and times alone, which take much less memory."""
    path, columns = samples_folder / "samples.parquet", ["sample_id", "time", "task", "split"]
    parts = [part.filter(_of(task, split)) for part in table_parts(path, schema.SAMPLES, columns=columns)]
    rows = pl.concat([schema.SAMPLES.empty().select(columns), *parts])
    if users and choice == "latest":
        rows = rows.sort("time", "sample_id").tail(users)
    elif 0 < users < len(rows):
        rows = rows.sort("sample_id")[_evenly(len(rows), users)]
    within = pl.col("sample_id").is_in(rows.get_column("sample_id").implode())
    return schema.SAMPLES.read(path, within).sort("sample_id")


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
class SampleBlocks:
    """Read the samples of one task and split in blocks of ``rows``, in the order of sample_id.

    ``first`` are the ids at which blocks begin, ``last`` is the last id (-1: there is none). ``chosen`` are the ids of
    the samples to read, ascending; None reads all.
    """

    folder: Path
    task: str
    split: str
    rows: int
    first: Sequence[int]
    last: int
    count: int
    chosen: np.ndarray | None = None

    @classmethod
    def open(
        cls, samples_folder: Path, task: str, split: str, rows: int, users: int = 0, choice: Choice = "spread"
    ) -> Self:
        """Find the blocks in a folder of samples.

        ``users`` > 0 takes that many samples: evenly spread, or those with the latest targets in time.
        Raises UserError when its samples are not in the order of their ids.
        """
        first, last, count = list[int](), -1, 0
        for ids in _ids(samples_folder, task, split):
            if (np.diff(ids, prepend=last) <= 0).any():
                path = samples_folder / "samples.parquet"
                raise UserError(f"{path}: rows are not in the order of sample_id; build the samples again")
            first += ids[-count % rows :: rows].tolist()
            last, count = int(ids.max(initial=last)), count + len(ids)
        blocks = cls(samples_folder, task, split, rows, first, last, count)
        if not 0 < users < count:
            return blocks
        taken = blocks._latest(users) if choice == "latest" else blocks._spread(users)
        return replace(blocks, first=taken[::rows].tolist(), last=int(taken[-1]), count=users, chosen=taken)

    def _latest(self, users: int) -> np.ndarray:
        columns = ("sample_id", "time", "task", "split")
        latest = schema.SAMPLES.empty().select(columns)
        for part in table_parts(self.folder / "samples.parquet", schema.SAMPLES, columns=columns):
            latest = pl.concat([latest, part.filter(_of(self.task, self.split))]).sort("time", "sample_id").tail(users)
        return np.sort(latest.get_column("sample_id").to_numpy())

    def _spread(self, users: int) -> np.ndarray:
        places, chosen, before = _evenly(self.count, users), list[np.ndarray](), 0
        for ids in _ids(self.folder, self.task, self.split):
            low, high = np.searchsorted(places, (before, before + len(ids)))
            chosen.append(ids[places[low:high] - before])
            before += len(ids)
        return np.concatenate(chosen)

    def __len__(self) -> int:
        return self.count

    def parts(
        self, start: int = 0, stop: int | None = None, columns: Sequence[str] = TARGET
    ) -> Iterator[tuple[pl.DataFrame, pl.Expr]]:
        """Yield samples ``start`` to ``stop``, several whole blocks at a time, each with the condition on sample_id.

        Blocks begin at both, or the samples end there.
        """
        bounds = [*self.first, self.last + 1]
        begin, end = (-(-row // self.rows) for row in (start, self.count if stop is None else stop))
        at_once = max(1, PART_ROWS // self.rows)
        for block in range(begin, end, at_once):
            after = min(block + at_once, end)
            within = pl.col("sample_id").is_between(bounds[block], bounds[after] - 1)
            if self.chosen is not None:
                within &= pl.col("sample_id").is_in(
                    pl.Series(self.chosen[block * self.rows : after * self.rows]).implode()
                )
            samples = (
                schema.SAMPLES.scan(self.folder / "samples.parquet")
                .filter(within & _of(self.task, self.split))
                .select(columns)
                .collect(engine="streaming")
                .sort("sample_id")
            )
            yield samples, within


class CandidateBlocks(SampleBlocks):
    """Read the candidate lists of one task and split in blocks of ``rows``, in the order of sample_id."""

    def read(
        self, start: int = 0, stop: int | None = None, columns: Sequence[str] = TARGET
    ) -> Iterator[CandidateLists]:
        """Yield the blocks of lists ``start`` to ``stop``, with these ``columns`` of their samples.

        Blocks begin at both, or the lists end there. Raises UserError when a sample has no candidates.
        """
        for samples, within in self.parts(start, stop, columns):
            negatives = schema.CANDIDATES.read(self.folder / "candidates.parquet", within)
            for rows in samples.iter_slices(self.rows):
                yield _with_negatives(rows, negatives, self.folder)


def _ids(samples_folder: Path, task: str, split: str) -> Iterator[np.ndarray]:
    """Yield the ids of the samples of one task and split, part by part."""
    for part in table_parts(samples_folder / "samples.parquet", schema.SAMPLES, columns=("sample_id", "task", "split")):
        yield part.filter(_of(task, split)).get_column("sample_id").to_numpy()


def _of(task: str, split: str) -> pl.Expr:
    return (pl.col("task") == task) & (pl.col("split") == split)


def _evenly(total: int, count: int) -> np.ndarray:
    """Return ``count`` places below ``total``, evenly spread."""
    places: np.ndarray = np.linspace(0, total - 1, count).round().astype(np.int64)
    return places


def rank_batch(lists: CandidateLists, score: Callable[[CandidateLists], np.ndarray]) -> Ranking:
    """Score some candidate lists together and rank their targets.

    ``score`` maps lists to floats [rows, width]; values in places without a candidate are ignored.
    """
    values, present = score(lists), lists.present
    rows = Ragged.from_lengths(present.sum(axis=1), values[present].astype(np.float32))
    scores = lists.samples.select("sample_id").with_columns(rows.to_series("scores", pl.Float32()))
    return Ranking(ranks_table(lists, average_ranks(values, present)), scores)


def ranks_table(lists: CandidateLists, ranks: np.ndarray) -> pl.DataFrame:
    """Build the ranks table of these lists from the rank of each target [rows]."""
    return schema.RANKS.check(
        lists.samples.select(TARGET).with_columns(
            rank=pl.Series(ranks, dtype=pl.Float64),
            n_candidates=pl.Series(lists.present.sum(axis=1), dtype=pl.Int32),
        )
    )

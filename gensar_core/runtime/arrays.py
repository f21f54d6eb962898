"""Store ragged rows as flat arrays, the form in which NumPy and torch process list columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Ragged:
    """Hold rows of different lengths, one after the other.

    ``values`` [total] holds the values of all rows, ``offsets`` [rows + 1] where each row begins and the last one ends:
    row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
    """

    offsets: np.ndarray
    values: np.ndarray

    @classmethod
    def from_series(cls, series: pl.Series) -> Ragged:
        """Convert a list column."""
        lengths = series.list.len().fill_null(0).to_numpy()
        # An empty list explodes to a null; dropping nulls leaves exactly the values.
        values = series.explode(empty_as_null=True).drop_nulls().to_numpy()
        return cls.from_lengths(lengths, values)

    @classmethod
    def from_lengths(cls, lengths: np.ndarray, values: np.ndarray) -> Ragged:
        """Divide ``values`` into rows of the given lengths."""
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(offsets, values)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Return the length of each row [rows]."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the lengths of the given rows only, which is cheaper than `lengths` for a few of very many."""
        lengths: np.ndarray = self.offsets[rows + 1] - self.offsets[rows]
        return lengths

    @property
    def rows(self) -> np.ndarray:
        """Return the row number of each value [total]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, rows: np.ndarray) -> Ragged:
        """Select the given rows, in the given order."""
        lengths = self.lengths_of(rows)
        return Ragged.from_lengths(lengths, self.values[ranges(self.offsets[rows], lengths)])

    def filter(self, keep: np.ndarray) -> Ragged:
        """Keep only the values where ``keep`` [total] is true; all rows stay, some shorter."""
        counts = np.concatenate([[0], np.cumsum(keep)])
        return Ragged(counts[self.offsets], self.values[keep])

    def tail(self, width: int) -> Ragged:
        """Keep the last ``width`` values of each row."""
        lengths = np.minimum(self.lengths, width)
        return Ragged.from_lengths(lengths, self.values[ranges(self.offsets[1:] - lengths, lengths)])

    def padded(self, width: int, fill: int, *, left: bool = False) -> np.ndarray:
        """Return the last ``width`` values of each row as a matrix [rows, width], ``fill`` after (or before) them."""
        tail = self.tail(width)
        matrix = np.full((len(self), width), fill, dtype=self.values.dtype)
        start = width - tail.lengths if left else np.zeros(len(self), dtype=np.int64)
        columns = np.arange(len(tail.values)) - tail.offsets[tail.rows] + start[tail.rows]
        matrix[tail.rows, columns] = tail.values
        return matrix

    def to_series(self, name: str, dtype: pl.DataType) -> pl.Series:
        """Convert to a list column with values of ``dtype``."""
        import pyarrow as pa

        values = pl.Series(self.values).cast(dtype).to_arrow()
        array = pa.LargeListArray.from_arrays(pa.array(self.offsets, type=pa.int64()), values)
        series: pl.Series = pl.Series(name, pl.from_arrow(array), dtype=pl.List(dtype))
        return series


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate the ranges ``starts[i], ..., starts[i] + lengths[i] - 1`` over every i [sum of lengths]."""
    total = int(lengths.sum())
    ends = np.cumsum(lengths)
    numbers: np.ndarray = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return numbers


def stretches(count: int, size: int = 1 << 16) -> Iterator[np.ndarray]:
    """Yield the numbers 0 to ``count`` - 1 in arrays of at most ``size``: what is computed for each stays small."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def blocks_of_work(work: np.ndarray, most: float) -> Iterator[tuple[int, int]]:
    """Divide the numbers below ``len(work)`` into blocks (first, one past the last) of about ``most`` work [n] each.

    A block holds less than twice that, unless a single number takes more.
    """
    starts = np.flatnonzero(np.diff(np.cumsum(work) // most, prepend=-1))
    yield from zip(starts.tolist(), [*starts[1:].tolist(), len(work)], strict=True)


def add_counts(counts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return ``counts`` [n] with one more for each of ``numbers``, longer if need be; zeros may follow the largest."""
    most = int(numbers.max()) + 1 if len(numbers) else 0
    if most > len(counts):
        # Twice as long, it seldom grows again.
        longer = np.zeros(max(most, 2 * len(counts)), dtype=np.int64)
        longer[: len(counts)] = counts
        counts = longer
    np.add.at(counts, numbers, 1)
    return counts

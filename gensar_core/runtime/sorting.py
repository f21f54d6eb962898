"""Sort columns that may not fit into memory on the disk, in unnamed files (`mapped_arrays`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gensar_core.runtime.arrays import ranges, stretches
from gensar_core.runtime.mapped_arrays import MappedArray, mapped_zeros

#: Rows sorted at once, on average; limits memory, does not affect results.
_ROWS = 1 << 20
#: Codes by which buckets of about as many rows are found.
_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Groups:
    """Hold the rows of a column of codes by their code, mapped from the disk.

    ``codes`` int64 [rows] ascend, and ``rows`` int64 [rows] are the rows they stand in, ascending within a code.
    """

    codes: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, parts: Iterable[np.ndarray], folder: Path) -> Groups:
        """Sort the codes, integers, of all ``parts`` on the disk of ``folder``.

        Rows are first shared out to buckets of codes, each of which is then sorted by itself.
        """
        unsorted = MappedArray(folder, np.int64)
        for part in parts:
            unsorted.append(part)
        codes = unsorted.read_only()
        bounds = _bounds(codes)
        counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        for rows in stretches(len(codes), _ROWS):
            counts += _counts(np.searchsorted(bounds, codes[rows], side="right"), len(counts))
        ends = np.cumsum(counts)
        groups = cls(*(mapped_zeros(folder, len(codes), np.int64) for _ in range(2)))
        free = ends - counts
        for rows in stretches(len(codes), _ROWS):
            bucket = np.searchsorted(bounds, codes[rows], side="right")
            within = _counts(bucket, len(counts))
            rows = rows[np.argsort(bucket, kind="stable")]
            places = ranges(free, within)
            groups.codes[places], groups.rows[places] = codes[rows], rows
            free += within
        for end, count in zip(ends, counts, strict=True):
            bucket = slice(end - count, end)
            # A bucket of one code, however large, is in order.
            if count and groups.codes[bucket].min() < groups.codes[bucket].max():
                order = np.argsort(groups.codes[bucket], kind="stable")
                groups.codes[bucket], groups.rows[bucket] = groups.codes[bucket][order], groups.rows[bucket][order]
        return groups

    def begins(self, folder: Path) -> np.ndarray:
        """Return where each distinct code begins among the rows, and their total, int64 [distinct + 1], mapped."""
        begins = MappedArray(folder, np.int64)
        for places in stretches(len(self.codes), _ROWS):
            new = self.codes[places] != self.codes[np.maximum(places - 1, 0)]
            begins.append(places[new | (places == 0)])
        begins.append(np.array([len(self.codes)]))
        return begins.read_only()

    def distinct(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct codes, ascending, and how many rows have each, int64 [distinct] each, mapped."""
        begins, codes, counts = self.begins(folder), MappedArray(folder, np.int64), MappedArray(folder, np.int64)
        for numbers in stretches(len(begins) - 1, _ROWS):
            codes.append(self.codes[begins[numbers]])
            counts.append(begins[numbers + 1] - begins[numbers])
        return codes.read_only(), counts.read_only()

    def spans(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where each of these codes begins among the rows, and how many rows have it, int64 [any] each."""
        begins, ends = (np.searchsorted(self.codes, codes, side=side) for side in ("left", "right"))
        return begins, ends - begins


def _bounds(codes: np.ndarray) -> np.ndarray:
    """Choose the codes at which buckets after the first begin, ascending; a frequent code has a bucket of its own."""
    buckets = len(codes) // _ROWS
    if not buckets:
        return np.zeros(0, dtype=np.int64)
    sample = np.sort(codes[np.random.default_rng(0).integers(len(codes), size=_SAMPLE)].astype(np.int64))
    chosen = sample[np.linspace(0, _SAMPLE - 1, buckets + 2).astype(np.int64)[1:-1]]
    return np.unique(np.concatenate([chosen, chosen + 1]))


def _counts(buckets: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(buckets, minlength=count)

"""Collect arrays part by part in unnamed files, and map them: the system keeps in memory what is read often.

The files have no name, so that nothing is left of them when the process ends, however it ends, and no later run can
read a stale one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gensar_core.runtime.arrays import Ragged


class MappedArray:
    """Collect an array [n] of one dtype on the disk of ``folder``, or of the system's temporary folder if that is
    read-only.
    """

    def __init__(self, folder: Path, dtype: npt.DTypeLike) -> None:
        self._file = _unnamed_file(folder)
        self._dtype = np.dtype(dtype)

    def append(self, values: np.ndarray) -> None:
        """Append values, cast to the dtype."""
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)

    def read_only(self) -> np.ndarray:
        """Return all values, mapped from the disk."""
        self._file.flush()
        # No file of no bytes can be mapped.
        empty = not os.fstat(self._file.fileno()).st_size
        return np.zeros(0, self._dtype) if empty else np.asarray(np.memmap(self._file, self._dtype, "r"))


class MappedRows:
    """Collect ragged rows, as `MappedArray` does; ``dtype`` is that of their values."""

    def __init__(self, folder: Path, dtype: npt.DTypeLike) -> None:
        self._offsets, self._values = MappedArray(folder, np.int64), MappedArray(folder, dtype)
        self._offsets.append(np.zeros(1, dtype=np.int64))
        self._total = 0

    def append(self, rows: Ragged) -> None:
        """Append rows that hold nothing but their values."""
        self._offsets.append(self._total + rows.offsets[1:])
        self._values.append(rows.values)
        self._total += len(rows.values)

    def read_only(self) -> Ragged:
        """Return all rows, mapped from the disk."""
        return Ragged(self._offsets.read_only(), self._values.read_only())


def mapped_parts(parts: Iterable[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Append the arrays and ragged rows of all parts, by name, and return them mapped from the disk.

    Dtypes are those of the first part, which may have no rows.
    """
    stores: dict[str, Any] = {}
    for part in parts:
        for name, values in part.items():
            if name not in stores:
                ragged = isinstance(values, Ragged)
                stores[name] = MappedRows(folder, values.values.dtype) if ragged else MappedArray(folder, values.dtype)
            stores[name].append(values)
    return {name: store.read_only() for name, store in stores.items()}


def mapped_zeros(folder: Path, size: int, dtype: npt.DTypeLike) -> np.ndarray:
    """Return zeros [size] to be written, mapped from the disk; what is never written takes no space there."""
    file = _unnamed_file(folder)
    # No file of no bytes can be mapped.
    file.truncate(max(size, 1) * np.dtype(dtype).itemsize)
    return np.asarray(np.memmap(file, dtype, "r+"))[:size]


def _unnamed_file(folder: Path) -> IO[bytes]:
    # Not the temporary folder at first, which may be in memory.
    return tempfile.TemporaryFile(dir=folder if os.access(folder, os.W_OK) else None)

"""Keep finished parts of a long stage on disk until all of it is written, so a killed run continues after them."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from gensar_core.runtime.sealing import SEAL, check_seal, seal
from gensar_core.runtime.tensors import save_vectors


class Shards:
    """Store the shards of one stage in a separate folder below ``folder``; None stores nothing.

    A shard is written whole or not at all, and sealed: reading one that is damaged or cut off raises UserError. ``key``
    identifies everything the shards depend on: those of another key are removed, not continued.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self._root = folder
        self._folder = folder / key[:32] if folder is not None else None
        for other in folder.glob("*") if folder is not None else ():
            if other != self._folder:
                shutil.rmtree(other)

    def restore(self, name: str, rows: np.ndarray) -> int:
        """Fill ``rows`` [n, D] from the front with the shards of ``name``; return the number of rows filled."""
        from safetensors.numpy import load

        filled = number = 0
        while (content := self._read(name, number)) is not None:
            shard = load(content)["rows"]
            rows[filled : filled + len(shard)] = shard
            filled, number = filled + len(shard), number + 1
        return filled

    def save(self, name: str, number: int, rows: np.ndarray) -> None:
        """Write rows of vectors as shard ``number`` of ``name``."""
        self._write(name, number, lambda path: save_vectors({"rows": rows}, path))

    def load_table(self, name: str, number: int) -> pl.DataFrame | None:
        """Return the table in shard ``number`` of ``name``; None if there is none."""
        content = self._read(name, number)
        return None if content is None else pl.read_parquet(io.BytesIO(content))

    def save_table(self, name: str, number: int, table: pl.DataFrame) -> None:
        """Write a table as shard ``number`` of ``name``."""
        self._write(name, number, table.write_parquet)

    def remove(self) -> None:
        """Delete all shards, once the whole stage is written."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def _read(self, name: str, number: int) -> bytes | None:
        if self._folder is None or not (path := self._path(name, number)).is_file():
            return None
        check_seal(path)
        return path.read_bytes()[:-SEAL]

    def _write(self, name: str, number: int, write: Callable[[Path], object]) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(name, number)
        partial = path.with_suffix(".partial")
        write(partial)
        seal(partial)
        os.replace(partial, path)

    def _path(self, name: str, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}-{number:06}.shard"

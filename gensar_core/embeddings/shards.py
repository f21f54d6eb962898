"""Keep finished parts of a long encoding on disk until all of it is written, so a killed run continues after them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from gensar_core.runtime.sealing import SEAL, check_seal, seal
from gensar_core.runtime.tensors import save_vectors


class Shards:
    """Store the shards of one encoding in a separate folder below ``folder``; None stores nothing.

    ``key`` identifies everything the vectors depend on: shards of another key are removed, not continued.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self._root = folder
        self._folder = folder / key[:32] if folder is not None else None
        for other in folder.glob("*") if folder is not None else ():
            if other != self._folder:
                shutil.rmtree(other)

    def restore(self, name: str, rows: np.ndarray) -> int:
        """Fill ``rows`` [n, D] from the front with the shards of ``name``; return the number of rows filled.

        Raises UserError on a damaged or truncated shard.
        """
        filled = number = 0
        while self._folder is not None and (path := self._path(name, number)).is_file():
            shard = _read(path)
            rows[filled : filled + len(shard)] = shard
            filled, number = filled + len(shard), number + 1
        return filled

    def save(self, name: str, number: int, rows: np.ndarray) -> None:
        """Write shard ``number`` of ``name``, whole or not at all."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(name, number)
        partial = path.with_suffix(".partial")
        save_vectors({"rows": rows}, partial)
        seal(partial)
        os.replace(partial, path)

    def remove(self) -> None:
        """Delete all shards, once the whole encoding is written."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def _path(self, name: str, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}-{number:06}.shard"


def _read(path: Path) -> np.ndarray:
    from safetensors.numpy import load

    check_seal(path)
    rows: np.ndarray = load(path.read_bytes()[:-SEAL])["rows"]
    return rows

"""Store named matrices on disk: safetensors files of float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gensar_core.errors import UserError


def save_vectors(vectors: Mapping[str, np.ndarray], path: Path) -> None:
    """Write named matrices ([rows, dimensions], float32)."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(matrix, dtype=np.float32) for name, matrix in vectors.items()}, path)


def load_vectors(path: Path, name: str = "items") -> np.ndarray:
    """Read one matrix. Raises UserError when the file or the name is missing."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such file; build the embedding first")
    try:
        with safe_open(path, framework="numpy") as stored:
            names = list(stored.keys())
            if name not in names:
                raise UserError(f"{path}: holds no matrix {name!r} (there: {', '.join(names)})")
            matrix: np.ndarray = stored.get_tensor(name)
            return matrix
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file; delete it and run again") from error

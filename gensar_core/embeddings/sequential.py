"""Store the item vectors that a trained ranking method has learned, and turn them into an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage
from gensar_core.runtime.tensors import load_vectors, save_vectors

FILE = "item_vectors.safetensors"


@dataclass(frozen=True)
class ItemVectors:
    """Hold learned item vectors."""

    #: float32 [n_items, dimensions]
    vectors: np.ndarray
    #: bool [n_items]: true for the items seen in training.
    seen: np.ndarray

    def save(self, folder: Path) -> None:
        """Write item_vectors.safetensors: `items`, and `seen` [n_items, 1] as ones and zeros."""
        save_vectors({"items": self.vectors, "seen": self.seen[:, None]}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> ItemVectors:
        """Read the file that ``save`` wrote. Raises UserError when it is missing or invalid."""
        path = folder / FILE
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; only a method that learns item vectors can be an embedding (sasrec, say)"
            )
        vectors, seen = load_vectors(path, "items"), load_vectors(path, "seen")[:, 0] > 0
        if not np.isfinite(vectors).all():
            raise UserError(f"{path}: holds numbers that are not finite; train the method again")
        if len(seen) != len(vectors) or not seen.any():
            raise UserError(f"{path}: holds no vector of an item seen in training; train the method again")
        return cls(vectors, seen)

    def settled(self) -> np.ndarray:
        """Return the vectors, with the mean of the seen items in place of each unseen one."""
        vectors = self.vectors.copy()
        vectors[~self.seen] = vectors[self.seen].mean(axis=0, dtype=np.float64)
        return vectors


def extract_vectors(model: Path, output: Path) -> None:
    """Write vectors.safetensors with `items` from the folder of a trained method that learns item vectors.

    An item unseen in training gets the mean of the seen ones; the record counts unseen items. Raises UserError when the
    method has learned no item vectors.
    """
    if not (model / FILE).is_file():
        ItemVectors.load(model)
    with Stage("embed_sequential", output, inputs=[model / FILE], code=__name__) as stage:
        learned = ItemVectors.load(model)
        save_vectors({"items": learned.settled()}, stage.path("vectors.safetensors"))
        rows, dimensions = learned.vectors.shape
        stage.record(items=rows, dimensions=dimensions, unseen_items=int((~learned.seen).sum()))

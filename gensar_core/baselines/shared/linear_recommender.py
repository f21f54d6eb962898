"""Score items by item-item weights summed over the clicks of the history.

A method adds its settings and the way it learns the weights from training clicks. This module provides clicks,
histories, scoring and files.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
import polars as pl
from pydantic import Field
from safetensors.numpy import load_file, save_file
from scipy import sparse

from gensar_core.baselines.interface import Method
from gensar_core.baselines.shared.sequence_encoder import recommended_histories
from gensar_core.config.base import Count, Settings
from gensar_core.config.search_spaces import Between
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists
from gensar_core.runtime.arrays import Ragged
from gensar_core.samples.user_clicks import UserClicks

#: Cells of the score matrix [rows, n_items] in memory at once when only the candidates' scores are needed.
_CELLS = 1 << 24


class LinearSettings(Settings):
    """Configure how many weights an item keeps and how fast clicks of a history fade."""

    neighbors: Count = 1000
    """Weights kept per item, the largest in magnitude (0: all)."""
    decay: Annotated[float, Field(gt=0.0, le=1.0), Between(0.5, 1.0)] = 1.0
    """Weight of a click of the history relative to the next one; 1 weighs all clicks equally."""


S = TypeVar("S", bound=LinearSettings)


class LinearRecommender(Method[S]):
    """Recommend by item-item weights W: the score of item j is the sum over clicks i of d_i W_ij.

    d_i is ``decay`` to the power of the number of clicks after i. An item that training never showed scores 0.
    """

    tasks: ClassVar[tuple[str, ...]] = ("rec",)
    inputs: ClassVar[tuple[str, ...]] = ("clicks",)
    #: Sparse float32 [n_items, n_items]: row i holds what a click on item i adds to every item's score.
    weights: sparse.csr_array

    @abc.abstractmethod
    def learned(self, clicks: Ragged) -> Iterator[sparse.coo_array]:
        """Yield consecutive blocks of rows of the weights, each [rows, n_items], with at most `neighbors` per row.

        ``clicks`` are the items that each user clicked in training, oldest first [users], mapped from the disk.
        """

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:  # noqa: ARG002
        """Learn the weights."""
        clicks = UserClicks.read(self.data.events_file, "rec").items
        if not len(clicks):
            raise UserError(f"{self.data.samples_folder}: no recommendation click to learn from")
        blocks = [block.astype(np.float32) for block in self.learned(clicks)]
        self.weights = sparse.csr_array(sparse.vstack(blocks, format="csr"))
        unseen = int((self.data.clicks("rec") == 0).sum())
        return {"users": len(clicks), "weights": int(self.weights.nnz), "unseen_items": unseen}

    def score(self, lists: CandidateLists) -> np.ndarray:
        """Score the whole catalogue and return the candidates' scores."""
        scores = np.zeros(lists.items.shape, dtype=np.float32)
        step = max(1, _CELLS // self.data.n_items)
        for start in range(0, len(lists), step):
            part = lists.take(start, start + step)
            catalogue = self.score_catalogue(part.samples)
            scores[start : start + step] = np.take_along_axis(catalogue, np.maximum(part.items, 0), axis=1)
        return scores

    def score_catalogue(self, samples: pl.DataFrame) -> np.ndarray:
        """Score all items for some samples, float32 [rows, n_items]."""
        history = recommended_histories(samples)
        later = np.repeat(history.offsets[1:], history.lengths) - np.arange(len(history.values)) - 1
        counted = np.power(self.settings.decay, later).astype(np.float32)
        shape = (len(samples), self.data.n_items)
        scores: np.ndarray = (
            sparse.csr_array((counted, history.values, history.offsets), shape=shape) @ self.weights
        ).toarray()
        return scores

    def save(self, folder: Path) -> None:
        """Write weights.safetensors."""
        items, offsets = self.weights.indices.astype(np.int32), self.weights.indptr.astype(np.int64)
        parts = {"values": self.weights.data, "items": items, "offsets": offsets}
        save_file(parts, folder / "weights.safetensors")

    def load(self, folder: Path) -> None:
        """Read weights.safetensors."""
        weights = load_file(folder / "weights.safetensors")
        shape = (self.data.n_items, self.data.n_items)
        self.weights = sparse.csr_array((weights["values"], weights["items"], weights["offsets"]), shape=shape)

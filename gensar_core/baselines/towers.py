"""Both sides of dense retrieval as modules that can be trained: numbers of queries and items -> vectors of length 1."""

from __future__ import annotations

import abc
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch.nn import functional

from gensar_core.config.embeddings import TextEmbedding
from gensar_core.embeddings.text import TextEncoder
from gensar_core.runtime.device import autocast
from gensar_core.schema import ITEMS, QUERIES

SIDES = ("queries", "items")


class Towers(torch.nn.Module, abc.ABC):
    """A vector of length 1 for each query and item. ``bias`` [n_items], if there is one, adds to an item's scores."""

    bias: torch.nn.Parameter | None

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("bias", None)

    @abc.abstractmethod
    def forward(self, side: str, numbers: np.ndarray) -> torch.Tensor:
        """Vectors [numbers, dimensions] of one side, with gradients."""

    @abc.abstractmethod
    def vectors(self) -> dict[str, np.ndarray]:
        """Vectors of all queries and items, float32 [rows, dimensions] by side, as ranking uses them."""


class EncoderTowers(Towers):
    """A text encoder, the same for both sides."""

    def __init__(self, settings: TextEmbedding, texts: dict[str, pl.Series]) -> None:
        super().__init__()
        self._encoder = TextEncoder.load(settings)
        self.model = self._encoder.model
        self._texts = texts
        self._prefixes = {"queries": self._encoder.query_prefix, "items": self._encoder.item_prefix}

    def forward(self, side: str, numbers: np.ndarray) -> torch.Tensor:
        """Encode the texts of these numbers."""
        device = self.model.device
        texts = [self._prefixes[side] + text for text in self._texts[side].gather(numbers)]
        features = self.model.tokenize(texts)
        moved = {name: value.to(device) if torch.is_tensor(value) else value for name, value in features.items()}
        with autocast(device):
            encoded = self.model(moved)["sentence_embedding"]
        return functional.normalize(encoded.float(), dim=1)

    def vectors(self) -> dict[str, np.ndarray]:
        """Encode all texts."""
        return {side: self._encoder.encode(self._texts[side], self._prefixes[side], side) for side in SIDES}


class HeadTowers(Towers):
    """A linear map of each side's frozen vectors, the identity before training, and an item's bias if asked for."""

    def __init__(self, frozen: dict[str, np.ndarray], item_bias: bool) -> None:
        super().__init__()
        for side, rows in frozen.items():
            self.register_buffer(f"frozen_{side}", torch.from_numpy(rows), persistent=False)
        size = frozen["items"].shape[1]
        self.maps = torch.nn.ModuleDict({f"of_{side}": torch.nn.Linear(size, size, bias=False) for side in SIDES})
        for weight in self.maps.parameters():
            torch.nn.init.eye_(weight)
        if item_bias:
            self.bias = torch.nn.Parameter(torch.zeros(len(frozen["items"])))

    def forward(self, side: str, numbers: np.ndarray) -> torch.Tensor:
        """Map the vectors of these numbers."""
        frozen: torch.Tensor = getattr(self, f"frozen_{side}")
        mapped = self.maps[f"of_{side}"](frozen[torch.from_numpy(numbers).to(frozen.device)])
        return functional.normalize(mapped, dim=1)

    @torch.no_grad()
    def vectors(self) -> dict[str, np.ndarray]:
        """Map all vectors."""
        rows = {side: len(getattr(self, f"frozen_{side}")) for side in SIDES}
        return {side: self(side, np.arange(count)).cpu().numpy() for side, count in rows.items()}


def texts_of(canonical: Path) -> dict[str, pl.Series]:
    """The texts of both sides, in the order of their numbers."""
    return {
        "queries": QUERIES.read(canonical / "queries.parquet").sort("query_id").get_column("text"),
        "items": ITEMS.read(canonical / "items.parquet").sort("item_id").get_column("text"),
    }

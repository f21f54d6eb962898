"""Train both towers of dense retrieval: query and item numbers -> vectors of length 1."""

from __future__ import annotations

import abc
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch.nn import functional

from gensar_core.config.embeddings import TextEmbedding
from gensar_core.embeddings.text import TextEncoder
from gensar_core.runtime.device import autocast, send
from gensar_core.schema import ITEMS, QUERIES

TOWERS = ("queries", "items")


class Towers(torch.nn.Module, abc.ABC):
    """Encode each query and item as a vector of length 1.

    ``bias`` [n_items], unless None, is added to an item's scores. ``maps``, unless None, are linear maps of each side's
    text vectors, initialized to the identity.
    """

    bias: torch.nn.Parameter | None
    maps: torch.nn.ModuleDict | None

    def __init__(self, mapped_size: int | None) -> None:
        super().__init__()
        self.register_parameter("bias", None)
        self.maps = None
        if mapped_size is not None:
            self.maps = torch.nn.ModuleDict(
                {f"of_{side}": torch.nn.Linear(mapped_size, mapped_size, bias=False) for side in TOWERS}
            )
            for weight in self.maps.parameters():
                torch.nn.init.eye_(weight)

    def mapped(self, side: str, texts: torch.Tensor) -> torch.Tensor:
        """Map text vectors [any, dimensions] of one side and normalize them to length 1."""
        return functional.normalize(texts if self.maps is None else self.maps[f"of_{side}"](texts), dim=1)

    @abc.abstractmethod
    def forward(self, side: str, numbers: np.ndarray) -> torch.Tensor:
        """Compute vectors [numbers, dimensions] of one side, with gradients."""

    @abc.abstractmethod
    def vectors(self) -> dict[str, np.ndarray]:
        """Compute the vectors of all queries and items for ranking, float32 [rows, dimensions] by side."""


class EncoderTowers(Towers):
    """Encode both sides with one text encoder, followed by a linear map per side if ``mapped``.

    Training reads the first ``training_tokens`` tokens of a text (None: as many as ranking), which saves most of its
    time on long texts; ranking reads as many as the embedding's settings allow.
    """

    def __init__(
        self, settings: TextEmbedding, texts: dict[str, pl.Series], training_tokens: int | None, mapped: bool
    ) -> None:
        encoder = TextEncoder.load(settings)
        super().__init__(encoder.dimensions if mapped else None)
        self._encoder = encoder
        self.model = encoder.model
        self._tokens = min(training_tokens or encoder.max_tokens, encoder.max_tokens)
        self._texts = texts
        self._prefixes = {"queries": encoder.query_prefix, "items": encoder.item_prefix}

    def forward(self, side: str, numbers: np.ndarray) -> torch.Tensor:
        """Encode the texts with these numbers."""
        device = self.model.device
        texts = [self._prefixes[side] + text for text in self._texts[side].gather(numbers)]
        self.model.max_seq_length = self._tokens
        features = self.model.tokenize(texts)
        self.model.max_seq_length = self._encoder.max_tokens
        moved = {name: value.to(device) if torch.is_tensor(value) else value for name, value in features.items()}
        with autocast(device):
            encoded = self.model(moved)["sentence_embedding"]
        # The maps take vectors of length 1, as they do when the vectors are frozen.
        return self.mapped(side, functional.normalize(encoded.float(), dim=1))

    @torch.no_grad()
    def vectors(self) -> dict[str, np.ndarray]:
        """Encode all texts."""
        vectors = {}
        for side in TOWERS:
            encoded = torch.from_numpy(self._encoder.encode(self._texts[side], self._prefixes[side], side))
            vectors[side] = self.mapped(side, encoded.to(self.model.device)).cpu().numpy()
        return vectors


class HeadTowers(Towers):
    """Map each side's frozen vectors, with a learned bias per item if ``item_bias``."""

    def __init__(self, frozen: dict[str, np.ndarray], item_bias: bool) -> None:
        super().__init__(frozen["items"].shape[1])
        for side, rows in frozen.items():
            self.register_buffer(f"frozen_{side}", torch.from_numpy(rows), persistent=False)
        if item_bias:
            self.bias = torch.nn.Parameter(torch.zeros(len(frozen["items"])))

    def forward(self, side: str, numbers: np.ndarray) -> torch.Tensor:
        """Map the vectors with these numbers."""
        frozen: torch.Tensor = getattr(self, f"frozen_{side}")
        return self.mapped(side, frozen[send(numbers, frozen.device)])

    @torch.no_grad()
    def vectors(self) -> dict[str, np.ndarray]:
        """Map all vectors."""
        rows = {side: len(getattr(self, f"frozen_{side}")) for side in TOWERS}
        return {side: self(side, np.arange(count)).cpu().numpy() for side, count in rows.items()}


def texts_of(canonical: Path) -> dict[str, pl.Series]:
    """Read the texts of both sides, ordered by number."""
    return {
        "queries": QUERIES.read(canonical / "queries.parquet").sort("query_id").get_column("text"),
        "items": ITEMS.read(canonical / "items.parquet").sort("item_id").get_column("text"),
    }

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
    """A vector of length 1 for each query and item. ``bias`` [n_items], if there is one, adds to an item's scores.

    ``maps``, if there are some, are linear maps of each side's text vectors, the identity before training.
    """

    bias: torch.nn.Parameter | None
    maps: torch.nn.ModuleDict | None

    def __init__(self, mapped_size: int | None) -> None:
        super().__init__()
        self.register_parameter("bias", None)
        self.maps = None
        if mapped_size is not None:
            self.maps = torch.nn.ModuleDict(
                {f"of_{side}": torch.nn.Linear(mapped_size, mapped_size, bias=False) for side in SIDES}
            )
            for weight in self.maps.parameters():
                torch.nn.init.eye_(weight)

    def mapped(self, side: str, texts: torch.Tensor) -> torch.Tensor:
        """What becomes of text vectors [any, dimensions] of one side: mapped, of length 1."""
        return functional.normalize(texts if self.maps is None else self.maps[f"of_{side}"](texts), dim=1)

    @abc.abstractmethod
    def forward(self, side: str, numbers: np.ndarray) -> torch.Tensor:
        """Vectors [numbers, dimensions] of one side, with gradients."""

    @abc.abstractmethod
    def vectors(self) -> dict[str, np.ndarray]:
        """Vectors of all queries and items, float32 [rows, dimensions] by side, as ranking uses them."""


class EncoderTowers(Towers):
    """A text encoder, the same for both sides, and a map of its vectors for each side if asked for.

    Training reads the first ``training_tokens`` tokens of a text (None: as many as ranking), which saves most of its
    time where texts are long; ranking reads what the settings of the embedding say.
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
        """Encode the texts of these numbers."""
        device = self.model.device
        texts = [self._prefixes[side] + text for text in self._texts[side].gather(numbers)]
        self.model.max_seq_length = self._tokens
        features = self.model.tokenize(texts)
        self.model.max_seq_length = self._encoder.max_tokens
        moved = {name: value.to(device) if torch.is_tensor(value) else value for name, value in features.items()}
        with autocast(device):
            encoded = self.model(moved)["sentence_embedding"]
        # The maps are of vectors of length 1, as they are where the vectors are frozen.
        return self.mapped(side, functional.normalize(encoded.float(), dim=1))

    @torch.no_grad()
    def vectors(self) -> dict[str, np.ndarray]:
        """Encode all texts."""
        found = {}
        for side in SIDES:
            encoded = torch.from_numpy(self._encoder.encode(self._texts[side], self._prefixes[side], side))
            found[side] = self.mapped(side, encoded.to(self.model.device)).cpu().numpy()
        return found


class HeadTowers(Towers):
    """A map of each side's frozen vectors, and an item's bias if asked for."""

    def __init__(self, frozen: dict[str, np.ndarray], item_bias: bool) -> None:
        super().__init__(frozen["items"].shape[1])
        for side, rows in frozen.items():
            self.register_buffer(f"frozen_{side}", torch.from_numpy(rows), persistent=False)
        if item_bias:
            self.bias = torch.nn.Parameter(torch.zeros(len(frozen["items"])))

    def forward(self, side: str, numbers: np.ndarray) -> torch.Tensor:
        """Map the vectors of these numbers."""
        frozen: torch.Tensor = getattr(self, f"frozen_{side}")
        return self.mapped(side, frozen[torch.from_numpy(numbers).to(frozen.device)])

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

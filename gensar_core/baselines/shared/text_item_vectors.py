"""Item vectors that are not learned item by item, but a learned projection of the items' frozen text vectors."""

from __future__ import annotations

import torch
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.errors import UserError


class TextItems(torch.nn.Module):
    """A table of item vectors [n_items, dimensions], used as a `torch.nn.Embedding` is.

    Items differ in their texts alone: a new item has a vector as soon as it has a text, and two items with one text
    have one vector. The text vectors are those of the entry's `embedding`; they are not saved with the weights. Raises
    UserError when they are not those of the data set's items.
    """

    texts: torch.Tensor

    def __init__(self, data: MethodData, dimensions: int) -> None:
        super().__init__()
        texts = torch.from_numpy(data.vectors("items"))
        if len(texts) != data.n_items:
            raise UserError(
                f"{data.embedding}: holds {len(texts)} vectors of items, but the data set has {data.n_items}; build "
                "the embedding again"
            )
        self.register_buffer("texts", texts, persistent=False)
        self.num_embeddings, self.embedding_dim = len(texts), dimensions
        self.projection = torch.nn.Linear(texts.shape[1], dimensions, bias=False)

    @property
    def weight(self) -> torch.Tensor:
        """All vectors [n_items, dimensions]."""
        vectors: torch.Tensor = self.projection(self.texts)
        return vectors

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors [..., dimensions] of items int64 [...]."""
        vectors: torch.Tensor = self.projection(functional.embedding(items, self.texts))
        return vectors

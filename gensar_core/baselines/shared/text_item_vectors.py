"""Compute item vectors by a learned projection of frozen text vectors instead of learning one vector per item."""

from __future__ import annotations

import torch
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.errors import UserError


class TextItems(torch.nn.Module):
    """Compute item vectors [n_items, dimensions] from texts; a drop-in for `torch.nn.Embedding`.

    Items differ only by their texts: a new item has a vector as soon as it has a text, and two items with the same text
    share a vector. The text vectors come from the entry's `embedding` and are not saved with the weights. Raises
    UserError when their number differs from the data set's number of items.
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
        """Compute the vectors of all items [n_items, dimensions]."""
        vectors: torch.Tensor = self.projection(self.texts)
        return vectors

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Compute vectors [..., dimensions] of items int64 [...]."""
        vectors: torch.Tensor = self.projection(functional.embedding(items, self.texts))
        return vectors

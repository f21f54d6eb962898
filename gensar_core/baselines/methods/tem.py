"""TEM: a transformer over the query and the items that the user clicked before."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import model_validator
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.product_search import ItemSequences, SearchMethod, SearchModel, SearchSettings
from gensar_core.baselines.shared.target_rows import RowBatch
from gensar_core.config.base import Positive
from gensar_core.nn.attention import Dropout


class TEMSettings(SearchSettings):
    """Sizes of the transformer, beside what all methods of product search have."""

    blocks: Positive = 1
    heads: Positive = 4
    inner_dimensions: Positive = 256
    #: Clicked items that are read, the last ones.
    max_items: Positive = 20

    @model_validator(mode="after")
    def _heads_divide_dimensions(self) -> TEMSettings:
        if self.dimensions % self.heads or self.dimensions % 2:
            raise ValueError(f"dimensions ({self.dimensions}) must be even and a multiple of heads ({self.heads})")
        return self


class Block(torch.nn.Module):
    """Self-attention, then a feed-forward network, each normalized before and added to its input.

    The attention of the ``first`` block reads its input as it is.
    """

    def __init__(self, settings: TEMSettings, first: bool) -> None:
        super().__init__()
        size, inner = settings.dimensions, settings.inner_dimensions
        self.heads = settings.heads
        self.before_attention = None if first else torch.nn.LayerNorm(size, eps=1.0e-6)
        self.queries = torch.nn.Linear(size, size)
        self.keys_and_values = torch.nn.Linear(size, 2 * size)
        self.output = torch.nn.Linear(size, size)
        self.pointwise = torch.nn.Sequential(
            torch.nn.LayerNorm(size, eps=1.0e-6),
            torch.nn.Linear(size, inner),
            torch.nn.GELU(approximate="tanh"),
            Dropout(settings.dropout),
            torch.nn.Linear(inner, size),
        )
        self.dropout = Dropout(settings.dropout)

    def forward(self, states: torch.Tensor, present: torch.Tensor, read: int) -> torch.Tensor:
        """States [rows, read, dimensions] of the first ``read`` slots, of all slots' [rows, width, dimensions].

        ``present`` bool [rows, width] says which slots may be attended to; in each row one does.
        """
        rows, width, size = states.shape
        normalized = states if self.before_attention is None else self.before_attention(states)
        queries = self.queries(normalized[:, :read]).view(rows, read, self.heads, -1).transpose(1, 2)
        keys, values = self.keys_and_values(normalized).view(rows, width, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=present[:, None, None, :])
        states = states[:, :read] + self.dropout(self.output(mixed.transpose(1, 2).reshape(rows, read, size)))
        added: torch.Tensor = self.dropout(self.pointwise(states))
        return states + added


class TEMModel(SearchModel):
    """The query's slot after attending to the user's items is what is asked for."""

    places: torch.Tensor

    def __init__(self, data: MethodData, settings: TEMSettings) -> None:
        super().__init__(data, settings)
        self.max_items = settings.max_items
        self.register_buffer("places", sinusoids(settings.max_items + 1, settings.dimensions), persistent=False)
        self.blocks = torch.nn.ModuleList(Block(settings, first=not number) for number in range(settings.blocks))
        self.normalization = torch.nn.LayerNorm(settings.dimensions, eps=1.0e-6)

    def requests(self, batch: RowBatch) -> torch.Tensor:
        """Vectors [rows, dimensions] of the queries as their users mean them."""
        clicked = ItemSequences.from_history(batch.history, self.max_items)
        return self.encode(self.queries(batch.queries), self.tokens(clicked), clicked.present)

    def tokens(self, clicked: ItemSequences) -> torch.Tensor:
        """Vectors [rows, width, dimensions] of the user's items."""
        return functional.embedding(clicked.items, self.item_vectors())

    def encode(self, first: torch.Tensor, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """The output [rows, dimensions] at the slot of ``first`` [rows, dimensions], which ``tokens`` follow."""
        states = torch.cat([first[:, None], tokens * present[:, :, None]], dim=1)
        states = self.dropout(states + self.places[: states.shape[1]])
        present = torch.cat([present.new_ones(len(present), 1), present], dim=1)
        for number, block in enumerate(self.blocks, 1):
            # After the last block only the first slot is read.
            states = block(states, present, 1 if number == len(self.blocks) else states.shape[1])
        output: torch.Tensor = self.normalization(states[:, 0])
        return output


def sinusoids(places: int, dimensions: int) -> torch.Tensor:
    """Vectors [places, dimensions] of places, from 0 (Vaswani et al., 2017, Section 3.5)."""
    rates = torch.exp(torch.arange(0, dimensions, 2) * (-math.log(10000.0) / dimensions))
    angles = torch.arange(places)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


class TEM(SearchMethod[TEMSettings]):
    """Bi et al., 2020, in its form of inner products: a request is encoded once for all its candidates.

    The query stands first, then the user's items, oldest first, so that places depend on the length; the sinusoids of
    places are added without scaling; the first block's attention reads its input as it is; no slot of zeros is added,
    for the query's own slot is what attention falls back to. Normalizations start with gains of one: the released
    code draws them at random.

    Deviations: the loss and the query's own vector as in `qem.py`; a history holds what stands before its target, never
    later purchases, and not the target (the samples' strict protocol); runs of one item count as one purchase, since
    a purchase may stand among both the clicks and the searches; after the last block only the query's slot is computed.
    """

    paper = "Bi et al.: A Transformer-based Embedding Model for Personalized Product Search. SIGIR 2020"
    inputs: ClassVar[tuple[str, ...]] = ("clicks", "searches", "words", "training_negatives")
    settings_model = TEMSettings

    def build(self) -> TEMModel:
        """An untrained model."""
        return TEMModel(self.data, self.settings)


METHOD = TEM

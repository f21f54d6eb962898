"""Rank by TEM: a transformer over the query and the user's earlier clicked items."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.product_search import ItemSequences, SearchMethod, SearchModel, SearchSettings
from gensar_core.baselines.shared.target_model import sinusoids
from gensar_core.baselines.shared.target_rows import RowBatch
from gensar_core.baselines.shared.trained_method import heads_divide_dimensions
from gensar_core.config.base import Positive
from gensar_core.config.search_spaces import Among
from gensar_core.nn.dropout import Dropout


class TEMSettings(SearchSettings):
    """Hold the sizes of the transformer, on top of the settings of all product search methods."""

    blocks: Annotated[Positive, Among((1, 2))] = 1
    heads: Positive = 4
    inner_dimensions: Positive = 256
    max_items: Positive = 20
    """Number of clicked items to read, the latest ones."""

    _heads_divide_dimensions = heads_divide_dimensions(even=True)


class TEMBlock(torch.nn.Module):
    """Apply self-attention, then a feed-forward network; normalize before each and add it to its input.

    The attention of the ``first`` block reads its input without normalization.
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
        """Return the first ``read`` slots' states [rows, read, dimensions], from all slots' [rows, width, dimensions].

        ``present`` bool [rows, width] marks the slots that may be attended to; each row has at least one.
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
    """Encode a request as its query's slot after attention to the user's items."""

    places: torch.Tensor

    def __init__(self, data: MethodData, settings: TEMSettings) -> None:
        super().__init__(data, settings)
        self.max_items = settings.max_items
        self.register_buffer("places", sinusoids(settings.max_items + 1, settings.dimensions), persistent=False)
        self.blocks = torch.nn.ModuleList(TEMBlock(settings, first=not number) for number in range(settings.blocks))
        self.normalization = torch.nn.LayerNorm(settings.dimensions, eps=1.0e-6)

    def requests(self, batch: RowBatch) -> torch.Tensor:
        """Return vectors [rows, dimensions] of the queries, personalized by their users' histories."""
        clicked = ItemSequences.from_history(batch.history, self.max_items)
        return self.encode(self.queries(batch.queries), self.tokens(clicked), clicked.present)

    def tokens(self, clicked: ItemSequences) -> torch.Tensor:
        """Return vectors [rows, width, dimensions] of the user's items."""
        return functional.embedding(clicked.items, self.item_vectors())

    def encode(self, first: torch.Tensor, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Return the output [rows, dimensions] at the slot of ``first`` [rows, dimensions], followed by ``tokens``."""
        states = torch.cat([first[:, None], tokens * present[:, :, None]], dim=1)
        states = self.dropout(states + self.places[: states.shape[1]])
        present = torch.cat([present.new_ones(len(present), 1), present], dim=1)
        for number, block in enumerate(self.blocks, 1):
            # After the last block only the first slot is read.
            states = block(states, present, 1 if number == len(self.blocks) else states.shape[1])
        output: torch.Tensor = self.normalization(states[:, 0])
        return output


class TEM(SearchMethod[TEMSettings]):
    """Rank by TEM (Bi et al., 2020) in its inner-product form: a request is encoded once for all its candidates.

    The query comes first, then the user's items, oldest first, so positions depend on the length; sinusoidal position
    vectors are added without scaling; the first block's attention reads its input without normalization; no slot of
    zeros is added, because attention falls back to the query's own slot. Normalizations start with gains of one: the
    released code draws them at random.

    Deviations: the loss and the query's learned vector are as in `qem.py`; a history holds what precedes its target,
    never later purchases, and not the target (the samples' strict protocol); a run of one item counts as one purchase,
    since a purchase may be among both the clicks and the searches; after the last block only the query's slot is
    computed.
    """

    paper = "Bi et al.: A Transformer-based Embedding Model for Personalized Product Search. SIGIR 2020"
    inputs: ClassVar[tuple[str, ...]] = ("clicks", "searches", "words", "training_negatives")
    settings_model = TEMSettings
    module_class: ClassVar[type[torch.nn.Module]] = TEMModel


METHOD = TEM

"""Recommend by BERT4Rec: bidirectional self-attention over recommendation clicks, trained to predict masked ones.

Sun et al.: BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer. CIKM 2019.
To predict, a mask is appended to the history (the oldest click is dropped if there is no room), and its state is
compared with items. The mask and the padding are inputs only: neither has a row in the weights that states are compared
with, so neither can be scored, and `item_vectors` are the input vectors of items, not the head's output. Padding is
never masked nor attended to.

Deviations, all deliberate:
- Masks are drawn anew in every step; the authors store ten maskings of each window. Their extra sample that masks the
  last item alone is a share of the rows (`last_item_share`).
- Windows overlap in one item only; the authors move theirs by a tenth of its width.
- A masked item is always replaced by the mask, as in their script for Amazon, not by BERT's 80/10/10.
- The loss may be a softmax over sampled negatives; `loss: softmax` is the published one. Adam without warm-up.
It needs many more steps than causal methods, since only masked positions are trained on: allow enough epochs.
"""

from __future__ import annotations

import functools
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.sequence_encoder import SequenceEncoder
from gensar_core.baselines.shared.sequence_examples import MaskedPlaces
from gensar_core.baselines.shared.sequential_recommender import SequentialRecommender, SequentialSettings
from gensar_core.baselines.shared.trained_method import heads_divide_dimensions
from gensar_core.config.base import Positive, Share
from gensar_core.config.search_spaces import Among, Between
from gensar_core.nn.attention import Pointwise, SelfAttention, initialize
from gensar_core.nn.dropout import Dropout


class BERT4RecSettings(SequentialSettings):
    """Hold the sizes of the encoder and its masks, on top of the settings of all sequential methods."""

    max_history: Annotated[int, Field(ge=2)] = 50
    """Positions that a state can depend on, the mask's included."""
    blocks: Annotated[Positive, Among((1, 2, 3))] = 2
    heads: Positive = 2
    mask_share: Annotated[Share, Between(0.1, 0.8)] = 0.6
    last_item_share: Share = 0.1
    """Share of the rows in which only the last item is masked."""

    _heads_divide_dimensions = heads_divide_dimensions()


class BERT4RecBlock(torch.nn.Module):
    """Apply self-attention, then a point-wise network; add each to its input and normalize after."""

    def __init__(self, dimensions: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(dimensions, heads, dropout)
        self.after_attention = torch.nn.LayerNorm(dimensions)
        self.pointwise = Pointwise(dimensions, 4 * dimensions, torch.nn.GELU(), dropout)
        self.after_pointwise = torch.nn.LayerNorm(dimensions)
        self.dropout = Dropout(dropout)

    def forward(self, states: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        states = self.after_attention(states + self.dropout(self.attention(states, visible)))
        normalized: torch.Tensor = self.after_pointwise(states + self.dropout(self.pointwise(states)))
        return normalized


class BERT4RecEncoder(SequenceEncoder):
    """Encode item and position vectors by blocks and a head; compare with items, adding their biases."""

    def __init__(self, data: MethodData, settings: BERT4RecSettings) -> None:
        size = settings.dimensions
        super().__init__(data.n_items, size, bias=True)
        # Padding and mask: the two inputs numbered after the items.
        self.special = torch.nn.Embedding(2, size)
        self.positions = torch.nn.Embedding(settings.max_history, size)
        self.normalization = torch.nn.LayerNorm(size)
        self.dropout = Dropout(settings.dropout)
        self.blocks = torch.nn.ModuleList(
            BERT4RecBlock(size, settings.heads, settings.dropout) for _ in range(settings.blocks)
        )
        self.head = torch.nn.Sequential(torch.nn.Linear(size, size), torch.nn.GELU(), torch.nn.LayerNorm(size))
        initialize(self, std=0.02)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Return states [rows, width, dimensions] of inputs int64 [rows, width], any of them padding or a mask."""
        inputs = functional.embedding(items, torch.cat([self.items.weight, self.special.weight]))
        states = self.dropout(self.normalization(inputs + self.positions.weight[: items.shape[1]]))
        visible = items != self.items.num_embeddings
        for block in self.blocks:
            states = block(states, visible)
        output: torch.Tensor = self.head(states)
        return output


class BERT4Rec(SequentialRecommender[BERT4RecSettings]):
    """Recommend by BERT4Rec (Sun et al., 2019)."""

    paper = "Sun et al.: BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations. CIKM 2019"
    settings_model = BERT4RecSettings
    module_class = BERT4RecEncoder

    @functools.cached_property
    def form(self) -> MaskedPlaces:
        """Predict the items at masked positions."""
        settings = self.settings
        return MaskedPlaces(
            settings.max_history, self.data.n_items, settings.mask_share, settings.last_item_share, self.seed
        )


METHOD = BERT4Rec

"""SASRec: self-attention over a user's recommendation clicks."""

from __future__ import annotations

import torch
from pydantic import model_validator
from torch.nn import functional

from gensar_core.baselines.sequences import SequenceEncoder
from gensar_core.baselines.sequential import SequentialRecommender, SequentialSettings
from gensar_core.config.base import Positive
from gensar_core.generator.dropout import dropout


class SASRecSettings(SequentialSettings):
    """Sizes of the encoder, beside what all sequential methods have."""

    blocks: Positive = 2
    heads: Positive = 1

    @model_validator(mode="after")
    def _heads_divide_dimensions(self) -> SASRecSettings:
        if self.dimensions % self.heads:
            raise ValueError(f"dimensions ({self.dimensions}) must be a multiple of heads ({self.heads})")
        return self


class Attention(torch.nn.Module):
    """Causal self-attention [rows, width, dimensions] -> the same."""

    def __init__(self, dimensions: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.projections = torch.nn.Linear(dimensions, 3 * dimensions)
        self.output = torch.nn.Linear(dimensions, dimensions)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        rows, width, dimensions = states.shape
        # [rows, width, 3 * dimensions] -> three of [rows, heads, width, dimensions / heads]
        queries, keys, values = (
            self.projections(states).view(rows, width, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=True)
        output: torch.Tensor = self.output(mixed.transpose(1, 2).reshape(rows, width, dimensions))
        return output


class Dropout(torch.nn.Module):
    """Dropout that is cheap on a CPU."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return dropout(values, self.rate, self.training)


class Block(torch.nn.Module):
    """Self-attention, then a point-wise network; each normalized before and added to its input."""

    def __init__(self, dimensions: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before_attention = torch.nn.LayerNorm(dimensions)
        self.attention = Attention(dimensions, heads, dropout)
        self.before_pointwise = torch.nn.LayerNorm(dimensions)
        self.pointwise = torch.nn.Sequential(
            torch.nn.Linear(dimensions, dimensions),
            torch.nn.ReLU(),
            Dropout(dropout),
            torch.nn.Linear(dimensions, dimensions),
        )
        self.dropout = Dropout(dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = states + self.dropout(self.attention(self.before_attention(states)))
        added: torch.Tensor = self.dropout(self.pointwise(self.before_pointwise(states)))
        return states + added


class SASRecEncoder(SequenceEncoder):
    """Item and position vectors, blocks, a last normalization."""

    def __init__(self, n_items: int, settings: SASRecSettings) -> None:
        super().__init__(n_items, settings.dimensions)
        size = settings.dimensions
        self.positions = torch.nn.Embedding(settings.max_history, size)
        self.dropout = Dropout(settings.dropout)
        self.blocks = torch.nn.ModuleList(Block(size, settings.heads, settings.dropout) for _ in range(settings.blocks))
        self.normalization = torch.nn.LayerNorm(size)
        for module in self.modules():
            if isinstance(module, torch.nn.Embedding):
                torch.nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(module.weight)
                torch.nn.init.zeros_(module.bias)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """States [rows, width, dimensions] after each of the items int64 [rows, width]."""
        scale = self.items.embedding_dim**0.5
        states = self.dropout(self.items(items) * scale + self.positions.weight[: items.shape[1]])
        for block in self.blocks:
            states = block(states)
        normalized: torch.Tensor = self.normalization(states)
        return normalized


class SASRec(SequentialRecommender[SASRecSettings]):
    """Kang and McAuley, 2018; by default with a softmax over many negatives in place of one binary negative."""

    paper = "Kang and McAuley: Self-Attentive Sequential Recommendation. ICDM 2018"
    settings_model = SASRecSettings

    def build(self) -> SASRecEncoder:
        """An untrained encoder."""
        return SASRecEncoder(self.data.n_items, self.settings)


METHOD = SASRec

"""Build encoders of click sequences: self-attention, point-wise layers, and their initialization."""

from __future__ import annotations

import torch
from torch.nn import functional

from gensar_core.nn.attention import Dropout


class SelfAttention(torch.nn.Module):
    """Apply self-attention to states [rows, width, dimensions], and return the same shape.

    Without a mask it is causal. ``visible`` bool [rows, width] marks the places that every place of the row attends to,
    earlier or later; each row has at least one.
    """

    def __init__(self, dimensions: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.projections = torch.nn.Linear(dimensions, 3 * dimensions)
        self.output = torch.nn.Linear(dimensions, dimensions)

    def forward(self, states: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        rows, width, dimensions = states.shape
        # [rows, width, 3 * dimensions] -> three of [rows, heads, width, dimensions / heads]
        queries, keys, values = (
            self.projections(states).view(rows, width, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        )
        mixed = functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=None if visible is None else visible[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=visible is None,
        )
        output: torch.Tensor = self.output(mixed.transpose(1, 2).reshape(rows, width, dimensions))
        return output


class Pointwise(torch.nn.Sequential):
    """Apply two linear layers with an activation between them, at each place separately."""

    def __init__(self, dimensions: int, inner: int, activation: torch.nn.Module, dropout: float) -> None:
        super().__init__(
            torch.nn.Linear(dimensions, inner), activation, Dropout(dropout), torch.nn.Linear(inner, dimensions)
        )


def initialize(module: torch.nn.Module, std: float) -> None:
    """Draw weights of linear and embedding layers within ``module`` from N(0, std**2); zero the biases."""
    for part in module.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Embedding):
            torch.nn.init.normal_(part.weight, std=std)
        if isinstance(part, torch.nn.Linear) and part.bias is not None:
            torch.nn.init.zeros_(part.bias)

"""Attention blocks for sequence encoders."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from gensar_core.nn.dropout import Dropout


def xavier(module: torch.nn.Module) -> None:
    """Draw matrices and embeddings from Xavier's normal distribution, zero the biases, and keep normalizations."""
    for name, parameter in module.named_parameters():
        if parameter.dim() >= 2:
            torch.nn.init.xavier_normal_(parameter)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)


def initialize(module: torch.nn.Module, std: float) -> None:
    """Draw weights of linear and embedding layers within ``module`` from N(0, std**2); zero the biases."""
    for part in module.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Embedding):
            torch.nn.init.normal_(part.weight, std=std)
        if isinstance(part, torch.nn.Linear) and part.bias is not None:
            torch.nn.init.zeros_(part.bias)


def on_distinct(encode: Callable[[torch.Tensor], torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
    """Apply ``encode`` (numbers [n] -> vectors [n, dimensions]) to numbers of any shape, once per distinct number."""
    distinct, place = torch.unique(numbers, return_inverse=True)
    return functional.embedding(place, encode(distinct))


def masked_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average states [..., width, dimensions] where ``mask`` [..., width] is true; zero where it is true nowhere."""
    weights = mask.to(states.dtype)
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1.0)
    return (weights[..., None, :] @ states).squeeze(-2)


def masked_softmax(logits: torch.Tensor, mask: torch.Tensor, dim: int) -> torch.Tensor:
    """Compute the softmax over ``dim`` where ``mask`` (as ``logits``, or broadcast to it) is true; zero elsewhere."""
    weights = torch.softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), dim=dim)
    return weights * mask


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


class Attention(torch.nn.Module):
    """Apply multi-head attention from some states to others; a row without keys gets a zero context."""

    def __init__(self, dimensions: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.queries = torch.nn.Linear(dimensions, dimensions)
        self.keys = torch.nn.Linear(dimensions, 2 * dimensions)
        self.output = torch.nn.Linear(dimensions, dimensions)

    def forward(self, states: torch.Tensor, others: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute contexts of states [rows, width, d] from others [rows, length, d].

        ``mask`` marks the states that may be attended to: bool [rows, length], or [rows, width, length].
        """
        rows, width, dimensions = states.shape
        mask = mask[:, None].expand(rows, width, -1) if mask.dim() == 2 else mask
        some = mask.any(dim=-1, keepdim=True)
        queries = self.queries(states).view(rows, width, self.heads, -1).transpose(1, 2)
        # [rows, length, 2 d] -> two of [rows, heads, length, d / heads]
        keys, values = self.keys(others).view(rows, others.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        # Rows without a visible key attend to everything, which keeps the softmax finite; they are zeroed below.
        contexts = functional.scaled_dot_product_attention(
            queries, keys, values, (mask | ~some)[:, None], dropout_p=self.dropout if self.training else 0.0
        )
        mixed: torch.Tensor = self.output(contexts.transpose(1, 2).reshape(rows, width, dimensions))
        return mixed * some


class EncoderLayer(torch.nn.Module):
    """Apply attention, then a point-wise network, each added to its input and normalized (Vaswani et al., 2017)."""

    def __init__(
        self, dimensions: int, heads: int, dropout: float, activation: torch.nn.Module, eps: float = 1.0e-5
    ) -> None:
        super().__init__()
        self.attention = Attention(dimensions, heads, dropout)
        self.after_attention = torch.nn.LayerNorm(dimensions, eps=eps)
        self.pointwise = Pointwise(dimensions, dimensions, activation, dropout)
        self.after_pointwise = torch.nn.LayerNorm(dimensions, eps=eps)
        self.dropout = Dropout(dropout)

    def forward(self, states: torch.Tensor, others: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Update states [rows, width, d] by attention to ``others`` [rows, length, d] where ``mask`` allows."""
        states = self.after_attention(states + self.dropout(self.attention(states, others, mask)))
        normalized: torch.Tensor = self.after_pointwise(states + self.dropout(self.pointwise(states)))
        return normalized


class DecoderLayer(torch.nn.Module):
    """Apply self-attention, then an encoder layer that attends to a memory."""

    def __init__(self, dimensions: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.own = Attention(dimensions, heads, dropout)
        self.after_own = torch.nn.LayerNorm(dimensions)
        self.cross = EncoderLayer(dimensions, heads, dropout, torch.nn.ReLU())
        self.dropout = Dropout(dropout)

    def forward(self, states: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Update states [rows, width, d]; ``memory`` [rows, width, d] has the same slots, ``mask`` [rows, width]."""
        states = self.after_own(states + self.dropout(self.own(states, states, mask)))
        decoded: torch.Tensor = self.cross(states, memory, mask)
        return decoded


class TargetAttention(torch.nn.Module):
    """Pool a history for each candidate: states weighted by softmax over h_t W e."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.bilinear = torch.nn.Linear(dimensions, dimensions, bias=False)

    def forward(self, states: torch.Tensor, candidates: torch.Tensor, *masks: torch.Tensor) -> list[torch.Tensor]:
        """Return interests [rows, candidates, d], one for each of the ``masks`` bool [rows, width].

        ``states`` [rows, width, d], ``candidates`` [rows, candidates, d].
        """
        logits = candidates @ self.bilinear(states).transpose(1, 2)
        return [masked_softmax(logits, mask[:, None], dim=2) @ states for mask in masks]

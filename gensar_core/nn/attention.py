"""Encode mixed histories: attention blocks, masked pooling and alignment losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from gensar_core.nn.dropout import dropout

#: Lowest value of learned temperatures; below it, a softmax of logits up to 1 / temperature would overflow.
_LOWEST_TEMPERATURE = 0.01


class Dropout(torch.nn.Module):
    """Apply dropout at low cost on a CPU."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return dropout(values, self.rate, self.training)


def xavier(module: torch.nn.Module) -> None:
    """Draw matrices and embeddings from Xavier's normal distribution, zero the biases, and keep normalizations."""
    for name, parameter in module.named_parameters():
        if parameter.dim() >= 2:
            torch.nn.init.xavier_normal_(parameter)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)


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
        self.pointwise = torch.nn.Sequential(
            torch.nn.Linear(dimensions, dimensions),
            activation,
            Dropout(dropout),
            torch.nn.Linear(dimensions, dimensions),
        )
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


class QueryItemAlignment(torch.nn.Module):
    """Align the vectors of a query and of an item clicked after it by InfoNCE, both ways (SESRec, Eq. 6)."""

    def __init__(self, dimensions: int, temperature: float, negatives: int) -> None:
        super().__init__()
        self.bilinear = torch.nn.Linear(dimensions, dimensions, bias=False)
        self.temperature = torch.nn.Parameter(torch.tensor(temperature))
        self.negatives = negatives

    def forward(
        self,
        queries: torch.Tensor,
        items: torch.Tensor,
        encode_queries: Callable[[torch.Tensor], torch.Tensor],
        encode_items: Callable[[torch.Tensor], torch.Tensor],
        n_queries: int,
        n_items: int,
    ) -> torch.Tensor:
        """Compute the loss of (``queries``, ``items``) int64 [pairs], all against the same random items and queries.

        A pair's partner may be among the random ones; with 1,024 of them that changes the loss little.
        """
        device = queries.device
        query, query_place = torch.unique(queries, return_inverse=True)
        item, item_place = torch.unique(items, return_inverse=True)
        asked, found = self.bilinear(encode_queries(query)), encode_items(item)
        random_items = encode_items(torch.randperm(n_items, device=device)[: self.negatives])
        random_queries = self.bilinear(encode_queries(torch.randperm(n_queries, device=device)[: self.negatives]))
        temperature = self.temperature.clamp(min=_LOWEST_TEMPERATURE)
        positive = (asked[query_place] * found[item_place]).sum(dim=1).tanh() / temperature
        # A pair's negatives depend on its query alone, or on its item alone.
        to_items = torch.logsumexp((asked @ random_items.T).tanh() / temperature, dim=1)[query_place]
        to_queries = torch.logsumexp((found @ random_queries.T).tanh() / temperature, dim=1)[item_place]
        losses = [functional.softplus(negative - positive).mean() for negative in (to_items, to_queries)]
        return (losses[0] + losses[1]) / 2


class ViewAlignment(torch.nn.Module):
    """Align two views of a row by NT-Xent, with tanh(z W z') / temperature as similarity (UniSAR, Eq. 12)."""

    def __init__(self, dimensions: int, temperature: float) -> None:
        super().__init__()
        self.bilinear = torch.nn.Linear(dimensions, dimensions, bias=False)
        self.temperature = torch.nn.Parameter(torch.tensor(temperature))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Compute the loss of views [rows, d]; a view's negatives are the 2 rows - 2 others. Zero without rows."""
        rows = len(first)
        if not rows:
            return first.sum() * 0.0
        views = torch.cat([first, second])
        logits = (self.bilinear(views) @ views.T).tanh() / self.temperature.clamp(min=_LOWEST_TEMPERATURE)
        logits = logits.masked_fill(torch.eye(2 * rows, dtype=torch.bool, device=logits.device), -torch.inf)
        partners = torch.arange(2 * rows, device=logits.device).roll(rows)
        return functional.cross_entropy(logits, partners)

"""Build the model of UnifiedSSR: item and query sequences pass through the same layers and attend to each other.

See `unifiedssr` for its training and the differences from the paper.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import model_validator
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.query_words import QueryWords, query_word_numbers
from gensar_core.baselines.shared.target_model import JointSettings, RowModel, sinusoids
from gensar_core.baselines.shared.target_rows import RowBatch
from gensar_core.baselines.shared.trained_method import heads_divide_dimensions
from gensar_core.config.base import Count, Positive, Share
from gensar_core.config.search_spaces import Among, Between
from gensar_core.nn.attention import Attention, masked_mean
from gensar_core.nn.dropout import Dropout


class UnifiedSSRSettings(JointSettings):
    """Configure sizes and loss weights, on top of the settings for training on rows. Stored negatives are not read."""

    dimensions: Annotated[Positive, Among((32, 64, 128))] = 32
    dropout: Annotated[Share, Between(0.0, 0.7)] = 0.5
    max_recommendations: Count = 50
    max_searches: Count = 50
    stored_negatives: bool = False
    sampled_negatives: Count = 4
    popularity_power: Share = 0.0
    batch_size: Positive = 128
    weight_decay: Share = 0.0
    heads: Positive = 4
    layers: Positive = 2
    max_query_words: Positive = 50
    session_weight: Annotated[Share, Between(0.0, 0.5)] = 0.1
    """Weight of the loss that correlates the sessions of a sequence."""

    _heads_divide_dimensions = heads_divide_dimensions(even=True)

    @model_validator(mode="after")
    def _uses_sampled_negatives_and_history(self) -> UnifiedSSRSettings:
        if self.stored_negatives or not self.sampled_negatives:
            raise ValueError("trains on sampled negatives: stored_negatives false, sampled_negatives above 0")
        if not self.max_recommendations or not self.max_searches:
            raise ValueError("max_recommendations and max_searches must be above 0")
        return self


class UnifiedSSRLayer(torch.nn.Module):
    """Apply self-attention, attention to the other sequence and a point-wise network, each pre-norm with a residual."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.own, self.across = Attention(size, heads, dropout), Attention(size, heads, dropout)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(size) for _ in range(3))
        self.pointwise = torch.nn.Sequential(
            torch.nn.Linear(size, 2 * size), torch.nn.ReLU(), Dropout(dropout), torch.nn.Linear(2 * size, size)
        )
        self.dropout = Dropout(dropout)

    def forward(
        self, states: torch.Tensor, others: torch.Tensor, mask: torch.Tensor, other_mask: torch.Tensor
    ) -> torch.Tensor:
        """Compute new states [rows, width, d]; masks bool [rows, width, width] are true where attention is allowed."""
        normed = self.norms[0](states)
        states = states + self.dropout(self.own(normed, normed, mask))
        states = states + self.dropout(self.across(self.norms[1](states), others, other_mask))
        added: torch.Tensor = self.dropout(self.pointwise(self.norms[2](states)))
        return states + added


class UnifiedSSRModel(RowModel):
    """Score candidates from user, item and word vectors and layers shared by item and query sequences."""

    def __init__(self, data: MethodData, settings: UnifiedSSRSettings) -> None:
        size = settings.dimensions
        super().__init__(data, size, size)
        self.scale = math.sqrt(size)
        self.words = QueryWords(*query_word_numbers(data, settings.max_query_words), size)
        self.layers = torch.nn.ModuleList(
            UnifiedSSRLayer(size, settings.heads, settings.dropout) for _ in range(settings.layers)
        )
        self.normalization = torch.nn.LayerNorm(size)
        self.dropout = Dropout(settings.dropout)
        #: Weight of item states in search scores; query states have the rest.
        self.item_share = torch.nn.Parameter(torch.tensor(0.5))
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                torch.nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                torch.nn.init.zeros_(parameter)

    def forward(self, batch: RowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the candidates' logits; there are no further losses."""
        history = batch.history
        rows = torch.arange(len(batch.users), device=batch.users.device)
        if batch.task == "rec":
            vectors, mask = self.items(history.clicks) * self.scale, history.is_click
            states = [self.encode(batch.users, vectors, None, mask)[0] * mask[..., None]]
            last = (mask.sum(dim=1) - 1).clamp(min=0)
        else:
            lengths = history.is_search.sum(dim=1)
            queries = functional.pad(history.searches, (0, 1))
            queries[rows, lengths] = batch.queries
            mask = functional.pad(history.is_search, (1, 0), value=True)
            items = masked_mean(self.items(history.searched_items) * self.scale, history.is_searched_item)
            items, is_item = shifted(items), functional.pad(history.is_searched_item.any(dim=2), (1, 0))
            states = list(self.encode(batch.users, items, queries, mask, is_item & mask))
            last = lengths
        table = functional.embedding(batch.candidates, self.items.weight) * self.scale
        logits = [(table @ state[rows, last][:, :, None]).squeeze(2) for state in states]
        return self.mixed(logits), {}

    def encode(
        self,
        users: torch.Tensor,
        items: torch.Tensor,
        queries: torch.Tensor | None,
        mask: torch.Tensor,
        item_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Encode items and, unless None, queries; return the states [rows, width, d] of each.

        ``items`` [rows, width, d] are scaled vectors, ``queries`` int64 [rows, width] are aligned with them. Queries
        are attended to where ``mask`` is true, items where ``item_mask`` (default: ``mask``) is, later places never.
        """
        assert self.users is not None
        width = mask.shape[1]
        earlier = torch.ones(width, width, dtype=torch.bool, device=mask.device).tril()
        # Every place receives the vectors of the user and of the place.
        added = (self.users(users) * self.scale)[:, None] + sinusoids(width, items.shape[2]).to(items)
        of_items = (mask if item_mask is None else item_mask)[:, None] & earlier
        states = self.dropout(items + added)
        if queries is None:
            for layer in self.layers:
                states = layer(states, states, of_items, of_items)
            return (self.normalization(states),)
        query_states = self.dropout(self.words(queries.flatten()).view(*queries.shape, -1) * self.scale + added)
        of_queries = mask[:, None] & earlier
        for layer in self.layers:
            states, query_states = (
                layer(states, query_states, of_items, of_queries),
                layer(query_states, states, of_queries, of_items),
            )
        return self.normalization(states), self.normalization(query_states)

    def mixed(self, values: list[torch.Tensor]) -> torch.Tensor:
        """Return the values from item states, mixed with those from query states if there are any."""
        share = self.item_share.clamp(0.1, 0.9)
        return values[0] if len(values) == 1 else share * values[0] + (1.0 - share) * values[1]


def shifted(vectors: torch.Tensor) -> torch.Tensor:
    """Shift vectors [rows, width, d] one place later, after a zero vector: [rows, width + 1, d]."""
    return functional.pad(vectors, (0, 0, 1, 0))

"""UnifiedSSR: one encoder for sequences of clicks, and for sequences of queries and the clicks after them.

As published (Xie et al., 2024) and as released, with these differences:

- Attention is causal. The released collate functions pass the padding mask alone, so a state sees the item it is asked
  to predict.
- Layers are chained. The released loop feeds the original input into every layer, so that only the last has effect.
- Keys are masked by their own sequence's mask, in attention across sequences too.
- Windows of sessions, which no gradient moves there, are the middle halves of a sequence's own two halves, without
  padding; what lies in a window is doubled, as released.
- One model serves both tasks; the paper fine-tunes a copy for each. Learning rates are constant until a plateau.
- A session of several clicks is one step for each click in training, and one step with their mean in a history.
- Negatives of bce are drawn by clicks ** popularity_power, 0 (uniformly) as published. `loss: softmax` sets each target
  against `sampled_negatives` shared by a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import polars as pl
import torch
from pydantic import model_validator
from torch.nn import functional

from gensar_core.baselines.blocks import Attention, Dropout, masked_mean
from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.losses import PopularityNegatives, sampled_softmax
from gensar_core.baselines.ranked import RankedMethod, RankedSettings, RowModel, TrainingSet
from gensar_core.baselines.rows import RowBatch
from gensar_core.baselines.words import QueryWords, query_words
from gensar_core.config.base import Count, Positive, Rate, Share
from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.runtime.seeds import derive_seed

_SESSIONS = 2


class UnifiedSSRSettings(RankedSettings):
    """Sizes and weights, beside what all methods trained on rows have. Stored negatives are not read."""

    dimensions: Positive = 32
    dropout: Share = 0.5
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
    #: Weight of the correlation of a sequence's sessions.
    session_weight: Share = 0.1
    #: Weight of the search loss.
    search_weight: Rate = 1.0

    @model_validator(mode="after")
    def _makes_sense(self) -> UnifiedSSRSettings:
        if self.dimensions % self.heads or self.dimensions % 2:
            raise ValueError(f"dimensions ({self.dimensions}) must be even and a multiple of heads ({self.heads})")
        if self.stored_negatives or not self.sampled_negatives:
            raise ValueError("trains on sampled negatives: stored_negatives false, sampled_negatives above 0")
        if not self.max_recommendations or not self.max_searches:
            raise ValueError("max_recommendations and max_searches must be above 0")
        return self


class UnifiedSSRLayer(torch.nn.Module):
    """Self-attention, attention to the other sequence, a point-wise network; normalized before, added after."""

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
        """New states [rows, width, d]; masks bool [rows, width, width] say who attends to whom."""
        normed = self.norms[0](states)
        states = states + self.dropout(self.own(normed, normed, mask))
        states = states + self.dropout(self.across(self.norms[1](states), others, other_mask))
        added: torch.Tensor = self.dropout(self.pointwise(self.norms[2](states)))
        return states + added


class UnifiedSSRModel(RowModel):
    """Item, user and word vectors, and layers that sequences of items and of queries go through alike."""

    def __init__(self, data: MethodData, settings: UnifiedSSRSettings) -> None:
        size = settings.dimensions
        super().__init__(data, size, size)
        self.scale = math.sqrt(size)
        self.words = QueryWords(*query_words(data, settings.max_query_words), size)
        self.layers = torch.nn.ModuleList(
            UnifiedSSRLayer(size, settings.heads, settings.dropout) for _ in range(settings.layers)
        )
        self.normalization = torch.nn.LayerNorm(size)
        self.dropout = Dropout(settings.dropout)
        #: How much states of items, rather than of queries, count for search.
        self.item_share = torch.nn.Parameter(torch.tensor(0.5))
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                torch.nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                torch.nn.init.zeros_(parameter)

    def forward(self, batch: RowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits of the candidates."""
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
            found = masked_mean(self.items(history.found) * self.scale, history.is_found)
            found, is_found = shifted(found), functional.pad(history.is_found.any(dim=2), (1, 0))
            states = list(self.encode(batch.users, found, queries, mask, is_found & mask))
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
        """States [rows, width, d] of items, and of queries if there are some: two tensors, or one.

        ``items`` [rows, width, d] are scaled vectors, ``queries`` int64 [rows, width] stand beside them, and may be
        attended to where ``mask`` holds; items may where ``item_mask`` (or ``mask``) does; none ever to a later place.
        """
        assert self.users is not None
        width = mask.shape[1]
        earlier = torch.ones(width, width, dtype=torch.bool, device=mask.device).tril()
        # Added to every place: the user, and the place.
        added = (self.users(users) * self.scale)[:, None] + sinusoids(width, items.shape[2]).to(items)
        of_items = (mask if item_mask is None else item_mask)[:, None] & earlier
        states = self.dropout(items + added)
        if queries is None:
            for layer in self.layers:
                states = layer(states, states, of_items, of_items)
            return (self.normalization(states),)
        asked = self.dropout(self.words(queries.flatten()).view(*queries.shape, -1) * self.scale + added)
        of_queries = mask[:, None] & earlier
        for layer in self.layers:
            states, asked = layer(states, asked, of_items, of_queries), layer(asked, states, of_queries, of_items)
        return self.normalization(states), self.normalization(asked)

    def mixed(self, values: list[torch.Tensor]) -> torch.Tensor:
        """What items' states say, alone or mixed with what queries' states say."""
        share = self.item_share.clamp(0.1, 0.9)
        return values[0] if len(values) == 1 else share * values[0] + (1.0 - share) * values[1]


def shifted(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors [rows, width, d] one place later, after an empty one [rows, width + 1, d]."""
    return functional.pad(vectors, (0, 0, 1, 0))


def sinusoids(width: int, size: int) -> torch.Tensor:
    """Vectors of places, float32 [width, size] (Vaswani et al., 2017, section 3.5)."""
    angles = torch.arange(width)[:, None] * torch.exp(torch.arange(0, size, 2) * (-math.log(1.0e4) / size))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def session_windows(mask: torch.Tensor) -> torch.Tensor:
    """Which places lie in each session's window, bool [sessions, rows, width], for padded rows bool [rows, width]."""
    place = (torch.arange(mask.shape[1], device=mask.device) + 0.5) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    centers = [(number + 0.5) / _SESSIONS for number in range(_SESSIONS)]
    return torch.stack([mask & ((place - center).abs() <= 0.25 / _SESSIONS) for center in centers])


class SequenceSet:
    """Users' training sequences of one task: every place is a target, but for the first where no query is asked.

    ``users`` [rows], ``items`` and, for search, ``queries`` Ragged [rows].
    """

    def __init__(self, method: UnifiedSSR, task: str) -> None:
        settings, data = method.settings, method.data
        self.method, self.task = method, task
        events = data.training_events.filter(pl.col("task") == task).sort("user_id", "event_id")
        users, counts = np.unique(events.get_column("user_id").to_numpy(), return_counts=True)
        clicked = Ragged.from_lengths(counts, events.get_column("item_id").to_numpy().astype(np.int64))
        width = settings.max_recommendations + 1 if task == "rec" else settings.max_searches
        self.users, cuts = users.astype(np.int64), clicked.tail(width)
        kept = ranges(clicked.offsets[1:] - cuts.lengths, cuts.lengths)
        self.items = cuts
        asked = events.get_column("query_id").fill_null(0).to_numpy().astype(np.int64)
        self.queries = Ragged(cuts.offsets, asked[kept])
        if task == "rec":
            some = np.flatnonzero(cuts.lengths > 1)
            self.users, self.items, self.queries = self.users[some], cuts.take(some), self.queries.take(some)
        self.lengths = self.items.lengths
        counted = np.bincount(clicked.values, minlength=data.n_items)
        self.sampler = PopularityNegatives(counted, settings.popularity_power, derive_seed(method.seed, task))
        method.model.seen_items[torch.from_numpy(np.flatnonzero(counted))] = True
        method.model.seen_users[torch.from_numpy(self.users)] = True

    def losses(self, rows: np.ndarray, step: int) -> Mapping[str, torch.Tensor]:
        """The loss of all targets, and the correlation of sessions."""
        model = self.method.model
        device = model.items.weight.device
        taken = self.items.take(rows)
        width = int(taken.lengths.max())
        users, items, queries = (
            torch.from_numpy(array).to(device)
            for array in (self.users[rows], taken.padded(width, 0), self.queries.take(rows).padded(width, 0))
        )
        mask = torch.arange(width, device=device) < torch.from_numpy(taken.lengths).to(device)[:, None]
        vectors = model.items(items) * model.scale
        if self.task == "rec":
            mask = mask[:, 1:]
            states, targets = model.encode(users, vectors[:, :-1], None, mask), items[:, 1:]
        else:
            known = torch.arange(width, device=device) > 0
            states = model.encode(users, shifted(vectors)[:, :-1], queries, mask, mask & known)
            targets = items
        windows = session_windows(mask)
        doubled = (1.0 + windows.any(dim=0).to(vectors.dtype))[..., None]
        losses = [self._next_items((state * doubled)[mask], targets[mask], step) for state in states]
        weight = self.method.settings.session_weight
        return {"ranking": model.mixed(losses), "sessions": weight * correlation(states, windows)}

    def _next_items(self, states: torch.Tensor, targets: torch.Tensor, step: int) -> torch.Tensor:
        """Mean loss of states [targets, d] and their targets [targets]."""
        settings, table = self.method.settings, self.method.model.items.weight
        scaled = states * self.method.model.scale
        if settings.loss == "softmax":
            drawn = torch.from_numpy(self.sampler.draw(step, settings.sampled_negatives)).to(table.device)
            return sampled_softmax(scaled, targets, table, drawn)
        count = settings.sampled_negatives
        drawn = torch.from_numpy(self.sampler.draw(step, len(targets) * count).reshape(-1, count)).to(table.device)
        positive = (scaled * functional.embedding(targets, table)).sum(dim=1)
        negative = (functional.embedding(drawn, table) @ scaled[:, :, None]).squeeze(2)
        terms = functional.softplus(negative) * (drawn != targets[:, None])
        return (functional.softplus(-positive) + terms.sum(dim=1)).mean()


def correlation(states: tuple[torch.Tensor, ...], windows: torch.Tensor) -> torch.Tensor:
    """Sessions of a sequence should differ, and sessions of items and of queries agree.

    ``states`` [rows, width, d] of items, and of queries if there are some; ``windows`` bool [sessions, rows, width].
    """
    sessions = [torch.stack([masked_mean(state, window) for window in windows]) for state in states]
    adjacent = [functional.cosine_similarity(own[:-1], own[1:], dim=2).abs().mean() for own in sessions]
    total = torch.stack(adjacent).sum()
    if len(sessions) == 1:
        return total
    return total - functional.cosine_similarity(sessions[0], sessions[1], dim=2).mean()


class UnifiedSSR(RankedMethod[UnifiedSSRSettings]):
    """Xie et al., 2024."""

    tasks = ("rec", "search")
    inputs = ("clicks", "searches", "words")
    paper = "Xie et al.: UnifiedSSR: A Unified Framework of Sequential Search and Recommendation. WWW 2024"
    settings_model = UnifiedSSRSettings
    model: UnifiedSSRModel

    def build(self) -> UnifiedSSRModel:
        """An untrained model."""
        return UnifiedSSRModel(self.data, self.settings)

    def training_set(self, task: str) -> TrainingSet:
        """Users' sequences of a task."""
        return SequenceSet(self, task)

    def task_weight(self, task: str) -> float:
        """The weight of a task's losses."""
        return self.settings.search_weight if task == "search" else 1.0


METHOD = UnifiedSSR

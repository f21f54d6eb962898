"""Recommend by SESRec from clicks and searches, separating what both histories say from what only one says.

As published (Si et al., 2023) and as released, with these differences:

- A row without clicks or without searches has zero states and interests there; the released code needs both.
- Padding takes no part in the similarity of the two histories, so the width of a batch does not matter.
- The alignment of queries and items draws its negatives without replacement, and anew in each step.
- Learning rates follow valid NDCG@5, as for all methods trained on rows, instead of MRR; biases do not decay.
- The tower's last layer begins at zero, and learned vectors have ten times the learning rate of matrices: otherwise
  most of its units become inactive for good before it has learned anything.
- The tower reads interests, user and candidate, and also the products of the first two with the candidate (`products`):
  a network does not learn from few clicks to compare concatenated inputs.
- Losses and negatives may be chosen (`loss`, `sampled_negatives`); as published: bce against four stored ones.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.query_words import QueryWords, query_word_numbers
from gensar_core.baselines.shared.scoring_tower import Tower, begin_at_chance
from gensar_core.baselines.shared.target_model import RankedSettings, RowModel
from gensar_core.baselines.shared.target_ranking import RankedMethod
from gensar_core.baselines.shared.target_rows import HistoryBatch, RowBatch
from gensar_core.baselines.shared.trained_method import heads_divide_dimensions
from gensar_core.config.base import Count, Positive, Rate
from gensar_core.config.search_spaces import Among, Between
from gensar_core.nn.attention import (
    EncoderLayer,
    TargetAttention,
    masked_mean,
    masked_softmax,
    on_distinct,
    xavier,
)
from gensar_core.nn.contrastive import QueryItemAlignment

_Weight = Annotated[float, Field(ge=0.0)]
#: Tolerance: rounding may lower a weight of exactly 1 / n.
_ROUNDING = 1.0e-6


class SESRecSettings(RankedSettings):
    """Hold sizes and weights, on top of those of all methods trained on rows.

    Defaults are for the paper's Amazon data.
    """

    dimensions: Annotated[Positive, Among((32, 64, 128))] = 32
    heads: Positive = 4
    max_recommendations: Count = 15
    max_searches: Count = 15
    max_query_words: Positive = 15
    batch_size: Positive = 256
    embedding_rate: Rate = 10.0
    products: bool = True
    """Also show the tower the products of each interest, and of the user, with the candidate, dimension by
    dimension."""
    query_item_weight: Annotated[_Weight, Between(1.0e-3, 1.0, log=True)] = 0.1
    query_item_temperature: Rate = 0.1
    query_item_negatives: Positive = 1024
    triplet_weight: _Weight = 0.001
    """Weight of the triplet losses, which separate similar from dissimilar states, and their margin."""
    triplet_margin: _Weight = 0.1

    _heads_divide_dimensions = heads_divide_dimensions(even=True)


class SESRecModel(RowModel):
    """Encode both histories, apply co-attention and target attention, and score by a tower."""

    reads_past_queries = True

    def __init__(self, data: MethodData, settings: SESRecSettings) -> None:
        size, dropout = settings.dimensions, settings.dropout
        super().__init__(data, size, size)
        self.settings = settings
        self.n_items = data.n_items
        self.words = QueryWords(*query_word_numbers(data, settings.max_query_words), size // 2)
        self.query_ids = torch.nn.Embedding(data.n_queries, size // 2)
        self.item_projection = torch.nn.Linear(size, size)
        self.query_projection = torch.nn.Linear(size, size)
        #: Distinguishes a search of the history from a query alone.
        self.source = torch.nn.Embedding(1, size)
        widths = {"clicks": settings.max_recommendations, "searches": settings.max_searches}
        self.positions = torch.nn.ModuleDict(
            {name: torch.nn.Embedding(max(1, width), size) for name, width in widths.items()}
        )
        self.encoders = torch.nn.ModuleDict(
            {name: EncoderLayer(size, settings.heads, dropout, torch.nn.LeakyReLU(), eps=1.0e-8) for name in widths}
        )
        self.similarity = torch.nn.Linear(size, size, bias=False)
        #: w_d, which weighs search states when clicks are scored, and w_q, the reverse.
        self.scorers = torch.nn.ModuleDict({name: torch.nn.Linear(size, 1, bias=False) for name in widths})
        self.attention = torch.nn.ModuleDict({name: TargetAttention(size) for name in widths})
        temperature, negatives = settings.query_item_temperature, settings.query_item_negatives
        cold = torch.from_numpy(data.cold)
        self.pairs = QueryItemAlignment(size, temperature, negatives, data.n_queries, cold)
        #: Inputs: six interests, user and candidate; with `products`, also the first seven times the candidate.
        self.tower = Tower(((15 if settings.products else 8) * size, 200, 80), dropout)
        xavier(self)
        begin_at_chance(self)

    def query_table(self) -> torch.nn.Embedding:
        """Return the vectors that distinguish queries of the same words."""
        return self.query_ids

    def forward(self, batch: RowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the candidates' logits; in training also the alignment and triplet losses."""
        assert self.users is not None
        states = self.states(batch.history)
        masks = {"clicks": batch.history.is_click, "searches": batch.history.is_search}
        weights = self.weights(states, masks)
        candidates = on_distinct(self.encode_items, batch.candidates)
        interests, triplets = [], []
        for name, mask in masks.items():
            similar, dissimilar = parted(weights[name], mask)
            interests += self.attention[name](states[name], candidates, mask, similar, dissimilar)
            triplets.append(self._triplet(states[name], weights[name], similar, dissimilar))
        met = [*interests, self.users(batch.users)[:, None].expand(-1, candidates.shape[1], -1)]
        products = [part * candidates for part in met] if self.settings.products else []
        logits: torch.Tensor = self.tower(torch.cat([*met, candidates, *products], dim=2)).squeeze(-1)
        return logits, self._further(batch.history, triplets) if self.training else {}

    def states(self, history: HistoryBatch) -> dict[str, torch.Tensor]:
        """Encode clicks and searches, each as states [rows, width of the history, dimensions]."""
        searched_items = masked_mean(on_distinct(self.encode_items, history.searched_items), history.is_searched_item)
        inputs = {
            "clicks": (on_distinct(self.encode_items, history.clicks), history.is_click),
            "searches": (
                on_distinct(self.encode_queries, history.searches) + self.source.weight + searched_items,
                history.is_search,
            ),
        }
        encoded = {}
        for name, (vectors, mask) in inputs.items():
            states = vectors + self.positions[name](torch.arange(vectors.shape[1], device=vectors.device))
            encoded[name] = self.encoders[name](states, states, mask) * mask[..., None]
        return encoded

    def weights(self, states: dict[str, torch.Tensor], masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weigh slots by agreement with the other history: softmax over a history's slots [rows, width]."""
        clicks, searches = states["clicks"], states["searches"]
        # M [rows, clicks, searches]; padding has zero states, so its rows and columns are zero.
        similar = torch.tanh(self.similarity(clicks) @ searches.transpose(1, 2))
        logits = {
            "clicks": similar @ self.scorers["clicks"](searches),
            "searches": similar.transpose(1, 2) @ self.scorers["searches"](clicks),
        }
        return {name: masked_softmax(logits[name].squeeze(-1), mask, dim=1) for name, mask in masks.items()}

    def encode_items(self, items: torch.Tensor) -> torch.Tensor:
        """Return vectors [items, dimensions] of item numbers int64 [items]."""
        vectors: torch.Tensor = self.item_projection(self.items(items))
        return vectors

    def encode_queries(self, queries: torch.Tensor) -> torch.Tensor:
        """Return vectors [queries, dimensions] of query numbers int64 [queries]."""
        vectors: torch.Tensor = self.query_projection(torch.cat([self.query_ids(queries), self.words(queries)], dim=-1))
        return vectors

    def item_vectors(self) -> torch.Tensor:
        """Return the projected vectors, from which the histories are built."""
        return self.encode_items(torch.arange(self.n_items, device=self.items.weight.device))

    def _triplet(
        self, states: torch.Tensor, weights: torch.Tensor, similar: torch.Tensor, dissimilar: torch.Tensor
    ) -> torch.Tensor:
        """Pull the weighted history towards the plain mean of similar states, away from that of dissimilar ones."""
        anchor = (weights[:, None] @ states).squeeze(1)
        near = functional.pairwise_distance(anchor, masked_mean(states, similar))
        far = functional.pairwise_distance(anchor, masked_mean(states, dissimilar))
        return functional.relu(near - far + self.settings.triplet_margin).mean()

    def _further(self, history: HistoryBatch, triplets: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weighted auxiliary losses."""
        settings = self.settings
        losses = {"triplet": settings.triplet_weight * torch.stack(triplets).sum()}
        row, search, item = history.is_searched_item.nonzero(as_tuple=True)
        if settings.query_item_weight and len(row):
            pairs = history.searches[row, search], history.searched_items[row, search, item]
            loss = self.pairs(*pairs, self.encode_queries, self.encode_items)
            losses["query_item"] = settings.query_item_weight * loss
        return losses


def parted(weights: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split real slots into similar ones, with a weight of at least 1 / n among n, and the rest, bool [rows, width].

    An empty group becomes all real slots. No gradient passes here.
    """
    real = mask.sum(dim=1, keepdim=True)
    similar = mask & (weights.detach() * real >= 1.0 - _ROUNDING)
    dissimilar = mask & ~similar
    some_similar, some_dissimilar = similar.any(dim=1, keepdim=True), dissimilar.any(dim=1, keepdim=True)
    return similar | (mask & ~some_similar), dissimilar | (mask & ~some_dissimilar)


class SESRec(RankedMethod[SESRecSettings]):
    """Recommend by SESRec (Si et al., 2023)."""

    tasks = ("rec",)
    inputs = ("clicks", "searches", "words", "training_negatives")
    paper = "Si et al.: When Search Meets Recommendation: Learning Disentangled Search Representation. SIGIR 2023"
    settings_model = SESRecSettings
    module_class = SESRecModel


METHOD = SESRec

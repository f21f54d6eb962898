"""Rank by UniSAR: fuse transitions between recommendation and search, and mix experts for both tasks.

As published (Shi et al., 2024) and as released, with these differences:

- The encoder of the merged history blocks attention between slots of one kind. So its recommendation slots attend to
  search slots and vice versa, and it is computed as these two cross-attentions, which give the same states.
- A row without clicks or without searches has no keys there: it gets a zero context, a zero interest, and no part in
  the alignment of that history; the released code needs both.
- The alignment of queries and items counts no pair twice in its negatives' softmax, and draws negatives without
  replacement.
- Batches hold rows with histories of similar length, and are padded to their own longest only.
- The towers' last layers begin at zero, and learned vectors have ten times the learning rate of matrices: otherwise
  most of their units become inactive for good before they have learned anything.
- Experts read interests, user, query and candidate, and also the products of the others with the candidate
  (`products`): a network does not learn from few clicks to compare concatenated inputs.
- Losses and negatives may be chosen (`loss`, `sampled_negatives`); as published: bce against the four stored ones.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from pydantic import Field
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.query_words import QueryWords, query_word_numbers
from gensar_core.baselines.shared.scoring_tower import Tower, begin_at_chance
from gensar_core.baselines.shared.target_model import JointSettings, RowModel
from gensar_core.baselines.shared.target_ranking import JointMethod
from gensar_core.baselines.shared.target_rows import HistoryBatch, RowBatch
from gensar_core.baselines.shared.trained_method import heads_divide_dimensions
from gensar_core.config.base import Positive, Rate
from gensar_core.config.search_spaces import Among, Between
from gensar_core.nn.attention import (
    DecoderLayer,
    EncoderLayer,
    TargetAttention,
    masked_mean,
    on_distinct,
    xavier,
)
from gensar_core.nn.contrastive import QueryItemAlignment, ViewAlignment
from gensar_core.nn.dropout import Dropout
from gensar_core.schema import TASKS

_Weight = Annotated[float, Field(ge=0.0)]


class UniSARSettings(JointSettings):
    """Hold sizes and weights, on top of those of all methods trained on rows.

    Default weights are for the paper's Amazon data.
    """

    embedding_size: Annotated[Positive, Among((32, 64))] = 32
    """Size of item, user and word vectors, before they are projected to `dimensions`."""
    heads: Positive = 2
    experts: Positive = 4
    """Number of experts that both tasks share, and number of experts of each task."""
    max_query_words: Positive = 50
    embedding_rate: Rate = 10.0
    products: bool = True
    """Also show the experts the products of each interest, of the user and of the query with the candidate, dimension
    by dimension."""
    search_weight: Annotated[Rate, Between(0.01, 10.0, log=True)] = 0.01
    query_item_weight: Annotated[_Weight, Between(1.0e-3, 1.0, log=True)] = 0.1
    query_item_temperature: Rate = 0.1
    query_item_negatives: Positive = 1024
    history_weight: _Weight = 0.01
    history_temperature: Rate = 0.1

    _heads_divide_dimensions = heads_divide_dimensions()


class UniSARModel(RowModel):
    """Extract the four transitions, fuse them, apply target attention, and score by experts and towers."""

    def __init__(self, data: MethodData, settings: UniSARSettings) -> None:
        size, heads, dropout = settings.dimensions, settings.heads, settings.dropout
        super().__init__(data, settings.embedding_size, settings.embedding_size)
        self.settings = settings
        self.n_items = data.n_items
        self.words = QueryWords(*query_word_numbers(data, settings.max_query_words), settings.embedding_size)
        self.projections = torch.nn.ModuleDict(
            {name: torch.nn.Linear(settings.embedding_size, size) for name in ("item", "user", "query")}
        )
        clicks, searches = max(1, settings.max_recommendations), max(1, settings.max_searches)
        self.positions = torch.nn.ModuleDict(
            {
                "both": torch.nn.Embedding(clicks + searches, size),
                "clicks": torch.nn.Embedding(clicks, size),
                "searches": torch.nn.Embedding(searches, size),
            }
        )
        self.extractors = torch.nn.ModuleDict(
            {name: EncoderLayer(size, heads, dropout, torch.nn.ReLU()) for name in ("both", "clicks", "searches")}
        )
        self.fusions = torch.nn.ModuleDict(
            {name: DecoderLayer(size, heads, dropout) for name in ("clicks", "searches")}
        )
        self.attention = torch.nn.ModuleDict({name: TargetAttention(size) for name in ("clicks", "searches")})
        self.views = torch.nn.ModuleDict(
            {name: ViewAlignment(size, settings.history_temperature) for name in ("clicks", "searches")}
        )
        temperature, negatives = settings.query_item_temperature, settings.query_item_negatives
        cold = torch.from_numpy(data.cold)
        self.pairs = QueryItemAlignment(size, temperature, negatives, data.n_queries, cold)
        self.no_query = torch.nn.Embedding(1, size)
        #: Inputs: two interests, candidate, user and query; with `products`, also all but the candidate times the
        #: candidate.
        self.experts = Experts((9 if settings.products else 5) * size, size, settings.experts, dropout)
        widths = (size, 128, size, 200, 80)
        self.towers = torch.nn.ModuleDict({task: Tower(widths, dropout) for task in TASKS})
        xavier(self)
        begin_at_chance(self)

    def forward(self, batch: RowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the candidates' logits; in training also the two alignment losses."""
        transitions = self.transitions(batch.history)
        masks = {"clicks": batch.history.is_click, "searches": batch.history.is_search}
        candidates = on_distinct(self.encode_items, batch.candidates)
        interests = []
        for name, mask in masks.items():
            across, within = transitions[name]
            fused = self.fusions[name](within, across, mask)
            interests += self.attention[name](fused, candidates, mask)
        row_vectors = [self.encode_users(batch.users), self._query_vectors(batch)]
        products = []
        if self.settings.products:
            products = [part * candidates for part in (*interests, *(part[:, None] for part in row_vectors))]
        of_candidates = torch.cat([*interests, candidates, *products], dim=2)
        mixed = self.experts(batch.task, of_candidates, torch.cat(row_vectors, dim=1))
        logits: torch.Tensor = self.towers[batch.task](mixed).squeeze(-1)
        return logits, self._alignments(batch.history, transitions, masks) if self.training else {}

    def transitions(self, history: HistoryBatch) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return each history's states as seen from the other history (s2r, r2s) and from itself (r2r, s2s).

        States are [rows, width of the history, dimensions].
        """
        clicks = on_distinct(self.encode_items, history.clicks)
        searched_items = masked_mean(on_distinct(self.encode_items, history.searched_items), history.is_searched_item)
        searches = on_distinct(self.encode_queries, history.searches) + searched_items
        merged_clicks = clicks + self.positions["both"](history.click_places)
        merged_searches = searches + self.positions["both"](history.search_places)
        both, within = self.extractors["both"], {}
        for name, states, mask in (
            ("clicks", clicks, history.is_click),
            ("searches", searches, history.is_search),
        ):
            states = states + self.positions[name](torch.arange(states.shape[1], device=states.device))
            within[name] = self.extractors[name](states, states, mask)
        return {
            "clicks": (both(merged_clicks, merged_searches, history.is_search), within["clicks"]),
            "searches": (both(merged_searches, merged_clicks, history.is_click), within["searches"]),
        }

    def encode_items(self, items: torch.Tensor) -> torch.Tensor:
        """Return vectors [items, dimensions] of item numbers int64 [items]."""
        return torch.tanh(self.projections["item"](self.items(items)))

    def encode_queries(self, queries: torch.Tensor) -> torch.Tensor:
        """Return vectors [queries, dimensions] of query numbers int64 [queries]."""
        return torch.tanh(self.projections["query"](self.words(queries)))

    def encode_users(self, users: torch.Tensor) -> torch.Tensor:
        """Return vectors [users, dimensions] of user numbers int64 [users]."""
        assert self.users is not None
        return torch.tanh(self.projections["user"](self.users(users)))

    def item_vectors(self) -> torch.Tensor:
        """Return the projected vectors, from which the histories are built."""
        return self.encode_items(torch.arange(self.n_items, device=self.items.weight.device))

    def _query_vectors(self, batch: RowBatch) -> torch.Tensor:
        """Return each row's query vector, or a learned one without a query [rows, dimensions]."""
        if batch.task == "search":
            return on_distinct(self.encode_queries, batch.queries)
        return self.no_query.weight.expand(len(batch.users), -1)

    def _alignments(
        self,
        history: HistoryBatch,
        transitions: dict[str, tuple[torch.Tensor, torch.Tensor]],
        masks: dict[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Return weighted losses that align queries with the items clicked after them, and each history's two views."""
        settings, losses = self.settings, {}
        if settings.history_weight:
            views = [
                self.views[name](*(masked_mean(states, mask)[mask[:, 0]] for states in transitions[name]))
                for name, mask in masks.items()
            ]
            losses["history"] = settings.history_weight * torch.stack(views).sum()
        row, search, item = history.is_searched_item.nonzero(as_tuple=True)
        if settings.query_item_weight and len(row):
            pairs = history.searches[row, search], history.searched_items[row, search, item]
            loss = self.pairs(*pairs, self.encode_queries, self.encode_items)
            losses["query_item"] = settings.query_item_weight * loss
        return losses


class Experts(torch.nn.Module):
    """Mix shared experts and those of each task: progressive layered extraction, one level (Tang et al., 2020)."""

    def __init__(self, inputs: int, size: int, experts: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        #: All experts of one kind in one matrix.
        self.experts = torch.nn.ModuleDict(
            {name: torch.nn.Linear(inputs, experts * size) for name in ("shared", *TASKS)}
        )
        self.gates = torch.nn.ModuleDict({task: torch.nn.Linear(inputs, 2 * experts) for task in TASKS})
        self.dropout = Dropout(dropout)

    def forward(self, task: str, of_candidates: torch.Tensor, of_rows: torch.Tensor) -> torch.Tensor:
        """Return the mixed outputs [rows, candidates, size] of the task's and the shared experts.

        Their input is ``of_candidates`` [rows, candidates, any] followed by ``of_rows`` [rows, any], which is
        multiplied once per row.
        """
        layers = [
            cast(torch.nn.Linear, layer) for layer in (self.experts["shared"], self.experts[task], self.gates[task])
        ]
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        part = of_candidates.shape[-1]
        outputs = functional.linear(of_candidates, weight[:, :part])
        outputs = outputs + functional.linear(of_rows, weight[:, part:], bias)[:, None]
        gate_width = layers[-1].out_features
        experts = self.dropout(torch.relu(outputs[..., :-gate_width])).unflatten(-1, (-1, self.size))
        gates = torch.softmax(outputs[..., -gate_width:], dim=-1)
        mixed: torch.Tensor = (gates[..., None, :] @ experts).squeeze(-2)
        return mixed


class UniSAR(JointMethod[UniSARSettings]):
    """Rank by UniSAR (Shi et al., 2024), whose item vectors the paper's collaborative identifiers are made of."""

    inputs = ("clicks", "searches", "words", "training_negatives")
    paper = "Shi et al.: UniSAR: Modeling User Transition Behaviors between Search and Recommendation. SIGIR 2024"
    settings_model = UniSARSettings
    module_class = UniSARModel


METHOD = UniSAR

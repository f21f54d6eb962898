"""Train product-search methods that compare items with a request vector.

A method adds a model (a batch of rows -> request vectors). This module provides query vectors, the user's items in
order, the loss over the catalogue, and scoring.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.query_words import QueryWords, query_word_numbers
from gensar_core.baselines.shared.target_model import RankedSettings, RowModel
from gensar_core.baselines.shared.target_ranking import RankedMethod, RowSet, TrainingSet
from gensar_core.baselines.shared.target_rows import HistoryBatch, RowBatch
from gensar_core.baselines.shared.text_item_vectors import TextItems
from gensar_core.config.base import Positive
from gensar_core.nn.attention import on_distinct
from gensar_core.nn.dropout import Dropout
from gensar_core.runtime.device import send

#: Standard deviation of initial vectors. At 1, logits of 64 dimensions would start in the tens.
_SMALL = 0.05

#: Sort key after every real place.
_LAST = 2**40


class SearchSettings(RankedSettings):
    """Configure query and item vectors and the loss over them, on top of the settings for training on rows."""

    max_query_words: Positive = 50
    catalogue_softmax: bool = True
    """Use cross-entropy over the whole catalogue instead of the negatives and the `loss` above."""
    query_vectors: bool = True
    """Learn a vector for each query, added to the vector of its words."""
    item_vectors: Literal["id", "text", "both"] = "id"
    """Item vectors: learned per item (id), a learned projection of the item's text vector from the entry's `embedding`
    (text), or their sum (both). With text alone, items have no bias either."""


S = TypeVar("S", bound=SearchSettings)


class SearchModel(RowModel):
    """Score items by the inner product of the request vector and the item vector, plus the item's bias."""

    bias: torch.Tensor

    def __init__(self, data: MethodData, settings: SearchSettings) -> None:
        size = settings.dimensions
        super().__init__(data, size)
        self.words = QueryWords(*query_word_numbers(data, settings.max_query_words), size)
        self.own = torch.nn.Embedding(data.n_queries, size) if settings.query_vectors else None
        self.projection = torch.nn.Linear(size, size)
        self.dropout = Dropout(settings.dropout)
        #: Score of each item independent of the request.
        bias = torch.zeros(data.n_items)
        if settings.item_vectors == "text":
            self.register_buffer("bias", bias, persistent=False)
        else:
            self.bias = torch.nn.Parameter(bias)
        texts = None if settings.item_vectors == "id" else TextItems(data, size)
        self.texts = texts if settings.item_vectors == "both" else None
        for table in (self.items, self.words.table, self.own):
            if isinstance(table, torch.nn.Embedding):
                torch.nn.init.normal_(table.weight, std=_SMALL)
        if texts is not None and self.texts is None:
            self.items = texts

    @abc.abstractmethod
    def requests(self, batch: RowBatch) -> torch.Tensor:
        """Compute the request vectors [rows, dimensions]."""

    def further_losses(self, batch: RowBatch) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """Compute training losses besides the ranking loss, weighted, by name."""
        return {}

    def forward(self, batch: RowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the candidates' logits [rows, width] and, in training, further losses."""
        vectors = functional.embedding(batch.candidates, self.item_vectors())
        logits = (vectors @ self.requests(batch)[:, :, None]).squeeze(2) + self.bias[batch.candidates]
        return logits, self.further_losses(batch) if self.training else {}

    def catalogue(self, batch: RowBatch) -> torch.Tensor:
        """Compute the logits [rows, n_items] of all items."""
        logits: torch.Tensor = torch.addmm(self.bias, self.requests(batch), self.item_vectors().T)
        return logits

    def item_vectors(self) -> torch.Tensor:
        """Return the vector of every item [n_items, dimensions]."""
        return self.items.weight if self.texts is None else self.items.weight + self.texts.weight

    def query_table(self) -> torch.nn.Embedding | None:
        """Return the table of learned query vectors; None without `query_vectors`."""
        return self.own

    def queries(self, numbers: torch.Tensor) -> torch.Tensor:
        """Compute vectors of queries int64 [any shape]: tanh(W mean of word vectors + b), plus the query's vector."""
        vectors: torch.Tensor = on_distinct(self._query_vectors, numbers)
        return vectors

    def _query_vectors(self, numbers: torch.Tensor) -> torch.Tensor:
        vectors = torch.tanh(self.projection(self.dropout(self.words(numbers))))
        return vectors if self.own is None else vectors + self.own(numbers)


class SearchMethod(RankedMethod[S]):
    """Train a `SearchModel` for the task search."""

    tasks: ClassVar[tuple[str, ...]] = ("search",)

    def training_set(self, task: str) -> TrainingSet:
        """Return the train rows of a task."""
        if not self.settings.catalogue_softmax:
            return super().training_set(task)
        return _CatalogueSet(self, self.train_rows(task, None))


class _CatalogueSet(RowSet):
    """Hold train rows whose targets compete with the whole catalogue."""

    def losses(self, rows: np.ndarray, step: int) -> Mapping[str, torch.Tensor]:  # noqa: ARG002
        model: Any = self.method.module
        batch = self.train.batch(rows, np.zeros((len(rows), 0), dtype=np.int64), model.bias.device)
        cold = send(self.method.data.cold, model.bias.device)
        ranking = functional.cross_entropy(model.catalogue(batch).masked_fill(cold, -torch.inf), batch.candidates[:, 0])
        return {"ranking": ranking, **model.further_losses(batch)}


@dataclass(frozen=True)
class ItemSequences:
    """Hold the items each user clicked, oldest first, padded at the end.

    ``items`` int64 [rows, width]; ``queries`` int64 [rows, width] is the query that led to each click, -1 for none;
    ``present`` bool [rows, width].
    """

    items: torch.Tensor
    queries: torch.Tensor
    present: torch.Tensor

    @classmethod
    def from_history(cls, history: HistoryBatch, most: int) -> ItemSequences:
        """Merge recommendation and search clicks in time order and keep the last ``most``.

        A run of the same item keeps only its last click: a purchase recorded in both logs counts once.
        """
        places = history.search_places[:, :, None].expand_as(history.searched_items).flatten(1)
        queries = history.searches[:, :, None].expand_as(history.searched_items).flatten(1)
        columns = (
            torch.cat([history.clicks, history.searched_items.flatten(1)], dim=1),
            torch.cat([torch.full_like(history.clicks, -1), queries], dim=1),
            torch.cat([history.is_click, history.is_searched_item.flatten(1)], dim=1),
        )
        places = torch.cat([history.click_places, places], dim=1).masked_fill(~columns[2], _LAST)
        items, queries, present = _ordered(columns, places)
        repeated = torch.zeros_like(present)
        repeated[:, :-1] = (items[:, :-1] == items[:, 1:]) & present[:, 1:]
        present = present & ~repeated
        chosen = present & (present.flip(1).cumsum(1).flip(1) <= most)
        items, queries, chosen = _ordered((items, queries, chosen), (~chosen).to(torch.uint8))
        width = max(1, int(chosen.sum(dim=1).max())) if len(chosen) else 1
        return cls(items[:, :width], queries[:, :width].masked_fill(~chosen[:, :width], -1), chosen[:, :width])


def _ordered(columns: tuple[torch.Tensor, ...], keys: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Sort each row of the columns [rows, width] by ascending key; equal keys keep their order."""
    order = keys.argsort(dim=1, stable=True)
    return tuple(column.gather(1, order) for column in columns)

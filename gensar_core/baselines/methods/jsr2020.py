"""Rank by JSR of 2020: learn search from recommendation clicks and item texts alone, without any logged query.

A user's score of an item is a network over the product of their vectors. The item's vector also predicts the words of
its title, and an item scores for a query as well as it predicts the query's words (query likelihood).

Follows Zamani and Croft (2020), as in the public code of HyperSaR, with these differences:

- Frozen word vectors are a truncated eigendecomposition of the titles' tf-idf co-occurrences, not pre-trained ones.
- Word probabilities are not smoothed by those of the whole catalogue (mu = 1, the default there too).
- Losses and negatives of recommendation are those of all methods trained on rows; there: bce with one uniform negative.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import numpy as np
import torch
from bm25s.stopwords import STOPWORDS_EN
from scipy import sparse

from gensar_core import schema
from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.query_words import numbered, words_of
from gensar_core.baselines.shared.target_model import RankedSettings, RowModel
from gensar_core.baselines.shared.target_ranking import RankedMethod, RowSet, TrainingSet
from gensar_core.baselines.shared.target_rows import RowBatch, TrainingRows
from gensar_core.config.base import Count, Positive, Share
from gensar_core.config.search_spaces import Among, Between
from gensar_core.nn.attention import masked_mean, on_distinct
from gensar_core.nn.dropout import Dropout
from gensar_core.runtime.arrays import Ragged
from gensar_core.schema import TASKS


class JSR2020Settings(RankedSettings):
    """Hold sizes and weights, on top of the settings of all methods trained on rows."""

    max_recommendations: Count = 0
    max_searches: Count = 0
    layers: Annotated[Count, Among((0, 1, 2))] = 2
    """Linear layers of the network over the product of user and item; 0: their inner product."""
    vocabulary_size: Positive = 2000
    """Predicted words: the most frequent ones without stop words, each in at least `min_titles` titles."""
    min_titles: Positive = 5
    word_dimensions: Positive = 64
    max_words: Positive = 50
    words_weight: Annotated[Share, Between(0.0, 0.5)] = 0.1
    """Weight of the loss that predicts an item's words."""


class JSR2020Model(RowModel):
    """Hold user and item vectors, the network over their product, and the projection from items to words."""

    words: torch.Tensor
    query_means: torch.Tensor
    item_means: torch.Tensor
    has_words: torch.Tensor

    def __init__(self, data: MethodData, settings: JSR2020Settings) -> None:
        size = settings.dimensions
        super().__init__(data, size, size)
        self.weight = settings.words_weight
        words, titles, queries = texts_of(data, settings)
        tables = {"words": words, "query_means": means(queries, words), "item_means": means(titles, words)}
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table), persistent=False)
        self.register_buffer("has_words", torch.from_numpy(titles.lengths > 0), persistent=False)
        self.projection = torch.nn.Linear(size, words.shape[1], bias=False)
        layers: list[torch.nn.Module] = []
        for number in range(settings.layers):
            last = number == settings.layers - 1
            layers += [torch.nn.Linear(size, 1 if last else size), *([] if last else [torch.nn.ReLU()])]
            layers += [Dropout(settings.dropout)] if not last else []
        self.network = torch.nn.Sequential(*layers)
        torch.nn.init.normal_(self.items.weight, std=size**-0.5)
        if self.users is not None:
            torch.nn.init.normal_(self.users.weight, std=size**-0.5)

    def forward(self, batch: RowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the candidates' logits; in training also the loss of the targets' words."""
        if batch.task == "search":
            projected = on_distinct(self.projected, batch.candidates)
            likelihoods = projected[..., :-1] @ self.query_means[batch.queries][:, :, None]
            return likelihoods.squeeze(2) - projected[..., -1], {}
        assert self.users is not None
        products = self.users(batch.users)[:, None] * self.items(batch.candidates)
        scores = self.network(products).squeeze(-1) if len(self.network) else products.sum(dim=2)
        return scores, {"words": self.weight * self.words_loss(batch.candidates[:, 0])} if self.training else {}

    def projected(self, items: torch.Tensor) -> torch.Tensor:
        """Return, for items int64 [items], phi_i and log of the sum over words of exp(phi_i e_w): [items, size + 1].

        The mean of log P(w | i) over several words is phi_i times the mean of their vectors, minus that logarithm.
        """
        vectors = self.projection(self.items(items))
        return torch.cat([vectors, torch.logsumexp(vectors @ self.words.T, dim=1, keepdim=True)], dim=1)

    def words_loss(self, items: torch.Tensor) -> torch.Tensor:
        """Return the mean over items int64 [items] of -log P(w | i), itself a mean over the words of a title."""
        projected = on_distinct(self.projected, items)
        likelihoods = (projected[:, :-1] * self.item_means[items]).sum(dim=1) - projected[:, -1]
        return -masked_mean(likelihoods[:, None], self.has_words[items]).squeeze(0)


def texts_of(data: MethodData, settings: JSR2020Settings) -> tuple[np.ndarray, Ragged, Ragged]:
    """Return word vectors [words, size], and the words of each item's title and of each query."""
    titles = schema.ITEMS.read(data.canonical / "items.parquet").sort("item_id")["title"].to_list()
    queries = schema.QUERIES.read(data.canonical / "queries.parquet").sort("query_id")["text"].to_list()
    counts = Counter(word for title in titles for word in set(words_of(title)))
    words = [word for word, count in counts.items() if count >= settings.min_titles and word not in STOPWORDS_EN]
    words = sorted(words, key=lambda word: (-counts[word], word))[: settings.vocabulary_size]
    vocabulary = {word: number for number, word in enumerate(words)}
    of_titles = numbered(titles, vocabulary, settings.max_words)
    vectors = text_word_vectors(of_titles, len(vocabulary), settings.word_dimensions)
    return vectors, of_titles, numbered(queries, vocabulary, settings.max_words)


def text_word_vectors(titles: Ragged, n_words: int, dimensions: int) -> np.ndarray:
    """Return word vectors float32 [words, dimensions or fewer] whose products are nearest to tf-idf co-occurrences.

    Their mean length is 1. Without words, return one vector of zeros.
    """
    if not n_words:
        return np.zeros((1, 1), dtype=np.float32)
    once = np.unique(titles.rows * n_words + titles.values)
    rows, words = np.divmod(once, n_words)
    inverse = np.log(len(titles) / np.bincount(words, minlength=n_words)) + 1.0
    matrix = sparse.csr_matrix((inverse[words], (rows, words)), shape=(len(titles), n_words))
    values, directions = np.linalg.eigh((matrix.T @ matrix).toarray())
    size = min(dimensions, n_words)
    # Eigenvectors are unique up to their sign: make the largest entry positive.
    directions = directions[:, -size:][:, ::-1]
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(size)])
    vectors = directions * np.sqrt(np.maximum(values[-size:][::-1], 0.0))
    scaled: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1).mean()).astype(np.float32)
    return scaled


def means(words: Ragged, vectors: np.ndarray) -> np.ndarray:
    """Return the mean vector of each row's words, float32 [rows, size]; zero for a row without words."""
    chosen = sparse.csr_matrix(
        (np.ones(len(words.values)), words.values, words.offsets), shape=(len(words), len(vectors))
    )
    averaged: np.ndarray = (chosen @ vectors / np.maximum(words.lengths, 1)[:, None]).astype(np.float32)
    return averaged


class JSR2020(RankedMethod[JSR2020Settings]):
    """Rank by JSR of 2020 (Zamani and Croft, 2020)."""

    tasks = TASKS
    inputs = ("clicks", "words", "texts", "training_negatives")
    paper = "Zamani and Croft: Learning a Joint Search and Recommendation Model from User-Item Interactions. WSDM 2020"
    settings_model = JSR2020Settings
    module_class = JSR2020Model

    def training_set(self, task: str) -> TrainingSet:
        """Return the train rows of rec; no rows for search."""
        if task == "rec":
            return super().training_set(task)
        return RowSet(self, TrainingRows.none(task))


METHOD = JSR2020

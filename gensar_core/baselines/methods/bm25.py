"""Rank items by the words their text shares with the query (BM25)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from gensar_core import schema
from gensar_core.baselines.interface import Method
from gensar_core.config.base import Settings, Share
from gensar_core.config.search_spaces import Between
from gensar_core.ranking.candidates import CandidateLists
from gensar_core.samples.bm25 import BM25Index, bm25_words


class BM25Settings(Settings):
    """Hold the formula's constants: how soon repeated words saturate (k1), how much long texts lose (b)."""

    k1: Annotated[float, Field(gt=0.0), Between(0.1, 3.0)] = 0.9
    b: Annotated[Share, Between(0.0, 1.0)] = 0.4


class BM25(Method[BM25Settings]):
    """Score item texts (title and description) by BM25 (Robertson et al., 1994) as Lucene computes it; learn nothing.

    Search candidates are themselves the best BM25 hits of their query, so a target that its text alone would not have
    retrieved ranks low. Use it as a baseline on other candidates.
    """

    tasks = ("search",)
    inputs = ("texts",)
    paper = "Robertson et al.: Okapi at TREC-3. TREC 1994"
    settings_model = BM25Settings
    scores_cold_items = True
    seeded = False

    @functools.cached_property
    def index(self) -> BM25Index:
        """Build the index of the item texts."""
        items = schema.ITEMS.read(self.data.canonical / "items.parquet").sort("item_id")
        return BM25Index(items.get_column("text").to_list(), k1=self.settings.k1, b=self.settings.b)

    @functools.cached_property
    def words(self) -> list[list[str]]:
        """Return the words of each query [n_queries]."""
        queries = schema.QUERIES.read(self.data.canonical / "queries.parquet").sort("query_id")
        return bm25_words(queries.get_column("text").to_list())

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:  # noqa: ARG002
        """Index the texts; learn nothing."""
        return {"texts": self.index.n_texts, "queries": len(self.words)}

    def score(self, lists: CandidateLists) -> np.ndarray:
        """Return BM25 scores; each query is looked up in the index once."""
        queries, rows = np.unique(lists.samples.get_column("query_id").to_numpy(), return_inverse=True)
        order = np.argsort(rows, kind="stable")
        scores = np.empty(lists.items.shape, dtype=np.float32)
        for query, rows_of_query in zip(queries, np.split(order, np.cumsum(np.bincount(rows))[:-1]), strict=True):
            scores[rows_of_query] = self.index.scores(self.words[int(query)])[lists.items[rows_of_query]]
        return scores


METHOD = BM25

"""BM25: items by the words that their text shares with the query."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from gensar_core import schema
from gensar_core.baselines.interface import Method
from gensar_core.config.base import Settings, Share
from gensar_core.ranking.candidates import CandidateLists
from gensar_core.samples.bm25 import BM25Index, query_words


class BM25Settings(Settings):
    """The two constants of the formula: how soon repeated words stop to count, and how much long texts pay."""

    k1: Annotated[float, Field(gt=0.0)] = 0.9
    b: Share = 0.4


class BM25(Method[BM25Settings]):
    """Robertson et al., 1994, as Lucene computes it, over item texts (title and description); it learns nothing.

    Search candidates are themselves the best BM25 hits of their query, so this ranks a target low wherever its text
    alone would not have found it. It is the row to have on other candidates.
    """

    tasks = ("search",)
    inputs = ("texts",)
    paper = "Robertson et al.: Okapi at TREC-3. TREC 1994"
    settings_model = BM25Settings
    seeded = False

    @functools.cached_property
    def index(self) -> BM25Index:
        """The item texts."""
        items = schema.ITEMS.read(self.data.canonical / "items.parquet").sort("item_id")
        return BM25Index(items.get_column("text").to_list(), k1=self.settings.k1, b=self.settings.b)

    @functools.cached_property
    def words(self) -> list[list[str]]:
        """The words of each query [n_queries]."""
        queries = schema.QUERIES.read(self.data.canonical / "queries.parquet").sort("query_id")
        return query_words(queries.get_column("text").to_list())

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:  # noqa: ARG002
        """Learn nothing; index the texts."""
        return {"texts": self.index.n_texts, "queries": len(self.words)}

    def score(self, lists: CandidateLists) -> np.ndarray:
        """Scores of the formula; each query is put to the index once."""
        queries, rows = np.unique(lists.samples.get_column("query_id").to_numpy(), return_inverse=True)
        order = np.argsort(rows, kind="stable")
        scores = np.empty(lists.items.shape, dtype=np.float32)
        for query, asked in zip(queries, np.split(order, np.cumsum(np.bincount(rows))[:-1]), strict=True):
            scores[asked] = self.index.scores(self.words[int(query)])[lists.items[asked]]
        return scores


METHOD = BM25

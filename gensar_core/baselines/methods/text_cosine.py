"""Rank items by the cosine of their text vector with the query's, both from a text encoder."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from gensar_core.baselines.interface import Method
from gensar_core.config.base import Settings
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists

#: Pairs whose vectors are gathered at once.
_PAIRS_AT_ONCE = 1 << 15


class TextCosineSettings(Settings):
    """Hold no settings but the embedding, which every entry of `methods` may name."""


class TextCosine(Method[TextCosineSettings]):
    """Retrieve by dense vectors without training: cosines of query and item vectors."""

    tasks = ("search",)
    inputs = ("vectors",)
    paper = "of the text encoder that the embedding names"
    settings_model = TextCosineSettings
    seeded = False

    @functools.cached_property
    def items(self) -> np.ndarray:
        """Return item vectors of length 1 [n_items, dimensions]."""
        return self._vectors("items", self.data.n_items)

    @functools.cached_property
    def queries(self) -> np.ndarray:
        """Return query vectors of length 1 [n_queries, dimensions]."""
        return self._vectors("queries", self.data.n_queries)

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:  # noqa: ARG002
        """Check that the vectors exist; learn nothing."""
        return {"dimensions": self.items.shape[1], "queries": len(self.queries)}

    def score(self, lists: CandidateLists) -> np.ndarray:
        """Return cosines. Queries are few and recur often, so each (query, item) pair is computed once."""
        queries = lists.samples.get_column("query_id").to_numpy().astype(np.int64)[:, None]
        codes, place = np.unique(queries * len(self.items) + np.maximum(lists.items, 0), return_inverse=True)
        cosines = np.empty(len(codes), dtype=np.float32)
        for start in range(0, len(codes), _PAIRS_AT_ONCE):
            query, item = np.divmod(codes[start : start + _PAIRS_AT_ONCE], len(self.items))
            cosines[start : start + len(query)] = np.einsum("pd,pd->p", self.queries[query], self.items[item])
        scores: np.ndarray = cosines[place].reshape(lists.items.shape)
        return scores

    def _vectors(self, name: str, rows: int) -> np.ndarray:
        vectors = self.data.vectors(name)
        if len(vectors) != rows:
            raise UserError(
                f"{self.data.embedding}: holds {len(vectors)} vectors of {name}, but the data set has {rows}; build "
                "the embedding again"
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        units: np.ndarray = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        return units


METHOD = TextCosine

"""Rank the items most often clicked after the same query first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from safetensors.torch import load_file

from gensar_core.baselines.interface import Method
from gensar_core.config.base import Settings
from gensar_core.ranking.candidates import CandidateLists
from gensar_core.runtime.arrays import stretches
from gensar_core.runtime.sorting import Groups
from gensar_core.samples.user_clicks import UserClicks


class QueryFrequencySettings(Settings):
    """Hold no settings."""


class QueryFrequency(Method[QueryFrequencySettings]):
    """Score items by their training clicks after the query; break ties by their clicks after any query.

    With c(q, i) the clicks of item i after query q and c(i) those after all queries, the score is
    c(q, i) + c(i) / (1 + max c). Its second part is below one, so it only decides between equal counts.
    """

    tasks = ("search",)
    inputs = ("searches",)
    paper = "none"
    settings_model = QueryFrequencySettings
    seeded = False
    pairs: np.ndarray
    """query * n_items + item of each pair clicked in training, ascending [pairs], and its clicks [pairs], mapped."""
    clicks: np.ndarray
    popularity: np.ndarray
    """c(i) / (1 + max c) [n_items]."""

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:  # noqa: ARG002
        """Count clicks."""
        folder, searches = self.data.samples_folder, UserClicks.read(self.data.events_file, "search")
        queries, items = searches.queries, searches.items.values
        groups = Groups.of((self._codes(queries[rows], items[rows]) for rows in stretches(len(items))), folder)
        self.pairs, self.clicks = groups.distinct(folder)
        counts = self.data.clicks("search")
        self.popularity = counts / (1.0 + counts.max(initial=0))
        return {"query_item_pairs": len(self.pairs), "unseen_items": int((counts == 0).sum())}

    def score(self, lists: CandidateLists) -> np.ndarray:
        """Return the scores that the class defines."""
        queries = lists.samples.get_column("query_id").to_numpy()[:, None]
        scores: np.ndarray = self._pair_clicks(self._codes(queries, lists.items)) + self.popularity[lists.items]
        return scores

    def save(self, folder: Path) -> None:
        """Write clicks.safetensors."""
        counts = {"pairs": self.pairs, "clicks": self.clicks, "popularity": self.popularity}
        save_file(counts, folder / "clicks.safetensors")

    def load(self, folder: Path) -> None:
        """Read clicks.safetensors."""
        # Torch's reader maps the file, NumPy's copies it.
        counts = load_file(folder / "clicks.safetensors")
        self.pairs, self.clicks, self.popularity = (counts[name].numpy() for name in ("pairs", "clicks", "popularity"))

    def _codes(self, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
        codes: np.ndarray = queries.astype(np.int64) * self.data.n_items + items
        return codes

    def _pair_clicks(self, codes: np.ndarray) -> np.ndarray:
        if not len(self.pairs):
            return np.zeros(codes.shape)
        place = np.minimum(np.searchsorted(self.pairs, codes), len(self.pairs) - 1)
        return np.where(self.pairs[place] == codes, self.clicks[place], 0).astype(np.float64)


METHOD = QueryFrequency

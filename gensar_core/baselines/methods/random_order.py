"""Rank candidates at random: the level that a method reaches without learning anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gensar_core.baselines.interface import Method
from gensar_core.config.base import Settings
from gensar_core.ranking.candidates import CandidateLists
from gensar_core.runtime.hashing import draws, row_keys, uniform
from gensar_core.runtime.seeds import derive_seed


class RandomOrderSettings(Settings):
    """Hold no settings."""


class RandomOrder(Method[RandomOrderSettings]):
    """Draw a score for each (sample, item) pair, whatever its slot in the list."""

    tasks = ("rec", "search")
    inputs = ()
    paper = "none"
    settings_model = RandomOrderSettings
    scores_cold_items = True

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:  # noqa: ARG002
        """Learn nothing."""
        return {}

    def score(self, lists: CandidateLists) -> np.ndarray:
        """Return uniform scores between 0 and 1."""
        samples = np.repeat(lists.samples.get_column("sample_id").to_numpy(), lists.items.shape[1])
        keys = row_keys(derive_seed(self.seed, "random_order"), samples, lists.items.ravel())
        return uniform(draws(keys, 1)).reshape(lists.items.shape)


METHOD = RandomOrder

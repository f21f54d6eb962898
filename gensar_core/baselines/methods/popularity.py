"""Rank the most clicked items first, the same for every user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from gensar_core.baselines.interface import Method
from gensar_core.config.base import Settings
from gensar_core.ranking.candidates import CandidateLists


class PopularitySettings(Settings):
    """Hold no settings."""


class Popularity(Method[PopularitySettings]):
    """Score items by their recommendation clicks in training.

    On candidates that are themselves drawn by popularity this ranks about as well as chance.
    """

    tasks = ("rec",)
    inputs = ("clicks",)
    paper = "none"
    settings_model = PopularitySettings
    seeded = False
    clicks: np.ndarray

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:  # noqa: ARG002
        """Count clicks."""
        self.clicks = self.data.clicks("rec")
        return {"unseen_items": int((self.clicks == 0).sum())}

    def score(self, lists: CandidateLists) -> np.ndarray:
        """Return the items' clicks."""
        scores: np.ndarray = self.clicks[lists.items].astype(np.float64)
        return scores

    def save(self, folder: Path) -> None:
        """Write clicks.safetensors."""
        save_file({"clicks": self.clicks}, folder / "clicks.safetensors")

    def load(self, folder: Path) -> None:
        """Read clicks.safetensors."""
        self.clicks = load_file(folder / "clicks.safetensors")["clicks"]


METHOD = Popularity

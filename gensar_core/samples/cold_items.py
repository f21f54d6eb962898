"""Draw the items that are held out of all training, and read which they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gensar_core import schema
from gensar_core.runtime.seeds import generator


def draw_cold_items(n_items: int, share: float, seed: int) -> np.ndarray:
    """Mark ``share`` of the items, rounded to a whole number of them, bool [n_items]."""
    cold = np.zeros(n_items, dtype=bool)
    cold[generator(seed, "cold items").permutation(n_items)[: round(share * n_items)]] = True
    return cold


def mark_cold_items(table: Path | None, n_items: int) -> np.ndarray:
    """Mark the items of the table `cold_items`, bool [n_items]; without a table, none."""
    cold = np.zeros(n_items, dtype=bool)
    if table is not None:
        cold[schema.COLD_ITEMS.read(table)["item_id"].to_numpy()] = True
    return cold


def rank_cold_last(scores: np.ndarray, cold: np.ndarray) -> np.ndarray:
    """Return ``scores`` [rows, width] in which the places marked in ``cold`` [rows, width] are below all others."""
    lowest = scores.min(axis=1, keepdims=True, initial=0.0)
    return np.where(cold, lowest - 1.0 - np.abs(lowest), scores).astype(scores.dtype)

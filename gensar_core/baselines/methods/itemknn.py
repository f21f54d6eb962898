"""Recommend by ItemKNN: items that users clicked close to the items of the history, its latest ones above all.

Sarwar, Karypis, Konstan and Riedl: Item-Based Collaborative Filtering Recommendation Algorithms. WWW 2001, over clicks
instead of ratings (Deshpande and Karypis: Item-Based Top-N Recommendation Algorithms. TOIS 2004, who also divide by a
power of popularity). Well tuned it is hard to beat (Ferrari Dacrema et al.: Are We Really Making Much Progress? RecSys
2019). With ``distance_decay`` and ``backward`` at 1 it is the plain cosine of co-clicks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy import sparse

from gensar_core.baselines.shared.linear_recommender import LinearRecommender, LinearSettings
from gensar_core.config.base import Positive, Share
from gensar_core.config.search_spaces import Between
from gensar_core.runtime.arrays import Ragged, blocks_of_work, ranges, stretches
from gensar_core.runtime.sorting import Groups

#: Pairs of clicks counted at once; limits memory, does not affect results but for rounding.
_PAIRS = 1 << 22


class ItemKNNSettings(LinearSettings):
    """Hold how co-clicks become similarities, on top of the settings of all linear recommenders."""

    decay: Annotated[float, Field(gt=0.0, le=1.0), Between(0.5, 1.0)] = 0.75
    window: Positive = 50
    """Two clicks of a user are a co-click when they are at most this many clicks apart."""
    distance_decay: Annotated[float, Field(gt=0.0, le=1.0), Between(0.5, 1.0)] = 0.9
    """Weight of a co-click relative to one whose clicks are one position closer."""
    backward: Annotated[Share, Between(0.0, 1.0)] = 0.4
    """Weight of a co-click when the item clicked first is the candidate; for the item clicked later it is 1."""
    shrinkage: Annotated[float, Field(ge=0.0), Between(0.0, 20.0)] = 0.0
    """Added to the divisor of co-clicks; shrinks similarities from few clicks most."""
    popularity_power: Annotated[Share, Between(0.0, 1.0)] = 0.7
    """Power p of the candidate's clicks in the divisor of co-clicks; the other item's clicks have power 1 - p. 0.5 is
    the cosine; larger values suit candidates that are themselves drawn by popularity."""


class ItemKNN(LinearRecommender[ItemKNNSettings]):
    """Set W_ij = n_ij / (n_i^(1 - p) n_j^p + shrinkage), with n_i the clicks of i and n_ij the co-clicks of i and j.

    A co-click of clicks k positions apart counts ``distance_decay`` to the power of k - 1, and ``backward`` times that
    where j came first.
    """

    seeded = False
    paper = "Sarwar et al.: Item-Based Collaborative Filtering Recommendation Algorithms. WWW 2001"
    settings_model = ItemKNNSettings

    def learned(self, clicks: Ragged) -> Iterator[sparse.coo_array]:
        """Yield similarities of items with all items, block by block of rows."""
        settings, counts = self.settings, self.data.clicks("rec").astype(np.float64)
        first = 0
        for block in co_clicks(clicks, self.data.n_items, settings, self.data.samples_folder):
            items, others = first + block.row, block.col
            scale = counts[items] ** (1.0 - settings.popularity_power) * counts[others] ** settings.popularity_power
            similarities = np.where(items == others, 0.0, block.data / (scale + settings.shrinkage))
            yield nearest_neighbors(
                sparse.coo_array((similarities, (block.row, others)), shape=block.shape), settings.neighbors
            )
            first += block.shape[0]


def co_clicks(clicks: Ragged, n_items: int, settings: ItemKNNSettings, folder: Path) -> Iterator[sparse.coo_array]:
    """Count the co-clicks n_ij, block by block of rows i, each float64 [rows, n_items].

    ``clicks`` are sorted by item on the disk of ``folder``. What is held grows with items, not with clicks.
    """
    by_item = Groups.of((clicks.values[places] for places in stretches(len(clicks.values))), folder)
    of_item = np.searchsorted(by_item.codes, np.arange(n_items + 1))
    # The work of an item: its clicks, and their pairs.
    work = np.diff(of_item).astype(np.float64)
    for places in stretches(len(clicks.values)):
        reach = sum(_reach(clicks, places, settings.window))
        work += np.bincount(clicks.values[places], weights=reach, minlength=n_items)
    for start, stop in blocks_of_work(work, _PAIRS):
        shape = (stop - start, n_items)
        block = sparse.csr_array(shape, dtype=np.float64)
        # An item with many clicks takes several steps.
        count = of_item[stop] - of_item[start]
        at_once = count if work[start:stop].sum() <= 2 * _PAIRS else max(1, _PAIRS // (2 * settings.window))
        for places in stretches(count, max(1, at_once)):
            chosen = by_item.rows[of_item[start] + places]
            rows, others, counted = [], [], []
            for reach, direction, worth in zip(
                _reach(clicks, chosen, settings.window), (1, -1), (1.0, settings.backward), strict=True
            ):
                apart = ranges(np.ones_like(reach), reach)
                rows.append(np.repeat(clicks.values[chosen] - start, reach))
                others.append(clicks.values[np.repeat(chosen, reach) + direction * apart])
                counted.append(worth * settings.distance_decay ** (apart - 1))
            cells = (np.concatenate(counted), (np.concatenate(rows), np.concatenate(others)))
            # The conversion to rows sums duplicate cells.
            block = block + sparse.csr_array(cells, shape=shape)
        yield sparse.coo_array(block)


def _reach(clicks: Ragged, places: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Count the clicks of the same user within the window after, and before, the clicks at some places."""
    user = np.searchsorted(clicks.offsets, places, side="right") - 1
    after, before = clicks.offsets[user + 1] - 1 - places, places - clicks.offsets[user]
    return np.minimum(after, window), np.minimum(before, window)


def nearest_neighbors(similarities: sparse.coo_array, count: int) -> sparse.coo_array:
    """Keep each row's ``count`` highest similarities above zero (0: all); lower items win ties."""
    positive = similarities.data > 0
    rows, items, values = similarities.row[positive], similarities.col[positive], similarities.data[positive]
    order = np.lexsort((items, -values, rows))
    rows, items, values = rows[order], items[order], values[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    nearest = place < (count or similarities.shape[1])
    return sparse.coo_array((values[nearest], (rows[nearest], items[nearest])), shape=similarities.shape)


METHOD = ItemKNN

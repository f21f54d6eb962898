"""Recommend by ItemKNN: items that users clicked close to the items of the history, its latest ones above all.

Sarwar, Karypis, Konstan and Riedl: Item-Based Collaborative Filtering Recommendation Algorithms. WWW 2001, over clicks
instead of ratings (Deshpande and Karypis: Item-Based Top-N Recommendation Algorithms. TOIS 2004, who also divide by a
power of popularity). Well tuned it is hard to beat (Ferrari Dacrema et al.: Are We Really Making Much Progress? RecSys
2019). With ``distance_decay`` and ``backward`` at 1 it is the plain cosine of co-clicks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy import sparse

from gensar_core.baselines.shared.linear_recommender import LinearRecommender, LinearSettings
from gensar_core.config.base import Positive, Share
from gensar_core.config.search_spaces import Between
from gensar_core.runtime.arrays import Ragged
from gensar_core.samples.co_clicks import CoClickWeights, co_clicks


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
        weights = CoClickWeights(settings.window, settings.distance_decay, settings.backward)
        first = 0
        for block in co_clicks(clicks, self.data.n_items, weights, self.data.samples_folder):
            items, others = first + block.row, block.col
            scale = counts[items] ** (1.0 - settings.popularity_power) * counts[others] ** settings.popularity_power
            similarities = np.where(items == others, 0.0, block.data / (scale + settings.shrinkage))
            yield nearest_neighbors(
                sparse.coo_array((similarities, (block.row, others)), shape=block.shape), settings.neighbors
            )
            first += block.shape[0]


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

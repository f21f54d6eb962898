"""Recommend by EASE: a linear map from a user's clicks to themselves, with a zero diagonal, in closed form.

Steck: Embarrassingly Shallow Autoencoders for Sparse Data. WWW 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy import sparse
from scipy.linalg import lapack

from gensar_core.baselines.shared.linear_recommender import LinearRecommender, LinearSettings
from gensar_core.config.base import Count, Rate, Share
from gensar_core.config.search_spaces import Between
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged, blocks_of_work, stretches

#: Cells of the matrix [n_items, n_items] processed at once, and pairs of clicks counted at once; a single user may have
#: more.
_CELLS = 1 << 24


class EASESettings(LinearSettings):
    """Hold the regularization, on top of the settings of all linear recommenders."""

    neighbors: Count = 500
    decay: Annotated[float, Field(gt=0.0, le=1.0), Between(0.5, 1.0)] = 0.8
    l2: Annotated[Rate, Between(1.0, 10_000.0, log=True)] = 200.0
    """lambda: weight of the squared weights in the loss."""
    popularity_power: Annotated[Share, Between(0.0, 1.0)] = 0.6
    """Power of the candidate's clicks that divides its weights: 0 is as published, larger values suit candidates that
    are themselves drawn by popularity."""
    max_gigabytes: Rate = 20.0
    """Refuse catalogues whose matrix [n_items, n_items] would be larger."""


class EASE(LinearRecommender[EASESettings]):
    """Minimize |X - X W|^2 + lambda |W|^2 over W with a zero diagonal, where X marks the items each user has clicked.

    With P = (X'X + lambda I)^-1 the solution is W_ij = -P_ij / P_jj (Eq. 8). P is computed in place, in float32.
    Deviations: older clicks of a history may count less (``decay``), more popular candidates may score less
    (``popularity_power``), and small weights are dropped (``neighbors``).
    """

    seeded = False
    paper = "Steck: Embarrassingly Shallow Autoencoders for Sparse Data. WWW 2019"
    settings_model = EASESettings

    def learned(self, clicks: Ragged) -> Iterator[sparse.coo_array]:
        """Yield item weights block by block of rows. Raises UserError when there are too many items for the memory."""
        settings, n_items = self.settings, self.data.n_items
        gigabytes = n_items**2 * np.dtype(np.float32).itemsize / 1e9
        if gigabytes > settings.max_gigabytes:
            raise UserError(
                f"EASE of {n_items:,} items holds a matrix of {gigabytes:,.1f} GB, above max_gigabytes "
                f"({settings.max_gigabytes:g}); raise it on a machine with the memory, or leave the method out"
            )
        inverse = inverted(users_in_common(clicks, n_items), settings.l2)
        counts = np.maximum(self.data.clicks("rec"), 1)
        divisor = (inverse.diagonal() * counts**settings.popularity_power).astype(np.float32)
        for start, stop in _blocks(n_items):
            yield _largest(-inverse[start:stop] / divisor, start, settings.neighbors)


def users_in_common(clicks: Ragged, n_items: int) -> np.ndarray:
    """Count the users who clicked both of two items: X'X float32 [n_items, n_items], with X as in `EASE`."""
    # LAPACK works in place on contiguous columns.
    matrix = np.zeros((n_items, n_items), dtype=np.float32, order="F")
    for users in stretches(len(clicks)):
        for start, stop in blocks_of_work(np.square(clicks.lengths_of(users)), _CELLS):
            marked = click_matrix(clicks.take(users[start:stop]), n_items)
            cells = sparse.coo_array(marked.T @ marked)
            matrix[cells.row, cells.col] += cells.data
    return matrix


def click_matrix(clicks: Ragged, n_items: int) -> sparse.csr_array:
    """Mark the items each user has clicked, once or more often: ones float32 [users, n_items]."""
    users, items = np.divmod(np.unique(clicks.rows * n_items + clicks.values), n_items)
    return sparse.csr_array((np.ones(len(users), dtype=np.float32), (users, items)), shape=(len(clicks), n_items))


def inverted(matrix: np.ndarray, l2: float) -> np.ndarray:
    """Return (``matrix`` + ``l2`` I)^-1, float32 [items, items], computed in place."""
    n_items = len(matrix)
    matrix[np.diag_indices(n_items)] += l2
    matrix, failed = lapack.spotrf(matrix, overwrite_a=True)
    if not failed:
        matrix, failed = lapack.spotri(matrix, overwrite_c=True)
    if failed:
        raise UserError(f"EASE: X'X + {l2:g} I has no inverse in float32; raise l2")
    # LAPACK fills the upper triangle only.
    for start, stop in _blocks(n_items):
        upper = np.triu(matrix[start:stop, start:stop])
        matrix[start:stop, start:stop] = upper + np.triu(upper, 1).T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T
    inverse: np.ndarray = matrix
    return inverse


def _blocks(n_items: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the last row + 1 of each block."""
    step = max(1, _CELLS // n_items)
    return ((start, min(start + step, n_items)) for start in range(0, n_items, step))


def _largest(weights: np.ndarray, first: int, count: int) -> sparse.coo_array:
    """Keep the ``count`` weights of each row that are largest in magnitude, the item's own aside; 0 keeps all.

    ``weights`` [rows, n_items] are overwritten; the item of row r is ``first`` + r.
    """
    weights[np.arange(len(weights)), first + np.arange(len(weights))] = 0.0
    if count and count < weights.shape[1]:
        small = np.argpartition(np.abs(weights), -count, axis=1)[:, :-count]
        np.put_along_axis(weights, small, 0.0, axis=1)
    return sparse.coo_array(weights)


METHOD = EASE

"""Cluster vectors by k-means with least and largest sizes of clusters.

Each round assigns the vectors to the nearest centers that take them, and moves the centers to their vectors' means.
Vectors and clusters are matched by deferred acceptance (Gale and Shapley, 1962): each vector asks the nearest cluster
that it may still get, and a full cluster keeps the nearest of those that ask.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from gensar_core.identifiers.initialize import kmeans

_ROUNDS: Final = 10


def bounded_kmeans(vectors: np.ndarray, clusters: int, least: int, most: int, seed: int) -> np.ndarray:
    """Compute centers [clusters, D] of the vectors [n, D], float32, each of ``least`` to ``most`` vectors.

    n must lie between clusters * least and clusters * most. A cluster without vectors keeps its center.
    """
    centers = kmeans(vectors, clusters, seed)
    assigned = np.zeros(0, dtype=np.int64)
    for _ in range(_ROUNDS):
        before, assigned = assigned, assign_within_bounds(_distances(vectors, centers), least, most)
        if np.array_equal(before, assigned):
            break
        sizes = np.bincount(assigned, minlength=clusters)
        sums = np.zeros(centers.shape, dtype=np.float64)
        np.add.at(sums, assigned, vectors)
        filled = sizes > 0
        centers[filled] = (sums[filled] / sizes[filled, None]).astype(np.float32)
    return centers


def assign_within_bounds(costs: np.ndarray, least: int, most: int) -> np.ndarray:
    """Assign rows of ``costs`` [n, K] to columns [n], ``least`` to ``most`` rows a column, at little cost.

    Where sizes allow it, each row gets its cheapest column. n must lie between K * least and K * most.
    """
    assigned = _at_most(costs, most)
    sizes = np.bincount(assigned, minlength=costs.shape[1])
    for column in np.flatnonzero(sizes < least).tolist():
        added = costs[:, column] - costs[np.arange(len(costs)), assigned]
        for row in np.argsort(added, kind="stable").tolist():
            if sizes[column] == least:
                break
            if sizes[assigned[row]] > least:
                sizes[assigned[row]] -= 1
                sizes[column] += 1
                assigned[row] = column
    return assigned


def _at_most(costs: np.ndarray, most: int) -> np.ndarray:
    """Assign rows to columns of at most ``most`` rows by deferred acceptance."""
    rows, columns = costs.shape
    assigned = np.full(rows, -1, dtype=np.int64)
    # A full column takes a row only if it costs less than the dearest one there.
    bar = np.full(columns, np.inf)
    while len(free := np.flatnonzero(assigned < 0)):
        assigned[free] = np.where(costs[free] < bar, costs[free], np.inf).argmin(axis=1)
        for column in np.flatnonzero(np.bincount(assigned, minlength=columns) >= most).tolist():
            members = np.flatnonzero(assigned == column)
            members = members[np.argsort(costs[members, column], kind="stable")]
            assigned[members[most:]] = -1
            bar[column] = costs[members[most - 1], column]
    return assigned


def _distances(vectors: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Compute squared distances [n, K], less the squared norms of the vectors."""
    distances: np.ndarray = np.square(centers).sum(axis=1) - 2.0 * vectors @ centers.T
    return distances

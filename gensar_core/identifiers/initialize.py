"""k-means of codebooks: level by level over the residuals that the levels before leave."""

from __future__ import annotations

import faiss
import numpy as np
import torch
from torch import Tensor

from gensar_core.identifiers.quantize import encode
from gensar_core.runtime.seeds import derive_seed, generator

ITERATIONS = 25
#: Spare codes lie this far (in standard deviations of the data) from the vectors they are drawn beside.
_JITTER = 0.05


def kmeans_codebooks(residual: Tensor, levels: int, codes: int, seed: int, start: Tensor | None = None) -> Tensor:
    """Codebooks [levels, codes, D] by k-means over the residuals [n, D] of each level, the first level first.

    ``start`` are codebooks of that shape to improve on; without it, k-means starts at random items.
    """
    books = residual.new_empty((levels, codes, residual.shape[1]))
    left = residual
    for level in range(levels):
        begin = start[level].cpu().numpy() if start is not None else None
        centers = kmeans(left.cpu().numpy(), codes, derive_seed(seed, "level", level), begin)
        books[level] = torch.from_numpy(centers)
        _, left = encode(left, books[level : level + 1])
    return books


def kmeans(vectors: np.ndarray, clusters: int, seed: int, start: np.ndarray | None = None) -> np.ndarray:
    """Centers [clusters, D] of the vectors [n, D], float32; the same for the same seed.

    Where there are no more distinct vectors than clusters, every distinct vector is a center and the spare centers lie
    beside vectors drawn at random, so that they are of use to the unique assignment.
    """
    distinct = np.unique(vectors, axis=0) if len(vectors) <= clusters or _many_copies(vectors, clusters) else vectors
    if len(distinct) <= clusters:
        return np.concatenate([distinct, _beside(distinct, clusters - len(distinct), seed)])
    model = faiss.Kmeans(
        vectors.shape[1],
        clusters,
        niter=ITERATIONS if start is None else max(1, ITERATIONS // 3),
        seed=seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=max(256, -(-len(vectors) // clusters)),
    )
    model.train(np.ascontiguousarray(vectors), init_centroids=start)
    centers: np.ndarray = model.centroids
    return centers


def _many_copies(vectors: np.ndarray, clusters: int) -> bool:
    """Whether the first rows hold so many copies that all rows may hold fewer distinct vectors than clusters."""
    head = vectors[: 4 * clusters]
    return len(np.unique(head, axis=0)) <= clusters


def _beside(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` points near vectors drawn at random."""
    random = generator(seed, "beside")
    spread = float(vectors.std()) or 1.0
    drawn = vectors[random.integers(len(vectors), size=count)]
    noise = random.standard_normal((count, vectors.shape[1])) * (_JITTER * spread)
    return (drawn + noise).astype(np.float32)

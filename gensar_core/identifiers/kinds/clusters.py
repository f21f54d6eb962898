"""Cluster the graph of items that the same users clicked; an identifier is the path to an item's leaf (P5-CID).

Collaborative indexing of Hua et al. (2023): spectral clustering divides the items, and each cluster that is too large
again, until all are leaves. Clusters are numbered in the order in which they are made, modulo the largest size of a
leaf, so that few tokens serve all levels; a last code tells the items of a leaf apart. No identifier is the beginning
of another: clusters side by side have different numbers, and what ends in a leaf goes through no other.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from gensar_core.config.identifiers import ClusterSettings
from gensar_core.identifiers.initialize import kmeans
from gensar_core.identifiers.interface import Kind, KindData, SideIdentifiers, Work
from gensar_core.identifiers.table import Scheme
from gensar_core.runtime.arrays import Ragged, blocks_of_work, stretches
from gensar_core.runtime.seeds import derive_seed, generator
from gensar_core.samples.user_clicks import UserClicks

#: A graph of at most so many items is decomposed as a dense matrix, which is as fast and always exact.
_DENSE: Final = 600
#: A division that leaves more than this share of the items together is replaced by an even one.
_LOPSIDED: Final = 0.8
#: Pairs of clicks counted at once, of one user or more; limits memory, does not affect results.
_PAIRS: Final = 1 << 24
#: Precision of eigenvectors that only k-means reads, and the largest number of Lanczos restarts.
_TOLERANCE: Final = 1e-3
_RESTARTS: Final = 300


def click_graph(clicks: Ragged, n_items: int) -> csr_matrix:
    """Count pairs of clicks of one user on two different items, float32 [n_items, n_items], symmetric.

    ``clicks`` are the items that each user clicked. A user who clicked i twice and j three times adds 6 to both (i, j)
    and (j, i).
    """
    graph = csr_matrix((n_items, n_items), dtype=np.float32)
    for users in stretches(len(clicks)):
        for start, stop in blocks_of_work(np.square(clicks.lengths_of(users)), _PAIRS):
            own = clicks.take(users[start:stop])
            ones = np.ones(len(own.values), dtype=np.float32)
            # Repeated clicks are summed.
            counts = csr_matrix((ones, (own.rows, own.values)), shape=(len(own), n_items))
            graph = graph + (counts.T @ counts).tocsr()
    graph.setdiag(0.0)
    graph.eliminate_zeros()
    return graph


def divided(graph: csr_matrix, parts: int, seed: int) -> list[np.ndarray]:
    """Divide the vertices of a graph [n, n] into 2 to ``parts`` groups by normalized spectral clustering.

    k-means groups the rows of the leading eigenvectors of the normalized adjacency, scaled to length 1 (Ng, Jordan and
    Weiss 2001). Where that leaves nearly all vertices together, they are cut evenly along the first eigenvector that
    tells them apart, so that dividing ends. Returns ascending vertex numbers, groups in the order of their first one.
    """
    vectors = _leading_vectors(graph, min(parts, graph.shape[0]), seed)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = (vectors / np.maximum(lengths, np.finfo(np.float64).tiny)).astype(np.float32)
    centers = kmeans(rows, min(parts, len(rows)), derive_seed(seed, "groups"))
    label = (np.square(centers).sum(axis=1) - 2.0 * rows @ centers.T).argmin(axis=1)
    groups = [np.flatnonzero(label == one) for one in np.unique(label)]
    if max(map(len, groups)) > _LOPSIDED * len(rows):
        # Rounded, so that vertices which only noise tells apart keep their order.
        along = np.argsort(vectors[:, min(1, vectors.shape[1] - 1)].round(6), kind="stable")
        groups = [np.sort(part) for part in np.array_split(along, min(parts, len(along)))]
    return sorted(groups, key=lambda group: int(group[0]))


def _leading_vectors(graph: csr_matrix, count: int, seed: int) -> np.ndarray:
    """Return the eigenvectors of D^-1/2 A D^-1/2 with the ``count`` largest eigenvalues [n, count], largest first.

    They are those of the normalized Laplacian with the smallest ones.
    """
    degree = np.asarray(graph.sum(axis=1)).ravel().astype(np.float64)
    scale = diags(1.0 / np.sqrt(np.maximum(degree, 1e-12)))
    normalized = (scale @ graph.astype(np.float64) @ scale).tocsr()
    if len(degree) <= _DENSE:
        return np.linalg.eigh(normalized.toarray())[1][:, ::-1][:, :count]
    start = generator(seed, "start").uniform(0.5, 1.5, len(degree))
    try:
        values, vectors = eigsh(normalized, k=count, which="LA", v0=start, tol=_TOLERANCE, maxiter=_RESTARTS)
    except ArpackNoConvergence as unfinished:
        # Those found so far divide the graph, too; with none, the even cut follows the degrees.
        values, vectors = unfinished.eigenvalues, unfinished.eigenvectors
        if not len(values):
            values, vectors = np.ones(1), np.sqrt(degree)[:, None]
    found: np.ndarray = vectors[:, np.argsort(-values, kind="stable")]
    return found


def cluster_paths(graph: csr_matrix, parts: int, leaf_size: int, seed: int) -> tuple[list[np.ndarray], list[list[int]]]:
    """Divide all items into leaves of at most ``leaf_size``; return the items of each leaf and the codes of its path.

    Items without any edge form a cluster of their own beside the others, and are cut evenly. A path has at least one
    code, all below ``leaf_size``, which must exceed ``parts``.
    """
    alone = np.asarray(graph.sum(axis=1)).ravel() == 0
    linked, unlinked = np.flatnonzero(~alone), np.flatnonzero(alone)
    top = (
        [linked]
        if len(linked) <= leaf_size
        else [linked[group] for group in divided(_within(graph, linked), parts, seed)]
    )
    waiting: deque[tuple[np.ndarray, list[int]]] = deque()
    made = 0
    for group in [*top, unlinked]:
        if len(group):
            waiting.append((group, [made % leaf_size]))
            made += 1
    leaves, paths = [], []
    while waiting:
        items, path = waiting.popleft()
        if len(items) <= leaf_size:
            leaves.append(items)
            paths.append(path)
            continue
        if alone[items[0]]:
            groups = np.array_split(np.arange(len(items)), parts)
        else:
            groups = divided(_within(graph, items), parts, derive_seed(seed, made))
        for group in groups:
            waiting.append((items[group], [*path, made % leaf_size]))
            made += 1
    return leaves, paths


def _within(graph: csr_matrix, items: np.ndarray) -> csr_matrix:
    return graph[items][:, items]


def _build(settings: ClusterSettings, data: KindData, work: Work) -> dict[str, SideIdentifiers]:
    items = data.n_items()
    graph = click_graph(UserClicks.read(data.path("training_events"), "rec").items, items)
    leaves, paths = cluster_paths(graph, settings.parts, settings.leaf_size, derive_seed(work.seed, "clusters"))
    work.stage.record(
        leaves=len(leaves), edges=graph.nnz // 2, items_without_edges=int((graph.getnnz(axis=1) == 0).sum())
    )
    codes: list[list[int]] = [[] for _ in range(items)]
    rng = generator(work.seed, "last codes")
    for leaf, path in zip(leaves, paths, strict=True):
        random = settings.last_code == "random"
        last = rng.permutation(settings.leaf_size)[: len(leaf)] if random else np.arange(len(leaf))
        for item, code in zip(leaf.tolist(), last.tolist(), strict=True):
            codes[item] = [*path, code]
    lengths = np.array([len(row) for row in codes])
    rows = Ragged.from_lengths(lengths, np.array([code for row in codes for code in row], dtype=np.int64))
    # One level that every position repeats: a code is the same token wherever it stands.
    depth = int(lengths.max())
    scheme = Scheme(levels=["C"] * depth, sizes=[settings.leaf_size] * depth)
    return {"collaborative": SideIdentifiers(rows, scheme)}


KIND: Final = Kind(
    settings=ClusterSettings,
    paper="P5-CID: collaborative indexing (Hua et al. 2023)",
    build=_build,
)

"""Build the prefix trees of candidates' token sequences, for a batch of users at once.

Each user has one tree. The root is the decoder's start, an *edge* is one token after one prefix, and a *node* is a
prefix that goes on (a whole sequence, ending in the end of sequence, has an edge but needs no node). A token sequence
is a path of edges; every shared prefix is stored once. Shapes: B users, W candidates, D longest sequence, N nodes, E
edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie


@dataclass(frozen=True)
class PrefixTrees:
    """Hold the trees of a batch, with each user's nodes and edges after those of the user before.

    ``node_token`` int64 [N] is what the decoder reads at the node, -1 at a root; ``node_depth`` [N] counts tokens from
    the root; ``node_user`` [N] is the row of the batch, ascending. ``ancestors`` [N, D] are the nodes from the root
    (column 0) down to the node itself (column of its depth); later columns hold the root and mean nothing.
    ``edge_parent`` [E] is a node, ``edge_token`` [E] the token after it. ``paths`` [B, W, D] are the edges of each
    candidate, -1 past its end and in empty slots. ``trie_node`` int64 [N] is set by `keep_choices`.
    """

    node_token: np.ndarray
    node_depth: np.ndarray
    node_user: np.ndarray
    ancestors: np.ndarray
    edge_parent: np.ndarray
    edge_token: np.ndarray
    paths: np.ndarray
    trie_node: np.ndarray | None = None

    @property
    def node_place(self) -> np.ndarray:
        """Return each node's place among its user's nodes [N]."""
        first = np.searchsorted(self.node_user, np.arange(self.node_user[-1] + 1))
        place: np.ndarray = np.arange(len(self.node_user)) - first[self.node_user]
        return place


def build_trees(candidates: np.ndarray, items: ItemTokens) -> PrefixTrees:
    """Build the prefix tree of each row of ``candidates`` int [B, W]; -1 marks an empty slot.

    Candidates are added in the order of their tokens, so that equal prefixes are adjacent: a prefix is new exactly
    where it differs from that of the candidate before.
    """
    order = np.argsort(np.where(candidates >= 0, items.order[candidates], len(items)), axis=1, kind="stable")
    return PrefixTrees(*_grow(np.ascontiguousarray(candidates, dtype=np.int64), order, items.tokens, items.lengths))


def keep_choices(trees: PrefixTrees, trie: TokenTrie) -> PrefixTrees:
    """Drop what is certain under the likelihood over the catalogue, and number the other nodes as the ``trie`` does.

    An edge that is its prefix's only continuation in the trie of all items has probability 1. Such edges leave the
    paths. A node leaves the tree if neither it nor any node below it has another edge; roots stay.
    """
    trie_node = trie_nodes(trees, trie)
    branches = np.zeros(len(trie_node), dtype=bool)
    for depth in range(trie.depth):
        nodes = np.flatnonzero(trees.node_depth == depth)
        branches[nodes] = trie.count_children(depth, trie_node[nodes]) > 1
    above = trees.ancestors[branches]
    stays = trees.node_depth == 0
    stays[above[np.arange(above.shape[1]) <= trees.node_depth[branches][:, None]]] = True
    node = np.cumsum(stays) - 1
    edges = branches[trees.edge_parent]
    edge = np.where(edges, np.cumsum(edges) - 1, -1)
    return PrefixTrees(
        node_token=trees.node_token[stays],
        node_depth=trees.node_depth[stays],
        node_user=trees.node_user[stays],
        ancestors=node[trees.ancestors[stays]],
        edge_parent=node[trees.edge_parent[edges]],
        edge_token=trees.edge_token[edges],
        paths=np.append(edge, -1)[trees.paths],
        trie_node=trie_node[stays],
    )


def trie_nodes(trees: PrefixTrees, trie: TokenTrie) -> np.ndarray:
    """Look up each node's number among the prefixes of its depth in the trie of all items, int64 [N]."""
    number = np.zeros_like(trees.node_token)
    for depth in range(1, trie.depth):
        nodes = np.flatnonzero(trees.node_depth == depth)
        above = number[trees.ancestors[nodes, depth - 1]]
        number[nodes] = trie.descend(depth - 1, above, trees.node_token[nodes])
    return number


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _grow(
    candidates: np.ndarray, order: np.ndarray, tokens: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compute the fields of PrefixTrees, in their order. ``order`` [B, W] sorts each row, empty slots last."""
    users, width = candidates.shape
    depth = tokens.shape[1]
    room = users * (1 + width * depth)
    node_token, node_depth, node_user = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64)
    ancestors = np.empty((room, depth), np.int64)
    edge_parent, edge_token = np.empty(room, np.int64), np.empty(room, np.int64)
    paths = np.full((users, width, depth), -1, np.int64)
    # The current candidate's node at each depth, and the edge that leads on from it.
    chain, path = np.empty(depth + 1, np.int64), np.empty(depth, np.int64)
    nodes = edges = 0
    for user in range(users):
        root = nodes
        node_token[root], node_depth[root], node_user[root] = -1, 0, user
        ancestors[root] = root
        chain[0] = root
        nodes += 1
        before = -1
        for column in order[user]:
            item = candidates[user, column]
            if item < 0:
                break
            shared = 0
            if before >= 0:
                while shared < lengths[item] and tokens[item, shared] == tokens[before, shared]:
                    shared += 1
            for level in range(shared, lengths[item]):
                edge_parent[edges], edge_token[edges] = chain[level], tokens[item, level]
                path[level] = edges
                edges += 1
                if level < lengths[item] - 1:
                    node_token[nodes], node_depth[nodes], node_user[nodes] = tokens[item, level], level + 1, user
                    chain[level + 1] = nodes
                    ancestors[nodes] = root
                    ancestors[nodes, : level + 2] = chain[: level + 2]
                    nodes += 1
            paths[user, column, : lengths[item]] = path[: lengths[item]]
            before = item
    return (
        node_token[:nodes],
        node_depth[:nodes],
        node_user[:nodes],
        ancestors[:nodes],
        edge_parent[:edges],
        edge_token[:edges],
        paths,
    )

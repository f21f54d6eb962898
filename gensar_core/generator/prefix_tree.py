"""Prefix trees of candidates' token sequences, built for a batch of users at once.

One tree a user: the root is the decoder's start, an *edge* is one token after one prefix, a *node* is a prefix that
goes on (a whole sequence, ending in the end of sequence, has an edge but needs no node). A token sequence is a path of
edges; every shared prefix stands once. Shapes: B users, W candidates, D longest sequence, N nodes, E edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gensar_core.generator.corpus import ItemTokens


@dataclass(frozen=True)
class PrefixTrees:
    """The trees of a batch, nodes and edges of one user after those of the other.

    ``node_token`` int64 [N] what the decoder reads at the node, -1 at a root; ``node_depth`` [N] tokens from the root;
    ``node_user`` [N] row of the batch, ascending; ``ancestors`` [N, D]: nodes from the root (column 0) down to the
    node itself (column of its depth), later columns hold the root and mean nothing.
    ``edge_parent`` [E] is a node, ``edge_token`` [E] what comes after it; ``paths`` [B, W, D] are the edges of each
    candidate, -1 past its end and where no candidate stands.
    """

    node_token: np.ndarray
    node_depth: np.ndarray
    node_user: np.ndarray
    ancestors: np.ndarray
    edge_parent: np.ndarray
    edge_token: np.ndarray
    paths: np.ndarray

    @property
    def node_place(self) -> np.ndarray:
        """Place of each node among its user's [N]."""
        first = np.searchsorted(self.node_user, np.arange(self.node_user[-1] + 1))
        place: np.ndarray = np.arange(len(self.node_user)) - first[self.node_user]
        return place


def build_trees(candidates: np.ndarray, items: ItemTokens) -> PrefixTrees:
    """The prefix tree of each row of ``candidates`` int [B, W]; -1 where none stands.

    Candidates are put in the order of their tokens, so that equal prefixes stand together: a prefix is new exactly
    where it differs from that of the candidate before.
    """
    users, width = candidates.shape
    depth = items.tokens.shape[1]
    order = np.argsort(np.where(candidates >= 0, items.order[candidates], len(items)), axis=1, kind="stable")
    ordered = np.take_along_axis(candidates, order, axis=1)
    tokens = np.where(ordered[:, :, None] >= 0, items.tokens[ordered], -1)
    lengths = np.where(ordered >= 0, items.lengths[ordered], 0)[:, :, None]

    differs = np.ones(tokens.shape, dtype=bool)
    differs[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
    position = np.arange(depth)
    new_edge = np.logical_or.accumulate(differs, axis=2) & (position < lengths)
    new_node = new_edge & (position < lengths - 1)

    # Numbered user by user; a user's root comes before its other nodes.
    with_root = np.concatenate([np.ones((users, 1), dtype=bool), new_node.reshape(users, -1)], axis=1)
    number = np.cumsum(with_root).reshape(with_root.shape) - 1
    root = number[:, 0]
    node_of = _nearest(np.where(new_node, number[:, 1:].reshape(new_node.shape), -1))
    edge_of = _nearest(np.where(new_edge, np.cumsum(new_edge).reshape(new_edge.shape) - 1, -1))

    user, candidate, level = np.nonzero(new_node)
    chain = np.where(position[None, :] <= level[:, None], node_of[user, candidate], root[user, None])
    ancestors = np.empty((len(user) + users, depth), dtype=np.int64)
    ancestors[root] = root[:, None]
    inner = number[:, 1:].reshape(new_node.shape)[new_node]
    ancestors[inner, 0] = root[user]
    ancestors[inner, 1:] = chain[:, : depth - 1]

    node_token = np.full(len(ancestors), -1, dtype=np.int64)
    node_token[inner] = tokens[new_node]
    node_depth = np.zeros(len(ancestors), dtype=np.int64)
    node_depth[inner] = level + 1
    node_user = np.empty(len(ancestors), dtype=np.int64)
    node_user[root] = np.arange(users)
    node_user[inner] = user

    before = np.concatenate([np.broadcast_to(root[:, None, None], (users, width, 1)), node_of[:, :, :-1]], axis=2)
    paths = np.empty(tokens.shape, dtype=np.int64)
    np.put_along_axis(paths, order[:, :, None], np.where(position < lengths, edge_of, -1), axis=1)
    return PrefixTrees(
        node_token, node_depth, node_user, ancestors, before[new_edge], tokens[new_edge].astype(np.int64), paths
    )


def _nearest(numbers: np.ndarray) -> np.ndarray:
    """At each place [B, W, D] the number of the last candidate up to it that began a prefix of this length."""
    nearest: np.ndarray = np.maximum.accumulate(numbers, axis=1)
    return nearest

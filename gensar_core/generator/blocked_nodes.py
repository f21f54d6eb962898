"""Close branches of the trie to single users, by the items that they excluded or that they are allowed."""

from __future__ import annotations

import torch

from gensar_core.corpora.trie import Branches, TokenTrie


class BlockedNodes:
    """Hold the trie nodes closed to each user by excluded items.

    ``places`` int64 [B, X] are the items' places in the trie's order, ascending, n_items for none. ``nodes[d]`` [B, X]
    are the nodes of level d below which the user has no item left (-1: none), ``parents[d]`` their parents.
    """

    def __init__(
        self, trie: TokenTrie, excluded: torch.Tensor, subset: torch.Tensor | None, beneath: list[torch.Tensor]
    ) -> None:
        n_items = len(trie)
        excluded = excluded.sort(1).values
        absent = excluded < 0
        # Count each item once, and only if a restriction has not removed it already.
        absent[:, 1:] |= excluded[:, 1:] == excluded[:, :-1]
        if subset is not None:
            absent |= ~subset[excluded.clamp_min(0)]
        self.places = torch.where(absent, n_items, trie.place[excluded.clamp_min(0)]).sort(1).values
        self.nodes: list[torch.Tensor] = []
        self.parents: list[torch.Tensor] = []
        for depth, (level, items_beneath) in enumerate(zip(trie.levels, beneath, strict=True)):
            node = (torch.searchsorted(level.start, self.places.int(), right=True) - 1).clamp_min(0)
            start, stop = level.start[node].long(), level.stop[node].long()
            lost = torch.searchsorted(self.places, stop) - torch.searchsorted(self.places, start)
            closed = (start <= self.places) & (self.places < stop) & (lost >= items_beneath[node])
            self.nodes.append(torch.where(closed, node, -1))
            above = trie.levels[max(depth - 1, 0)].first_child
            self.parents.append(torch.searchsorted(above, node.int(), right=True) - 1)

    def close(self, scores: torch.Tensor, node: torch.Tensor, depth: int, trie: TokenTrie, branches: Branches) -> None:
        """Set ``scores`` [B, K, W] to -inf for closed children of the beams' nodes [B, K] of level ``depth``."""
        child, parent = self.nodes[depth + 1], self.parents[depth + 1]
        below = (node[:, :, None] == parent[:, None, :]) & (child >= 0)[:, None, :]
        user, beam, excluded = below.nonzero(as_tuple=True)
        child = child[user, excluded]
        if branches.table is None:
            slot = child - trie.levels[depth].first_child[node[user, beam]]
        else:
            slot = trie.levels[depth + 1].token[child] - branches.first_token
        scores[user, beam, slot.long()] = -torch.inf

    def excludes(self, places: torch.Tensor) -> torch.Tensor:
        """Check which items at ``places`` [B, n] a user has excluded, bool [B, n]."""
        nearest = torch.searchsorted(self.places, places).clamp_max(self.places.shape[1] - 1)
        return self.places.gather(1, nearest) == places


class AllowedNodes:
    """Hold the trie nodes that lead to items allowed to each user; used as `BlockedNodes` is.

    ``nodes[d]`` bool [B, nodes of level d] marks them; ``items`` bool [B, n_items] follows the trie's order of items.
    """

    def __init__(self, trie: TokenTrie, allowed: torch.Tensor) -> None:
        """Take ``allowed`` bool [B, n_items], by the items' numbers."""
        self.items = allowed[:, trie.items.long()]
        before = torch.zeros((len(allowed), len(trie) + 1), dtype=torch.int32, device=allowed.device)
        torch.cumsum(self.items, 1, out=before[:, 1:])
        self.nodes = [before[:, level.stop.long()] > before[:, level.start.long()] for level in trie.levels]

    def close(self, scores: torch.Tensor, node: torch.Tensor, depth: int, trie: TokenTrie, branches: Branches) -> None:
        """Set ``scores`` [B, K, W] to -inf for children of ``node`` [B, K] that lead to no allowed item."""
        if branches.table is not None:
            child = branches.table[node].long().clamp_min_(0)
        else:
            first = trie.levels[depth].first_child[node].long()
            child = first[:, :, None] + torch.arange(branches.width, device=node.device)
            child.clamp_max_(len(trie.levels[depth + 1]) - 1)
        allowed = self.nodes[depth + 1].gather(1, child.flatten(1)).view_as(child)
        scores.masked_fill_(~allowed, -torch.inf)

    def excludes(self, places: torch.Tensor) -> torch.Tensor:
        """Check which items at ``places`` [B, n] a user is not allowed, bool [B, n]."""
        return ~self.items.gather(1, places)

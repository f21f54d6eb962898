"""Store all items' identifiers as a trie in flat arrays: the tokens allowed next, and the items they lead to."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import send

#: Limit of entries in the dense table of one level.
_DENSE: Final = 1 << 20


@dataclass(frozen=True)
class Level:
    """Hold the n nodes (prefixes) of one depth, numbered in the order of their tokens; int32.

    ``token`` [n] is the last token of each node. The children of node i are the nodes ``first_child[i]`` to
    ``first_child[i + 1]`` (excluded) of the next level; a node without children is a whole token row. The items beneath
    it are at places ``start[i]`` to ``stop[i]`` of the trie's order.
    """

    token: torch.Tensor
    first_child: torch.Tensor
    start: torch.Tensor
    stop: torch.Tensor

    def __len__(self) -> int:
        return len(self.token)

    @functools.cached_property
    def ends(self) -> torch.Tensor:
        """Mark the nodes that are whole token rows, bool [n]."""
        return self.first_child[1:] == self.first_child[:-1]

    @functools.cached_property
    def some_end(self) -> bool:
        """Tell whether any node is a whole token row."""
        return bool(self.ends.any())

    @functools.cached_property
    def all_end(self) -> bool:
        """Tell whether all nodes are whole token rows."""
        return bool(self.ends.all())


@dataclass(frozen=True)
class Branches:
    """Locate the children of a level's nodes.

    A node has ``width`` slots for children. In dense levels, each token from ``first_token`` on has one, and ``table``
    int32 [n, width] holds the child's number or -1; in sparse levels (``table`` is None), slot j is the node's child j.
    ``last_token`` is the largest token of a child. ``alive`` bool [children] marks the children that a restriction left
    over, None: all; the table already reflects it.
    """

    width: int
    first_token: int
    last_token: int
    table: torch.Tensor | None
    alive: torch.Tensor | None


@dataclass(frozen=True)
class Children:
    """List all children of some nodes [n] of level ``depth``, those of each node together; int64.

    ``row`` [c] is the place of each child's node among the n, ``number`` [c] the child's number in the next level.
    ``first`` [n] is the place of each node's first child in these lists, ``child`` [n] that child's number, ``sizes``
    [n] the number of the node's children.
    """

    depth: int
    row: torch.Tensor
    number: torch.Tensor
    first: torch.Tensor
    child: torch.Tensor
    sizes: torch.Tensor

    def place(self, row: torch.Tensor, child: torch.Tensor) -> torch.Tensor:
        """Return where the nodes ``child`` [j], children of the nodes at ``row`` [j], stand in these lists."""
        return self.first[row] + child - self.child[row]


@dataclass(frozen=True)
class Choices:
    """Hold the nodes of level ``depth`` that lie on the paths of token rows and have several children; int64 [n].

    ``row`` is the token row whose path passes ``node``, ``child`` the node that it goes on to. ``total`` is the number
    of all children of the n nodes.
    """

    depth: int
    row: torch.Tensor
    node: torch.Tensor
    child: torch.Tensor
    total: int


@dataclass(frozen=True)
class TokenTrie:
    """Hold all items' token rows as a trie. No row may be a prefix of another, so every row ends in a leaf.

    ``items`` int32 [n_items] are the items in the order of their rows; ``levels[d]`` holds the prefixes of d tokens,
    ``levels[0]`` the root alone. Items with equal rows share a node. A trie on a GPU keeps the one on the host that it
    was copied from: what is asked of that one makes the host wait for no GPU.
    """

    items: torch.Tensor
    levels: tuple[Level, ...]
    _source: TokenTrie | None = None

    @classmethod
    def from_rows(cls, rows: Ragged) -> TokenTrie:
        """Build the trie of items 0, 1, ... from their token rows."""
        longest = int(rows.lengths.max(initial=1))
        tokens = rows.padded(longest, -1)
        # `lexsort` takes its primary key last.
        order = np.lexsort(tokens.T[::-1])
        tokens, lengths = tokens[order], rows.lengths[order]
        nodes = [(np.array([-1]), np.array([0]), np.array([len(order)]))]
        begins = np.zeros(len(order), dtype=bool)
        begins[:1] = True
        for depth in range(longest):
            begins[1:] |= tokens[1:, depth] != tokens[:-1, depth]
            start = np.flatnonzero(begins)
            stop = np.append(start[1:], len(order))
            goes_on = lengths[start] > depth
            nodes.append((tokens[start[goes_on], depth], start[goes_on], stop[goes_on]))
        deeper = [start for _, start, _ in nodes[1:]] + [np.zeros(0, dtype=np.int64)]
        levels = [
            (token, np.append(np.searchsorted(below, start), len(below)), start, stop)
            for (token, start, stop), below in zip(nodes, deeper, strict=True)
        ]
        return cls(_int32(order), tuple(Level(*map(_int32, level)) for level in levels))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def depth(self) -> int:
        """Return the number of tokens of the longest row."""
        return len(self.levels) - 1

    @functools.cached_property
    def host(self) -> TokenTrie:
        """Return the same trie in the host's memory."""
        return self.to(torch.device("cpu")) if self._source is None else self._source

    @functools.cached_property
    def fixed_length(self) -> bool:
        """Tell whether all rows have the same number of tokens."""
        return not any(level.some_end for level in self.host.levels[:-1])

    @functools.cached_property
    def most_alike(self) -> int:
        """Return the largest number of items that share one token row."""
        return max(int((level.stop - level.start)[level.ends].max()) for level in self.host.levels if level.some_end)

    @functools.cached_property
    def place(self) -> torch.Tensor:
        """Return each item's place in the order, int64 [n_items]."""
        place = torch.empty(len(self.items), dtype=torch.int64, device=self.items.device)
        place[self.items.long()] = torch.arange(len(self.items), device=self.items.device)
        return place

    @functools.cached_property
    def branches(self) -> tuple[Branches, ...]:
        """Return the branches of every level but the last."""
        return tuple(
            replace(one, table=None if one.table is None else send(one.table.numpy(), self.items.device))
            for one in itertools.starmap(_branches, itertools.pairwise(self.host.levels))
        )

    @functools.cached_property
    def _keys(self) -> tuple[np.ndarray, ...]:
        """Combine each node's parent and token into one ascending number, int64 [n], for every level but the first."""
        keys = []
        for level, below in itertools.pairwise(self.levels):
            parent = np.repeat(np.arange(len(level)), np.diff(level.first_child.numpy()))
            keys.append((parent << 32) + below.token.numpy())
        return tuple(keys)

    def descend(self, depth: int, node: np.ndarray, token: np.ndarray) -> np.ndarray:
        """Find the children of ``node`` [n] of level ``depth`` by their tokens, int64 [n]; each must exist.

        Like `count_children` and `choices`, computed on the host.
        """
        child: np.ndarray = np.searchsorted(self.host._keys[depth], (node.astype(np.int64) << 32) + token)
        return child

    def count_children(self, depth: int, node: np.ndarray) -> np.ndarray:
        """Count the children of each ``node`` [n] of level ``depth``."""
        first = self.host.levels[depth].first_child.numpy()
        counted: np.ndarray = first[node + 1] - first[node]
        return counted

    def choices(self, rows: np.ndarray) -> list[Choices]:
        """Find where the token ``rows`` int [n, L], negative past a row's end, have more than one way on, by level.

        Each row must be in the trie. Levels without such a node are left out.
        """
        found = []
        row, node = np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64)
        for depth in range(min(self.depth, rows.shape[1])):
            goes_on = rows[row, depth] >= 0
            row, node = row[goes_on], node[goes_on]
            below, counted = self.descend(depth, node, rows[row, depth]), self.count_children(depth, node)
            several = counted > 1
            if several.any():
                chosen = send(np.stack([row, node, below])[:, several], self.items.device)
                found.append(Choices(depth, chosen[0], chosen[1], chosen[2], int(counted[several].sum())))
            node = below
        return found

    def children(self, depth: int, node: torch.Tensor, total: int | None = None) -> Children:
        """List the children of ``node`` int64 [n] of level ``depth``, on the trie's device.

        ``total`` is their number; without it, the host waits for a GPU to count them.
        """
        first_child = self.levels[depth].first_child
        child = first_child[node].long()
        sizes = first_child[node + 1].long() - child
        first = sizes.cumsum(0) - sizes
        row = torch.repeat_interleave(sizes, output_size=total)
        number = child[row] + torch.arange(len(row), device=row.device) - first[row]
        return Children(depth, row, number, first, child, sizes)

    def without_first_token(self) -> TokenTrie:
        """Return the trie of the same rows without their first token, which all rows must share."""
        if len(self.levels[1]) != 1:
            raise ValueError("the rows begin with different tokens")
        root = replace(self.levels[1], token=self.levels[0].token)
        return TokenTrie(self.items, (root, *self.levels[2:]))

    def to(self, device: torch.device) -> TokenTrie:
        """Return the same trie on another device."""
        if self.items.device == device:
            return self
        moved = [Level(*(getattr(level, field.name).to(device) for field in fields(Level))) for level in self.levels]
        source = self if self.items.device.type == "cpu" else None
        return TokenTrie(self.items.to(device), tuple(moved), source)


def counts(trie: TokenTrie, allowed: torch.Tensor | None) -> list[torch.Tensor]:
    """Count the allowed items beneath each node, int64 [n] a level. ``allowed`` bool [n_items]; None: all."""
    if allowed is None:
        return [(level.stop - level.start).long() for level in trie.levels]
    before = torch.zeros(len(trie) + 1, dtype=torch.int64, device=allowed.device)
    torch.cumsum(allowed[trie.items.long()], 0, out=before[1:])
    return [before[level.stop.long()] - before[level.start.long()] for level in trie.levels]


def restricted(trie: TokenTrie, allowed: torch.Tensor) -> tuple[Branches, ...]:
    """Return the trie's branches without those that lead to no allowed item. ``allowed`` bool [n_items]."""
    levels = []
    for branches, beneath in zip(trie.branches, counts(trie, allowed)[1:], strict=True):
        alive, table = beneath > 0, branches.table
        if table is not None:
            table = torch.where(alive[table.clamp_min(0).long()], table, -1)
        levels.append(Branches(branches.width, branches.first_token, branches.last_token, table, alive))
    return tuple(levels)


def save_tries(tries: Mapping[str, TokenTrie], path: Path) -> None:
    """Write the tries of several tasks as one safetensors file."""
    tensors = {}
    for task, trie in tries.items():
        tensors[f"{task}.items"] = trie.items.cpu()
        for depth, level in enumerate(trie.levels):
            for field in fields(Level):
                tensors[f"{task}.{depth}.{field.name}"] = getattr(level, field.name).cpu()
    save_file(tensors, path)


def load_tries(corpus: Path, n_items: int) -> dict[str, TokenTrie]:
    """Read the tries that the corpus stage wrote, by the task `rec` or `search`.

    Raises UserError when the file is missing, holds no tries, or holds those of another number of items.
    """
    path = corpus / "trie.safetensors"
    if not path.is_file():
        raise UserError(f"{path}: no such file; build the corpus again")
    try:
        tensors = load_file(path)
        names = [field.name for field in fields(Level)]
        tries = {}
        for task in sorted({name.split(".")[0] for name in tensors}):
            depth = sum(name.startswith(f"{task}.") for name in tensors) // len(names)
            levels = [Level(*(tensors[f"{task}.{level}.{name}"] for name in names)) for level in range(depth)]
            tries[task] = TokenTrie(tensors[f"{task}.items"], tuple(levels))
    except (SafetensorError, KeyError, OSError) as error:
        raise UserError(f"{path}: holds no tries; delete it and build the corpus again") from error
    if tries.keys() != set(schema.TASKS) or any(len(trie) != n_items for trie in tries.values()):
        raise UserError(f"{corpus}: trie.safetensors is not that of its items; build the corpus again")
    return tries


def _branches(level: Level, below: Level) -> Branches:
    first, last = int(below.token.min()), int(below.token.max())
    span = last - first + 1
    counted = level.first_child.diff().long()
    widest = int(counted.max())
    # A table pays off where most of its row would have to be scanned anyway.
    if len(level) * span > _DENSE or 4 * widest < span:
        return Branches(widest, first, last, None, None)
    table = torch.full((len(level), span), -1, dtype=torch.int32, device=below.token.device)
    parent = torch.repeat_interleave(torch.arange(len(level), device=table.device), counted)
    table[parent, below.token.long() - first] = torch.arange(len(below), dtype=torch.int32, device=table.device)
    return Branches(span, first, last, table, None)


def _int32(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int32))

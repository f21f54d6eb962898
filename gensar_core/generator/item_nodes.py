"""Number the prefixes of all items' identifiers, so that each may have a vector of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie

#: Mark of a token or node that is no prefix of codes: a behavior token or the end of sequence.
NO_NODE = -1


@dataclass(frozen=True)
class ItemNodes:
    """Number the different prefixes of codes, over both tasks: prefixes of shared codes have one number.

    ``of_item`` holds, by task, the number of the prefix that ends in each token of each item, int64 [n_items, longest];
    ``of_level`` the number of each node, by task and level of the trie, int64 [nodes]. The former stays on the host.
    """

    count: int
    of_item: Mapping[str, torch.Tensor]
    of_level: Mapping[str, tuple[torch.Tensor, ...]]

    @classmethod
    def build(cls, items: Mapping[str, ItemTokens], tries: Mapping[str, TokenTrie], first_code: int) -> ItemNodes:
        """Number the prefixes; codes begin at token ``first_code`` of a row and end before the end of sequence."""
        codes = {task: item_codes(rows, first_code) for task, rows in items.items()}
        width = max(part.shape[1] for part in codes.values())
        joined = np.concatenate(
            [np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=-1) for p in codes.values()]
        )
        numbers = np.full(joined.shape, NO_NODE, dtype=np.int64)
        prefix, count = np.zeros(len(joined), dtype=np.int64), 0
        for place in range(width):
            real = joined[:, place] >= 0
            pairs, prefix_of = np.unique((prefix[real] << 32) + joined[real, place], return_inverse=True)
            numbers[real, place] = count + prefix_of
            prefix[real] = prefix_of
            count += len(pairs)
        of_item, of_level, start = {}, {}, 0
        for task, rows in items.items():
            path = np.full(rows.tokens.shape, NO_NODE, dtype=np.int64)
            stop, columns = start + len(rows), codes[task].shape[1]
            path[:, first_code : first_code + columns] = numbers[start:stop, :columns]
            of_item[task] = torch.from_numpy(path)
            of_level[task] = tuple(
                of_item[task][tries[task].items[level.start.long()].long().cpu(), depth - 1]
                if depth
                else torch.full((1,), NO_NODE)
                for depth, level in enumerate(tries[task].levels)
            )
            start = stop
        return cls(count, of_item, of_level)

    def to(self, device: torch.device) -> ItemNodes:
        """Return the same numbers, those by level on another device."""
        of_level = {task: tuple(level.to(device) for level in levels) for task, levels in self.of_level.items()}
        return replace(self, of_level=of_level)

    def numbered_as(self, older: ItemNodes) -> ItemNodes:
        """Number the prefixes as ``older`` does, which was built of the first of these items; others get no number."""
        number = torch.full((self.count + 1,), NO_NODE)
        for task, paths in older.of_item.items():
            number[self.of_item[task][: len(paths)]] = paths
        # The last place stands for no node, in both numberings.
        number[NO_NODE] = NO_NODE
        of_item = {task: number[paths] for task, paths in self.of_item.items()}
        of_level = {task: tuple(number[nodes] for nodes in levels) for task, levels in self.of_level.items()}
        return ItemNodes(older.count, of_item, of_level)


def item_codes(rows: ItemTokens, first_code: int) -> np.ndarray:
    """Return the codes of each item, int64 [n_items, longest], -1 past the last."""
    codes: np.ndarray = rows.tokens[:, first_code:].astype(np.int64)
    places = np.arange(codes.shape[1]) + first_code
    codes[places >= (rows.lengths - 1)[:, None]] = -1
    return codes

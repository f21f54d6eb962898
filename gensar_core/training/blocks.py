"""Order very many rows at random, block by block, so that memory does not grow with their number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from gensar_core.runtime.seeds import generator

#: Rows (prompts, users' logs, targets) that are put into a random order at once: a gigabyte at most.
BLOCK: Final = 1 << 23


@dataclass(frozen=True)
class BlockOrder:
    """Divide the numbers below ``size`` into blocks of at most ``BLOCK``, and order the blocks of each epoch."""

    size: int
    seed: int

    @property
    def count(self) -> int:
        """Return the number of blocks."""
        return max(1, -(-self.size // BLOCK))

    def members(self, block: int, size: int | None = None) -> np.ndarray:
        """Return the numbers in a block, every n-th one, of those below ``size`` (None: of all)."""
        return np.arange(block, self.size if size is None else size, self.count)

    def steps(self, batch_size: int) -> list[int]:
        """Count the batches of each block."""
        return [-(-len(range(block, self.size, self.count)) // batch_size) for block in range(self.count)]

    def of(self, epoch: int) -> list[tuple[int, int]]:
        """Return the blocks in their order of an epoch, each with the number of the visit since training began."""
        order = generator(self.seed, "blocks", epoch).permutation(self.count)
        return [(int(block), epoch * self.count + place) for place, block in enumerate(order)]

"""Count co-clicks: clicks of one user on two items, which say more the closer they follow one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from gensar_core.runtime.arrays import Ragged, blocks_of_work, ranges, stretches
from gensar_core.runtime.sorting import Groups

#: Pairs of clicks counted at once; limits memory, does not affect results but for rounding.
_PAIRS = 1 << 22


@dataclass(frozen=True)
class CoClickWeights:
    """Weigh a co-click by how many clicks apart its two are.

    Nothing further apart than ``window`` counts. Each click further apart counts ``distance_decay`` times as much, and
    a co-click whose second item was clicked first counts ``backward`` times as much.
    """

    window: int
    distance_decay: float
    backward: float

    def of(self, apart: np.ndarray) -> np.ndarray:
        """Return the weights of co-clicks, float64; ``apart``, not zero, is negative where the second item came first.

        No distance may be beyond the window.
        """
        weight: np.ndarray = self.distance_decay ** (np.abs(apart) - 1.0)
        weight[apart < 0] *= self.backward
        return weight


def co_clicks(clicks: Ragged, n_items: int, weights: CoClickWeights, folder: Path) -> Iterator[sparse.coo_array]:
    """Sum the co-clicks n_ij of items i with items j, block by block of rows i, each float64 [rows, n_items].

    ``clicks`` [users] are the items that each user clicked, oldest first; they are sorted by item on the disk of
    ``folder``. What is held grows with items, not with clicks.
    """
    by_item = Groups.of((clicks.values[places] for places in stretches(len(clicks.values))), folder)
    of_item = np.searchsorted(by_item.codes, np.arange(n_items + 1))
    # The work of an item: its clicks, and their pairs.
    work = np.diff(of_item).astype(np.float64)
    for places in stretches(len(clicks.values)):
        reach = sum(_reach(clicks, places, weights.window))
        work += np.bincount(clicks.values[places], weights=reach, minlength=n_items)
    for start, stop in blocks_of_work(work, _PAIRS):
        shape = (stop - start, n_items)
        block = sparse.csr_array(shape, dtype=np.float64)
        # An item with many clicks takes several steps.
        count = of_item[stop] - of_item[start]
        at_once = count if work[start:stop].sum() <= 2 * _PAIRS else max(1, _PAIRS // (2 * weights.window))
        for places in stretches(count, max(1, at_once)):
            chosen = by_item.rows[of_item[start] + places]
            rows, others, counted = [], [], []
            for reach, direction in zip(_reach(clicks, chosen, weights.window), (1, -1), strict=True):
                apart = direction * ranges(np.ones_like(reach), reach)
                rows.append(np.repeat(clicks.values[chosen] - start, reach))
                others.append(clicks.values[np.repeat(chosen, reach) + apart])
                counted.append(weights.of(apart))
            cells = (np.concatenate(counted), (np.concatenate(rows), np.concatenate(others)))
            # The conversion to rows sums duplicate cells.
            block = block + sparse.csr_array(cells, shape=shape)
        yield sparse.coo_array(block)


def _reach(clicks: Ragged, places: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Count the clicks of the same user within the window after, and before, the clicks at some places."""
    user = np.searchsorted(clicks.offsets, places, side="right") - 1
    after, before = clicks.offsets[user + 1] - 1 - places, places - clicks.offsets[user]
    return np.minimum(after, window), np.minimum(before, window)

"""Give identifiers to new items in a code tree whose taken leaves stay as they are.

A node of the code tree has room for as many items as it has leaves. An item descends from the root: at each level it
takes the nearest code whose node has room left. There always is one, because a node with room left cannot have children
that are all full. So it ends in a free leaf, and where its nearest leaf is free, in that one. The shared levels lead to
a node on both sides at once; each item below it takes one leaf of either side, so there is room on both or on neither.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from gensar_core.errors import UserError


def free_codes(
    latents: np.ndarray,
    shared: Sequence[np.ndarray],
    specific: Sequence[Sequence[np.ndarray]],
    taken: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Return free rows of codes for new items, one array [m, L] a side; items are placed in their order.

    ``latents`` [m, D] are the new items' latents, the sides' parts next to each other. ``shared`` holds one codebook
    [K, D] a level and ``specific``, for each side, one [K, its part of D] a level. ``taken`` are the rows of codes
    [n, L] of each side that are in use, all different. Raises UserError when the new items do not fit, with the number
    that does.
    """
    sizes = [len(codebook) for codebook in [*shared, *specific[0]]]
    _check_free(len(latents), len(taken[0]), sizes)
    below = math.prod(sizes[len(shared) :])
    above = _Counts(taken[0][:, : len(shared)], sizes[: len(shared)], below)
    sides = [_Counts(codes, sizes, 1) for codes in taken]
    ends = np.cumsum([codebooks[0].shape[1] if codebooks else 0 for codebooks in specific])[:-1]
    found: list[list[tuple[int, ...]]] = [[] for _ in specific]
    for latent in latents:
        prefix, residual = above.descend((), latent, shared)
        above.add(prefix)
        # A single side has no parts: all its levels span the whole latent.
        parts = np.split(residual, ends) if len(specific) > 1 else [residual]
        for rows, counts, part, codebooks in zip(found, sides, parts, specific, strict=True):
            codes, _ = counts.descend(prefix, part, codebooks)
            counts.add(codes)
            rows.append(codes)
    return [np.array(rows, dtype=np.int64).reshape(len(latents), len(sizes)) for rows in found]


def _check_free(new: int, taken: int, sizes: Sequence[int]) -> None:
    free = math.prod(sizes) - taken
    if new > free:
        raise UserError(
            f"identifiers: levels of {', '.join(map(str, sizes))} codes give {math.prod(sizes):,} identifiers, and "
            f"{taken:,} are taken: {free:,} of the {new:,} new items fit; add fewer, or build larger identifiers and "
            "train on them"
        )


class _Counts:
    """Count the items beneath each node of a code tree, whose leaves have room for ``room_below`` items each."""

    def __init__(self, codes: np.ndarray, sizes: Sequence[int], room_below: int) -> None:
        self._rooms = [room_below * math.prod(sizes[level + 1 :]) for level in range(len(sizes))]
        self._items: Counter[tuple[int, ...]] = Counter()
        for row in codes.tolist():
            self.add(tuple(row))

    def add(self, codes: tuple[int, ...]) -> None:
        """Count one item more beneath every node on the way to ``codes``."""
        self._items.update(codes[:length] for length in range(1, len(codes) + 1))

    def descend(
        self, prefix: tuple[int, ...], residual: np.ndarray, codebooks: Sequence[np.ndarray]
    ) -> tuple[tuple[int, ...], np.ndarray]:
        """Continue ``prefix`` by the nearest codes with room left; return the codes, and what the residual has left."""
        for codebook in codebooks:
            room = self._rooms[len(prefix)]
            distance = np.einsum("kd,kd->k", codebook, codebook) - 2.0 * (codebook @ residual)
            nearest = np.argsort(distance, kind="stable").tolist()
            code = next(code for code in nearest if self._items[*prefix, code] < room)
            prefix, residual = (*prefix, code), residual - codebook[code]
        return prefix, residual

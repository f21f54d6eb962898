"""Constrained beam search over candidates, the paper's way to rank (section 3.4.2), read off exact scores.

A beam search only ever sees log-probabilities of tokens after prefixes of candidates, and the prefix tree has given
all of them. So which candidates the search would have found is a matter of cutting, level by level.
"""

from __future__ import annotations

import numpy as np


def found_by_beams(steps: np.ndarray, paths: np.ndarray, lengths: np.ndarray, beams: int) -> np.ndarray:
    """Whether a search with so many beams finds each candidate, bool [B, W].

    ``steps`` [B, W, D] are log-probabilities of tokens, ``paths`` [B, W, D] the edges they belong to (equal edges are
    one beam), ``lengths`` [B, W] tokens of each candidate, 0 where none stands. At each level the best ``beams``
    continuations that do not end go on; one that ends is found if fewer than ``beams`` others are better. As in Hugging
    Face's search, but it never stops early.
    """
    total = np.cumsum(steps, axis=2)
    alive = lengths > 0
    found = np.zeros(alive.shape, dtype=bool)
    for level in range(steps.shape[2]):
        alive &= level < lengths
        ends = alive & (level == lengths - 1)
        place, place_of_open = _places(np.where(alive, total[:, :, level], -np.inf), paths[:, :, level], ends)
        found |= ends & (place < beams)
        alive &= ~ends & (place_of_open < beams) & (place < 2 * beams)
    return found


def _places(totals: np.ndarray, edges: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of each candidate's edge, best first from 0: among all edges, and among those that do not end [B, W]."""
    order = np.lexsort((edges, -totals), axis=1)
    ordered = np.take_along_axis(edges, order, axis=1)
    first = np.ones(edges.shape, dtype=bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    goes_on = first & ~np.take_along_axis(ends, order, axis=1)
    places = []
    for counted in (first, goes_on):
        place = np.empty(edges.shape, dtype=np.int64)
        np.put_along_axis(place, order, np.cumsum(counted, axis=1) - 1, axis=1)
        places.append(place)
    return places[0], places[1]

"""Make identifiers provably unique: move the fewest possible items, to free identifiers at little added distortion.

Identifiers are the leaves of the *code tree*, in which every node has K branches, one for each code of the next level.
A node with B levels below it has room for K^B items (for the product of their sizes, where levels differ in size). Two
steps give every item a leaf to itself:

1. *Rebalance*, from the root down: a node with more items than room sends the excess to siblings with free places,
   nearest first. Siblings always have enough, because their parent holds no more items than their rooms add up to.
2. *Place*, at the last level: every node now has at most K items, and an assignment of least cost maps the colliding
   ones to different codes; one of each colliding group keeps its identifier.

No other item moves. Of g items with one identifier, g - 1 move, on each side separately, unless a node of the *shared*
levels overflows: an item that leaves it moves on both sides, because both identifiers begin with the shared codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from gensar_core.errors import UserError
from gensar_core.identifiers.quantize import row_blocks

#: Distances computed at once.
_DISTANCES = 1 << 24
#: An assignment that fills at least this share of a node's free codes is eased.
_NEARLY_FULL = 0.9


@dataclass(frozen=True)
class Descent:
    """Hold the descent of n items from given nodes of the code tree, through L levels of codebooks."""

    #: Number of each item's node [n]; equal numbers are one node.
    node: np.ndarray
    #: Residual to quantize there [n, D].
    residual: np.ndarray
    #: One codebook [K, D] a level.
    codebooks: Sequence[np.ndarray]
    #: Codes to make unique [n, L].
    codes: np.ndarray
    #: True while the item follows the codes it was encoded to [n]; an unsettled item has no claim on its leaf.
    settled: np.ndarray


def unique_codes(
    latents: np.ndarray,
    shared: Sequence[np.ndarray],
    specific: Sequence[Sequence[np.ndarray]],
    shared_codes: np.ndarray,
    specific_codes: Sequence[np.ndarray],
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Make codes unique on every side.

    ``latents`` [n, D] are the items' latents, the sides' parts next to each other. ``shared`` holds one codebook [K, D]
    a level and ``specific``, for each side, one [K, its part of D] a level. ``shared_codes`` [n, L_m] and
    ``specific_codes`` (one [n, L_n] a side) are the nearest codes by Eq. 3 and 4. Returns new shared and specific
    codes; the shared ones are the same for all sides. Raises UserError when there are more items than identifiers.
    """
    items, specific_sizes = len(latents), [len(codebook) for codebook in specific[0]]
    check_room(items, [*map(len, shared), *specific_sizes])
    root, settled = np.zeros(items, dtype=np.int64), np.ones(items, dtype=bool)
    if len(specific) == 1 or not specific_sizes:
        codes = np.concatenate([shared_codes, specific_codes[0]], axis=1)
        codes = _make_unique(Descent(root, latents, [*shared, *specific[0]], codes, settled))
        return codes[:, : len(shared)], [codes[:, len(shared) :]] * len(specific)

    above = Descent(root, latents, shared, shared_codes, settled)
    claims = np.sum([_keepers(above, codes) for codes in specific_codes], axis=0)
    above = _rebalance(above, math.prod(specific_sizes), claims)
    ends = np.cumsum([codebooks[0].shape[1] for codebooks in specific])[:-1]
    residuals = np.split(above.residual, ends, axis=1)
    unique = []
    for residual, codebooks, codes in zip(residuals, specific, specific_codes, strict=True):
        codes = _encode_unsettled(above.settled, residual, codebooks, codes)
        unique.append(_make_unique(Descent(above.node, residual, codebooks, codes, above.settled)))
    return above.codes, unique


def check_room(items: int, sizes: Sequence[int]) -> None:
    """Raise UserError when levels of these ``sizes`` offer fewer identifiers than there are items."""
    room = math.prod(sizes)
    if room < items:
        levels = (
            f"{len(sizes)} levels of {sizes[0]}" if len(set(sizes)) == 1 else f"levels of {', '.join(map(str, sizes))}"
        )
        raise UserError(
            f"identifiers: {levels} codes give {room:,} identifiers for {items:,} items; raise codebook_size, "
            "shared_levels or specific_levels"
        )


def _make_unique(descent: Descent) -> np.ndarray:
    """Make the codes [n, L] of a descent unique, given nodes that have room for their items."""
    claims = _keepers(descent, descent.codes[:, :0])
    last = descent.codebooks[-1]
    above = _rebalance(
        replace(descent, codebooks=descent.codebooks[:-1], codes=descent.codes[:, :-1]), len(last), claims
    )
    code = _encode_unsettled(above.settled, above.residual, [last], descent.codes[:, -1:])[:, 0]
    return np.column_stack([above.codes, _place(above, last, code)])


def _keepers(descent: Descent, further: np.ndarray) -> np.ndarray:
    """Mark one settled item of each identifier, the best quantized one [n]; rebalancing leaves it in place.

    ``further`` [n, any] are codes of levels below those of ``descent``.
    """
    residual = descent.residual.copy()
    for codebook, code in zip(descent.codebooks, descent.codes.T, strict=True):
        residual -= codebook[code]
    identifier = _descend(_descend(descent.node, descent.codes), further)
    order = np.lexsort((np.einsum("nd,nd->n", residual, residual), ~descent.settled, identifier))
    _, first = np.unique(identifier[order], return_index=True)
    keeper = np.zeros(len(order), dtype=bool)
    keeper[order[first]] = True
    keeper &= descent.settled
    return keeper


# ---------------------------------------------------------------------------------------------------------- rebalance


def _rebalance(descent: Descent, room_below: int, claims: np.ndarray) -> Descent:
    """Move items so that no node at the end of the descent holds more than ``room_below`` of them.

    Items with lower ``claims`` [n] go first. Returns the nodes at that end, the residuals to quantize
    there, the codes, and which items are still settled.
    """
    node, residual = descent.node, descent.residual
    codes, settled = descent.codes.copy(), descent.settled.copy()
    for level, codebook in enumerate(descent.codebooks):
        room = room_below * math.prod(map(len, descent.codebooks[level + 1 :]))
        leaving, target = _overflow(node, residual, codebook, codes[:, level], room, claims)
        if len(leaving):
            settled[leaving] = False
            codes[leaving, level] = target
            codes[leaving, level + 1 :] = _encode(residual[leaving] - codebook[target], descent.codebooks[level + 1 :])
        node = _descend(node, codes[:, level : level + 1])
        residual = residual - codebook[codes[:, level]]
    return Descent(node, residual, descent.codebooks[:0], codes, settled)


def _overflow(
    node: np.ndarray, residual: np.ndarray, codebook: np.ndarray, code: np.ndarray, room: int, claims: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the items that must leave their child node for a sibling, and the codes of these siblings."""
    nodes, place = np.unique(node, return_inverse=True)
    size = len(codebook)
    child, counts = np.unique(place * size + code, return_counts=True)
    full = child[counts > room]
    if not len(full):
        return full, full
    by_node = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[by_node], np.arange(len(nodes) + 1))
    leaving, targets = [], []
    for parent in np.unique(full // size):
        members = by_node[starts[parent] : starts[parent + 1]]
        occupancy = np.bincount(code[members], minlength=size)
        free = np.maximum(room - occupancy, 0)
        for crowded in np.flatnonzero(occupancy > room).tolist():
            crowd = members[code[members] == crowded]
            go = crowd[_dearest_last(residual[crowd], codebook, crowded, free > 0, claims[crowd])[: len(crowd) - room]]
            leaving.append(go)
            targets.append(_seat(residual[go], codebook, free))
    return np.concatenate(leaving), np.concatenate(targets)


def _dearest_last(
    residual: np.ndarray, codebook: np.ndarray, code: int, open_codes: np.ndarray, claims: np.ndarray
) -> np.ndarray:
    """Order items leaving ``code``: fewest claims first, then least added distortion."""
    added = np.empty(len(residual), dtype=np.float32)
    for rows in row_blocks(len(residual), len(codebook), _DISTANCES):
        distance = _distances(residual[rows], codebook)
        added[rows] = distance[:, open_codes].min(axis=1) - distance[:, code]
    return np.lexsort((added, claims))


def _seat(residual: np.ndarray, codebook: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Assign codes to items [n]: each tries its nearest code with places left; a code accepts the nearest items first.

    ``free`` [K] counts the places of each code, at least n in all, and is reduced by those taken.
    """
    target = np.empty(len(residual), dtype=np.int64)
    for rows in row_blocks(len(residual), len(codebook), _DISTANCES):
        distance = _distances(residual[rows], codebook)
        preference = np.argsort(distance, axis=1, kind="stable")
        waiting = np.arange(len(distance))
        tried = np.zeros(len(distance), dtype=np.int64)
        while len(waiting):
            choice = preference[waiting, tried[waiting]]
            order = np.lexsort((distance[waiting, choice], choice))
            sorted_choice = choice[order]
            turn = np.arange(len(order)) - np.searchsorted(sorted_choice, sorted_choice)
            taken = turn < free[sorted_choice]
            seated = order[taken]
            target[rows.start + waiting[seated]] = choice[seated]
            free -= np.bincount(choice[seated], minlength=len(free))
            waiting = np.sort(waiting[order[~taken]])
            tried[waiting] += 1
    return target


# -------------------------------------------------------------------------------------------------------------- place


def _place(descent: Descent, codebook: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Choose last codes [n] that are unique within each node; a node has at most K items.

    An item alone on its code stays. The others of a node, and the unsettled, get the free codes and the codes they
    collide on, by an assignment in which as many items as possible keep their code and squared distances are least.
    """
    size = len(codebook)
    _, cell = np.unique(descent.node * size + code, return_inverse=True)
    fixed = descent.settled & (np.bincount(cell, weights=descent.settled)[cell] == 1)
    moving = np.flatnonzero(~fixed)
    moving = moving[np.argsort(descent.node[moving], kind="stable")]
    nodes, starts = np.unique(descent.node[moving], return_index=True)
    bounds = np.append(starts, len(moving))

    staying = np.flatnonzero(fixed & np.isin(descent.node, nodes))
    staying = staying[np.argsort(descent.node[staying], kind="stable")]
    group = np.searchsorted(nodes, descent.node[staying])

    placed = code.copy()
    for first, last in _group_blocks(bounds, size):
        begin = bounds[first]
        distance = _distances(descent.residual[moving[begin : bounds[last]]], codebook)
        block = slice(*np.searchsorted(group, [first, last]))
        free = np.ones((last - first, size), dtype=bool)
        free[group[block] - first, code[staying[block]]] = False
        for number in range(first, last):
            rows = slice(bounds[number], bounds[number + 1])
            items, columns = moving[rows], np.flatnonzero(free[number - first])
            placed[items] = _assign(
                distance[rows.start - begin : rows.stop - begin], columns, code[items], descent.settled[items]
            )
    return placed


def _assign(distance: np.ndarray, columns: np.ndarray, code: np.ndarray, settled: np.ndarray) -> np.ndarray:
    """Assign different codes out of ``columns`` to the rows of ``distance`` [m, K]: most kept first, then least sum."""
    cost = distance[:, columns].astype(np.float64)
    cost -= cost.min(axis=1, keepdims=True)
    # One kept code outweighs any sum of distances, so the number of moves is minimized first.
    bonus = (len(cost) + 1) * (cost.max() or 1.0)
    cost[np.flatnonzero(settled), np.searchsorted(columns, code[settled])] -= bonus
    assigned: np.ndarray = columns[linear_sum_assignment(_eased(cost))[1][: len(cost)]]
    return assigned


def _eased(cost: np.ndarray) -> np.ndarray:
    """Return an assignment problem with the same solution whose first rows are those of ``cost`` [m, n], m <= n.

    Near-copies that fill a node are the solver's worst case: all prefer the same codes in the same order. With a row
    for every column, any constant may be subtracted from a column; subtracting its mean leaves such items little to
    contend for (measured at 1,024 codes: 2 to 5 times faster). It does not pay off where many columns stay free.
    """
    rows, columns = cost.shape
    if rows < _NEARLY_FULL * columns:
        return cost
    square = np.zeros((columns, columns))
    square[:rows] = cost
    square -= cost.mean(axis=0)
    square -= square.min(axis=1, keepdims=True)
    return square


# ------------------------------------------------------------------------------------------------------------ helpers


def _descend(node: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Number the nodes reached from ``node`` [n] by ``codes`` [n, L], densely so that numbers never overflow."""
    for code in codes.T:
        _, node = np.unique(node * (int(code.max(initial=0)) + 1) + code, return_inverse=True)
    return node


def _distances(residual: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Compute the squared distance of every row to every code [n, K], less the squared norm of the row."""
    distance: np.ndarray = residual @ (-2.0 * codebook.T)
    distance += np.einsum("kd,kd->k", codebook, codebook)
    return distance


def _encode(residual: np.ndarray, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    """Choose nearest codes [n, L], level by level (Eq. 3, 4)."""
    codes = np.empty((len(residual), len(codebooks)), dtype=np.int64)
    for rows in row_blocks(len(residual), max(map(len, codebooks), default=1), _DISTANCES):
        block = residual[rows]
        for level, codebook in enumerate(codebooks):
            codes[rows, level] = _distances(block, codebook).argmin(axis=1)
            block = block - codebook[codes[rows, level]]
    return codes


def _encode_unsettled(
    settled: np.ndarray, residual: np.ndarray, codebooks: Sequence[np.ndarray], codes: np.ndarray
) -> np.ndarray:
    """Return ``codes`` [n, L], encoded anew for items that left the nodes their codes were computed on."""
    codes = codes.copy()
    codes[~settled] = _encode(residual[~settled], codebooks)
    return codes


def _group_blocks(bounds: np.ndarray, width: int) -> Iterator[tuple[int, int]]:
    """Yield runs of groups (first, one past the last) whose rows together are at most `_DISTANCES / width`."""
    step = max(1, _DISTANCES // width)
    first = 0
    while first < len(bounds) - 1:
        last = int(np.searchsorted(bounds, bounds[first] + step, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last

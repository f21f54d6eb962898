"""Free identifiers of new items: unique by property, nearest where free, and refused when there are too few."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.errors import UserError
from gensar_core.identifiers.free_identifiers import free_codes

#: Shared levels, and the sizes of all levels of two sides.
SHAPES = [(0, (2, 3)), (1, (2, 3)), (1, (2, 2, 2)), (2, (3, 2)), (2, (2, 2, 3))]


def codebooks(rng: np.random.Generator, shared: int, sizes: tuple[int, ...]) -> tuple[list, list]:
    return (
        [rng.standard_normal((size, 4)) for size in sizes[:shared]],
        [[rng.standard_normal((size, 2)) for size in sizes[shared:]] for _ in range(2)],
    )


def taken_rows(rng: np.random.Generator, shared: int, sizes: tuple[int, ...], items: int) -> list[np.ndarray]:
    """Different rows of each side that agree in the shared levels."""
    leaves = np.array(list(itertools.product(*map(range, sizes))))
    first = rng.permutation(leaves)[:items]
    second = first.copy()
    # Within a node of the shared levels, the other side takes other leaves.
    for node in np.unique(first[:, :shared], axis=0):
        mine = np.flatnonzero((first[:, :shared] == node).all(axis=1))
        inside = leaves[(leaves[:, :shared] == node).all(axis=1)]
        second[mine] = rng.permutation(inside)[: len(mine)]
    return [first, second]


@settings(max_examples=60)
@given(st.sampled_from(SHAPES), st.integers(0, 10_000), st.data())
def test_all_identifiers_differ_up_to_the_last_free_one(shape, seed, data) -> None:
    shared, sizes = shape
    rng, room = np.random.default_rng(seed), int(np.prod(sizes))
    old = data.draw(st.integers(0, room - 1))
    new = data.draw(st.integers(1, room - old))
    above, below = codebooks(rng, shared, sizes)
    taken = taken_rows(rng, shared, sizes, old)
    # Equal latents are the worst case: all prefer the same leaf.
    latents = np.tile(rng.standard_normal(4), (new, 1))
    found = free_codes(latents, above, below, taken)
    for before, after in zip(taken, found, strict=True):
        rows = np.concatenate([before, after])
        assert len(np.unique(rows, axis=0)) == old + new
        assert ((rows >= 0) & (rows < sizes)).all()
    assert np.array_equal(found[0][:, :shared], found[1][:, :shared])


def test_an_item_takes_its_nearest_codes_where_they_are_free_and_the_next_nearest_where_not() -> None:
    shared, specific = [np.array([[0.0], [10.0]])], [[np.array([[0.0], [1.0], [3.0]])]]
    latents = np.array([[10.9], [10.9], [10.9], [10.9]])
    (found,) = free_codes(latents, shared, specific, [np.array([[0, 0]])])
    # 10.9 leaves 0.9 of 10, whose codes are 1, then 0, then 3; the fourth item leaves the full node for 0, next to 3.
    assert found.tolist() == [[1, 1], [1, 0], [1, 2], [0, 2]]


def test_items_are_placed_in_order_so_more_of_them_leave_the_first_ones_alone() -> None:
    rng = np.random.default_rng(0)
    above, below = codebooks(rng, 1, (3, 4))
    taken, latents = taken_rows(rng, 1, (3, 4), 4), rng.standard_normal((8, 4))
    few, all_of_them = (free_codes(latents[:count], above, below, taken) for count in (3, 8))
    for one, other in zip(few, all_of_them, strict=True):
        assert np.array_equal(one, other[:3])


def test_too_many_items_are_refused_with_the_number_that_fits() -> None:
    rng = np.random.default_rng(0)
    above, below = codebooks(rng, 1, (2, 3))
    with pytest.raises(UserError, match="give 6 identifiers, and 4 are taken: 2 of the 3 new items fit"):
        free_codes(np.zeros((3, 4)), above, below, taken_rows(rng, 1, (2, 3), 4))

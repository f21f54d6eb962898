"""Unique identifiers: proofs by property, minimality against brute force, and adversarial data sets."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.errors import UserError
from gensar_core.identifiers.unique import unique_codes


def greedy(residual: np.ndarray, codebooks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Nearest codes, level by level, and the residual after the last one."""
    codes = np.zeros((len(residual), len(codebooks)), dtype=np.int64)
    residual = residual.astype(np.float64)
    for level, codebook in enumerate(codebooks):
        codes[:, level] = ((residual[:, None, :] - codebook[None]) ** 2).sum(axis=2).argmin(axis=1)
        residual = residual - codebook[codes[:, level]]
    return codes, residual


class Problem:
    """Latents, random codebooks and nearest codes of items; `assign` makes the codes unique."""

    def __init__(self, latents: np.ndarray, shared: int, sizes: Sequence[int], sides: int = 2, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.latents, self.sizes = latents.astype(np.float32), sizes

        def codebooks(sizes: Sequence[int], width: int, scale: float) -> list[np.ndarray]:
            return [(scale * rng.standard_normal((size, width))).astype(np.float32) for size in sizes]

        self.shared = codebooks(sizes[:shared], latents.shape[1], 1.0)
        self.specific = [codebooks(sizes[shared:], latents.shape[1] // sides, 0.5) for _ in range(sides)]
        self.shared_codes, residual = greedy(self.latents, self.shared)
        parts = np.split(residual, sides, axis=1)
        self.specific_codes = [greedy(part, books)[0] for part, books in zip(parts, self.specific, strict=True)]

    def raw(self) -> list[np.ndarray]:
        return [np.concatenate([self.shared_codes, codes], axis=1) for codes in self.specific_codes]

    def assign(self) -> list[np.ndarray]:
        raw = self.raw()
        shared, specific = unique_codes(
            self.latents, self.shared, self.specific, self.shared_codes, self.specific_codes
        )
        np.testing.assert_array_equal(raw, self.raw(), err_msg="the given codes were changed")
        return [np.concatenate([shared, codes], axis=1) for codes in specific]


def distinct(identifiers: np.ndarray) -> int:
    return len(np.unique(identifiers, axis=0))


def check_proof(problem: Problem, minimal: bool = True) -> list[np.ndarray]:
    """Unique, in range, sides agree on the shared codes; moves are the fewest; a non-colliding item never moves."""
    after = problem.assign()
    for old, new in zip(problem.raw(), after, strict=True):
        assert distinct(new) == len(new)
        assert new.min() >= 0
        assert (new < problem.sizes).all()
        shared = slice(len(problem.shared))
        np.testing.assert_array_equal(new[:, shared], after[0][:, shared])
        moved = (old != new).any(axis=1)
        assert moved.sum() >= len(old) - distinct(old)
        if minimal:
            # Exactly one item of each identifier stays.
            _, group, size = np.unique(old, axis=0, return_inverse=True, return_counts=True)
            assert (np.bincount(group.ravel()[~moved], minlength=len(size)) == 1).all()
    return after


@settings(max_examples=100)
@given(
    sizes=st.one_of(st.just([4, 4, 4]), st.lists(st.integers(2, 6), min_size=2, max_size=4)),
    shared=st.integers(0, 4),
    fill=st.floats(0.01, 1.0),
    distinct_vectors=st.integers(1, 20),
    sides=st.sampled_from([1, 2]),
    seed=st.integers(0, 10_000),
)
def test_any_items_that_fit_get_unique_identifiers(
    sizes: list[int], shared: int, fill: float, distinct_vectors: int, sides: int, seed: int
) -> None:
    """Heavy duplicates in a small code tree, up to a completely full one."""
    rng = np.random.default_rng(seed)
    items = max(1, int(fill * math.prod(sizes)))
    vectors = rng.standard_normal((distinct_vectors, 2 * sides))
    problem = Problem(vectors[rng.integers(distinct_vectors, size=items)], shared, sizes, sides, seed)
    # An overflow of a shared node must move an item on both sides, perhaps against one side's minimum.
    occupancy = np.unique(problem.shared_codes, axis=0, return_counts=True)[1].max()
    overflow = sides == 2 and shared < len(sizes) and occupancy > math.prod(sizes[shared:])
    check_proof(problem, minimal=not overflow)


def test_a_full_code_tree_is_filled_completely() -> None:
    for identifiers in check_proof(Problem(np.zeros((4**3, 4)), 1, [4] * 3), minimal=False):
        assert sorted(map(tuple, identifiers.tolist())) == list(itertools.product(range(4), repeat=3))


@pytest.mark.parametrize("shared", [0, 1, 2, 4])
def test_thousands_of_copies_leave_their_shared_node_only_when_it_is_full(shared: int) -> None:
    problem = Problem(np.ones((5000, 8)), shared, [64] * 4)
    after = check_proof(problem, minimal=shared != 2)
    stayed = (after[0][:, :shared] == problem.shared_codes).all(axis=1).sum()
    # One node of two shared levels has room for 64^2; all four levels shared have a node for each item.
    assert stayed == {0: 5000, 1: 5000, 2: 64**2, 4: 1}[shared]


def test_copies_open_no_more_prefixes_than_they_need() -> None:
    problem = Problem(np.ones((1000, 8)), 2, [64] * 4)
    for identifiers in check_proof(problem):
        np.testing.assert_array_equal(identifiers[:, :2], problem.shared_codes)
        assert distinct(identifiers[:, :3]) == math.ceil(1000 / 64)


@pytest.mark.parametrize("items", [3, 4, 5])
@pytest.mark.parametrize("seed", range(12))
def test_the_last_level_has_the_best_of_all_assignments(seed: int, items: int) -> None:
    """Brute force over all assignments of one node: fewest moves first, then the least sum of squared distances."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((3, 2))
    latents = vectors[rng.integers(3, size=items)] + 0.05 * rng.standard_normal((items, 2))
    problem = Problem(latents, 0, [5], sides=1, seed=seed)
    codebook, old = problem.specific[0][0].astype(np.float64), problem.specific_codes[0][:, 0]
    distance = ((problem.latents[:, None, :].astype(np.float64) - codebook[None]) ** 2).sum(axis=2)

    def cost(codes: Sequence[int]) -> tuple[int, float]:
        return int((codes != old).sum()), distance[np.arange(items), codes].sum()

    best = min(cost(np.array(codes)) for codes in itertools.permutations(range(5), items))
    assert cost(problem.assign()[0][:, 0]) == pytest.approx(best, rel=1e-5)


def test_an_overfull_prefix_sends_out_the_items_nearest_to_another() -> None:
    # First level: codes at 0, 10, 30, 100; five items at 0.0 .. 0.35 have code 0, which has room for four.
    specific = np.array([[[0.0], [10.0], [30.0], [100.0]], [[0.0], [0.1], [0.2], [0.3]]], dtype=np.float32)
    latents = np.array([[0.0], [0.1], [0.2], [0.3], [0.35]], dtype=np.float32)
    codes, _ = greedy(latents, specific)
    assert codes.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 3]]
    _, (unique,) = unique_codes(latents, [], [specific], np.zeros((5, 0), dtype=np.int64), [codes])
    # Items 3 and 4 collide; 3 lies on its code exactly and stays, 4 goes to the node at 10 and there to code 0.
    assert unique.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]


@pytest.mark.parametrize(
    ("items", "sizes", "message"),
    [
        (9, [2, 2, 2], "3 levels of 2 codes give 8 identifiers for 9 items"),
        (13, [3, 4], "levels of 3, 4 codes give 12 identifiers for 13 items"),
    ],
)
def test_more_items_than_identifiers_are_refused(items: int, sizes: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Problem(np.zeros((items, 2)), 0, sizes, sides=1).assign()

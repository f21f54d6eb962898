"""Unique identifiers: proofs by property, minimality against brute force, and adversarial catalogues."""

from __future__ import annotations

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
    """Nearest codes, level by level, and what is left."""
    codes = np.zeros((len(residual), len(codebooks)), dtype=np.int64)
    left = residual.astype(np.float64)
    for level, codebook in enumerate(codebooks):
        codes[:, level] = ((left[:, None, :] - codebook[None]) ** 2).sum(axis=2).argmin(axis=1)
        left = left - codebook[codes[:, level]]
    return codes, left


class Experiments:
    """Latents, random codebooks and nearest codes of a catalogue; `assign` makes them unique."""

    def __init__(
        self,
        latents: np.ndarray,
        levels: tuple[int, int],
        codes: int | list[int],
        sides: int = 2,
        seed: int = 0,
    ) -> None:
        source = np.random.default_rng(seed)
        self.latents = latents.astype(np.float32)
        self.sizes = [codes] * sum(levels) if isinstance(codes, int) else codes
        width = latents.shape[1] // sides

        def codebooks(sizes: list[int], width: int) -> list[np.ndarray]:
            return [source.standard_normal((size, width)).astype(np.float32) for size in sizes]

        self.shared = codebooks(self.sizes[: levels[0]], latents.shape[1])
        own = self.sizes[levels[0] :]
        self.specific = [[book * np.float32(0.5) for book in codebooks(own, width)] for _ in range(sides)]
        self.shared_codes, left = greedy(self.latents, self.shared)
        parts = np.split(left, sides, axis=1)
        self.own_codes = [greedy(part, books)[0] for part, books in zip(parts, self.specific, strict=True)]

    def assign(self) -> list[np.ndarray]:
        before = self.shared_codes.copy(), [own.copy() for own in self.own_codes]
        shared, own = unique_codes(self.latents, self.shared, self.specific, self.shared_codes, self.own_codes)
        np.testing.assert_array_equal(before[0], self.shared_codes)
        for kept, given_codes in zip(before[1], self.own_codes, strict=True):
            np.testing.assert_array_equal(kept, given_codes)
        return [np.concatenate([shared, codes], axis=1) for codes in own]

    def raw(self) -> list[np.ndarray]:
        return [np.concatenate([self.shared_codes, own], axis=1) for own in self.own_codes]


def distinct(identifiers: np.ndarray) -> int:
    return len({tuple(row) for row in identifiers.tolist()})


def check_proof(catalogue: Experiments, minimal: bool = True) -> list[np.ndarray]:
    """Unique, in range, sides agree on the shared codes; moves are the fewest; a non-colliding item never moves."""
    after = catalogue.assign()
    levels = len(catalogue.shared)
    for old, new in zip(catalogue.raw(), after, strict=True):
        assert distinct(new) == len(new)
        assert new.min() >= 0
        assert (new < catalogue.sizes).all()
        np.testing.assert_array_equal(new[:, :levels], after[0][:, :levels])
        moved = (old != new).any(axis=1)
        assert moved.sum() >= len(old) - distinct(old)
        if minimal:
            assert moved.sum() == len(old) - distinct(old)
            _, group, size = np.unique(old, axis=0, return_inverse=True, return_counts=True)
            assert not moved[size[group.ravel()] == 1].any()
            # Exactly one of each colliding group stays.
            stayed = np.bincount(group.ravel()[~moved], minlength=len(size))
            assert (stayed == 1).all()
    return after


@settings(max_examples=60, deadline=None)
@given(
    items=st.integers(1, 64),
    distinct_vectors=st.integers(1, 20),
    levels=st.sampled_from([(0, 3), (1, 2), (2, 1), (3, 0), (0, 4), (2, 2)]),
    sides=st.sampled_from([1, 2]),
    seed=st.integers(0, 10_000),
)
def test_any_catalogue_that_fits_gets_unique_identifiers(
    items: int, distinct_vectors: int, levels: tuple[int, int], sides: int, seed: int
) -> None:
    """Heavy duplicates in a space of 4^3 or 4^4 identifiers, down to a completely full one."""
    source = np.random.default_rng(seed)
    few = source.standard_normal((distinct_vectors, 2 * sides))
    catalogue = Experiments(few[source.integers(distinct_vectors, size=items)], levels, codes=4, sides=sides, seed=seed)
    # An overflow of a shared node must move an item on both sides, perhaps against one side's minimum.
    room = 4 ** levels[1]
    overflow = (
        sides == 2
        and levels[1] > 0
        and np.unique(catalogue.shared_codes, axis=0, return_counts=True)[1].max(initial=0) > room
    )
    check_proof(catalogue, minimal=not overflow)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 6), min_size=2, max_size=4),
    shared=st.integers(0, 4),
    share=st.floats(0.05, 1.0),
    distinct_vectors=st.integers(1, 6),
    sides=st.sampled_from([1, 2]),
    seed=st.integers(0, 10_000),
)
def test_levels_of_different_sizes_get_unique_identifiers_too(
    sizes: list[int], shared: int, share: float, distinct_vectors: int, sides: int, seed: int
) -> None:
    shared = min(shared, len(sizes))
    source = np.random.default_rng(seed)
    items = max(1, int(share * math.prod(sizes)))
    few = source.standard_normal((distinct_vectors, 2 * sides))
    latents = few[source.integers(distinct_vectors, size=items)]
    levels = (shared, len(sizes) - shared)
    check_proof(Experiments(latents, levels, codes=sizes, sides=sides, seed=seed), minimal=False)


def test_a_full_space_is_filled_completely() -> None:
    catalogue = Experiments(np.zeros((4**3, 4)), levels=(1, 2), codes=4)
    for identifiers in check_proof(catalogue, minimal=False):
        expected = list(itertools.product(range(4), repeat=3))
        assert sorted(map(tuple, identifiers.tolist())) == expected


def test_thousands_of_copies_of_one_vector() -> None:
    catalogue = Experiments(np.ones((5000, 8)), levels=(2, 2), codes=64)
    after = check_proof(catalogue, minimal=False)
    # 64^2 fit below the shared node they all stand in: 4,096 stay there, 904 go to another.
    stayed = (after[0][:, :2] == catalogue.shared_codes).all(axis=1).sum()
    assert stayed == 64**2


def test_copies_that_fit_below_their_shared_node_keep_their_shared_codes() -> None:
    catalogue = Experiments(np.ones((1000, 8)), levels=(2, 2), codes=64)
    after = check_proof(catalogue)
    for identifiers in after:
        np.testing.assert_array_equal(identifiers[:, :2], catalogue.shared_codes)
        # No more prefixes are opened than the room needs: 1,000 items in nodes of 64.
        assert len(np.unique(identifiers[:, :3], axis=0)) == -(-1000 // 64)


def test_adversarial_clusters_around_code_sums() -> None:
    source = np.random.default_rng(5)
    centers = source.standard_normal((7, 8))
    latents = np.repeat(centers, 300, axis=0) + 1e-6 * source.standard_normal((2100, 8))
    check_proof(Experiments(latents, levels=(1, 2), codes=32, seed=2))


def test_items_that_do_not_collide_are_left_alone() -> None:
    latents = np.random.default_rng(0).standard_normal((40, 4)) * 3
    catalogue = Experiments(latents, levels=(1, 2), codes=32)
    keep = np.unique(np.concatenate(catalogue.raw(), axis=1)[:, :3], axis=0, return_index=True)[1]
    alone = Experiments(latents[keep], levels=(1, 2), codes=32)
    for old, new in zip(alone.raw(), alone.assign(), strict=True):
        if distinct(old) == len(old):
            np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("items", [3, 4, 5])
@pytest.mark.parametrize("seed", range(12))
def test_last_level_assignment_is_the_best_of_all(seed: int, items: int) -> None:
    """Brute force over all assignments of one node: fewest moves first, then the least sum of squared distances."""
    source = np.random.default_rng(seed)
    few = source.standard_normal((3, 2))
    latents = few[source.integers(3, size=items)] + 0.05 * source.standard_normal((items, 2))
    catalogue = Experiments(latents, levels=(0, 1), codes=5, sides=1, seed=seed)
    codebook, old = catalogue.specific[0][0].astype(np.float64), catalogue.own_codes[0][:, 0]
    cost = ((catalogue.latents[:, None, :].astype(np.float64) - codebook[None]) ** 2).sum(axis=2)

    def value(codes: tuple[int, ...]) -> tuple[int, float]:
        moves = sum(code != before for code, before in zip(codes, old, strict=True))
        return moves, sum(cost[item, code] for item, code in enumerate(codes))

    # Only moves within the rule are compared: items alone on their code stay, which the least number of moves implies.
    best = min(value(codes) for codes in itertools.permutations(range(5), items))
    found = value(tuple(catalogue.assign()[0][:, 0]))
    assert found[0] == best[0]
    assert found[1] == pytest.approx(best[1], rel=1e-5)


def test_an_overfull_prefix_sends_out_the_items_nearest_to_another() -> None:
    # First level: codes at 0, 10, 30, 100; five items at 0.0 .. 0.4 stand at code 0, which has room for four.
    specific = np.array([[[0.0], [10.0], [30.0], [100.0]], [[0.0], [0.1], [0.2], [0.3]]], dtype=np.float32)
    latents = np.array([[0.0], [0.1], [0.2], [0.3], [0.35]], dtype=np.float32)
    codes, _ = greedy(latents, specific)
    assert codes.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 3]]
    _, (found,) = unique_codes(latents, [], [specific], np.zeros((5, 0), dtype=np.int64), [codes])
    # Items 3 and 4 collide; 3 lies on its code exactly and stays, 4 goes to the node at 10 and there to code 0.
    assert found.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]


def test_too_many_items_are_refused_with_the_numbers() -> None:
    catalogue = Experiments(np.zeros((9, 2)), levels=(0, 3), codes=2, sides=1)
    with pytest.raises(UserError, match=r"3 levels of 2 codes give 8 identifiers for 9 items"):
        catalogue.assign()


def test_too_many_items_for_levels_of_different_sizes_are_refused_with_the_numbers() -> None:
    catalogue = Experiments(np.zeros((13, 2)), levels=(0, 2), codes=[3, 4], sides=1)
    with pytest.raises(UserError, match=r"levels of 3, 4 codes give 12 identifiers for 13 items"):
        catalogue.assign()


def test_the_same_input_gives_the_same_codes() -> None:
    latents = np.repeat(np.random.default_rng(1).standard_normal((10, 4)), 30, axis=0)
    first, second = (Experiments(latents, levels=(1, 2), codes=8).assign() for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)

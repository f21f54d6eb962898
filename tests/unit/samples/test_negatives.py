"""Keyed draws and popularity negatives: known numbers, laws, and independence of row order."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.runtime.hashing import draws, row_keys, uniform
from gensar_core.samples import popularity
from gensar_core.samples.popularity import PopularityPool, popularity_negatives
from tests.support.ragged import ragged


def keys_of(rows):
    return row_keys(3, np.asarray(rows))


def test_draws_are_those_of_splitmix64():
    # The first outputs of the published generator from state 0.
    assert draws(np.zeros(1, dtype=np.uint64), 3).tolist() == [
        [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    ]


def test_row_keys_depend_on_seed_values_and_column_order_and_nothing_else():
    a, b = np.array([1, 2, 3]), np.array([7, 8, 9])
    keys = row_keys(5, a, b)
    assert row_keys(5, a[::-1], b[::-1]).tolist() == keys[::-1].tolist()
    assert row_keys(5, a.astype(np.int32), b.astype(np.int16)).tolist() == keys.tolist()
    others = [row_keys(6, a, b), row_keys(5, b, a), row_keys(5, a), row_keys(5, a, b + 1), row_keys(5, a, -b)]
    assert len({*keys.tolist(), *itertools.chain.from_iterable(o.tolist() for o in others)}) == 3 + 5 * 3


def test_uniform_numbers_fill_the_open_interval():
    ends = uniform(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert 0.0 < ends[0] < 1e-15
    assert 1.0 - 1e-15 < ends[1] < 1.0
    numbers = uniform(draws(keys_of(np.arange(1000)), 100))
    assert abs(numbers.mean() - 0.5) < 5 * np.sqrt(1 / 12 / numbers.size)


items = st.lists(st.integers(0, 30), max_size=120)
rows_taken = st.lists(st.lists(st.integers(0, 35), unique=True, max_size=20), min_size=1, max_size=6)


@settings(max_examples=150)
@given(items, rows_taken, st.integers(1, 40))
def test_negatives_are_distinct_not_taken_and_as_many_as_exist(clicked, taken, count):
    pool = PopularityPool.from_clicks(np.array(clicked, dtype=np.int32))
    negatives = popularity_negatives(pool, keys_of(np.arange(len(taken))), ragged(taken), count)
    assert negatives.shape == (len(taken), count)
    for row, row_taken in zip(negatives.tolist(), taken, strict=True):
        drawn = [item for item in row if item >= 0]
        drawable = set(clicked) - set(row_taken)
        assert row == drawn + [-1] * (count - len(drawn))
        assert len(set(drawn)) == len(drawn) == min(count, len(drawable))
        assert set(drawn) <= drawable


@settings(max_examples=60)
@given(items, rows_taken, st.integers(1, 40), st.integers(1, 40), st.randoms(use_true_random=False))
def test_a_rows_negatives_do_not_depend_on_the_other_rows(clicked, taken, count, cells, random):
    pool = PopularityPool.from_clicks(np.array(clicked, dtype=np.int32))
    keys = keys_of(np.arange(len(taken)))
    whole = popularity_negatives(pool, keys, ragged(taken), count)
    order = list(range(len(taken)))
    random.shuffle(order)
    some = np.array(order[: random.randint(1, len(order))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(popularity, "_CELLS", cells)
        part = popularity_negatives(pool, keys[some], ragged(taken).take(some), count)
    assert part.tolist() == whole[some].tolist()
    shuffled = PopularityPool.from_clicks(np.array(random.sample(clicked, len(clicked)), dtype=np.int32))
    assert popularity_negatives(shuffled, keys, ragged(taken), count).tolist() == whole.tolist()


def test_fewer_negatives_are_the_first_of_more():
    rng = np.random.default_rng(0)
    pool = PopularityPool.from_clicks((2000 * rng.random(50_000) ** 3).astype(np.int32))
    keys, taken = keys_of(np.arange(200)), ragged([[i, i + 1] for i in range(200)])
    many = popularity_negatives(pool, keys, taken, 99)
    assert popularity_negatives(pool, keys, taken, 4).tolist() == many[:, :4].tolist()
    assert (many >= 0).all()


def sequence_law(weights, length):
    """Probability of each ordered draw of distinct items without replacement, in proportion to the weights."""
    law = {}
    for sequence in itertools.permutations(weights, length):
        remaining, probability = dict(weights), 1.0
        for item in sequence:
            probability *= remaining[item] / sum(remaining.values())
            del remaining[item]
        law[sequence] = probability
    return law


@pytest.mark.parametrize("scarce", [0, 4, 10**6], ids=["item by item", "both ways", "draw by draw"])
def test_negatives_are_drawn_in_proportion_to_clicks(scarce, monkeypatch):
    # With any threshold, the law is that of drawing until three distinct items come up that are not taken.
    monkeypatch.setattr(popularity, "_SCARCE", scarce)
    weights, taken, rows = {0: 1, 1: 2, 2: 3, 3: 6}, {9: 8}, 60_000
    clicked = [item for item, count in {**weights, **taken}.items() for _ in range(count)]
    pool = PopularityPool.from_clicks(np.array(clicked, dtype=np.int32))
    negatives = popularity_negatives(pool, keys_of(np.arange(rows)), ragged([list(taken)] * rows), 3)
    counts = Counter(map(tuple, negatives.tolist()))
    law = sequence_law(weights, 3)
    assert set(counts) <= set(law)
    for sequence, probability in law.items():
        spread = np.sqrt(rows * probability * (1 - probability))
        assert abs(counts[sequence] - rows * probability) < 5 * spread, sequence

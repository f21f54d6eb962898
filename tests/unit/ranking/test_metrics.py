"""Ranks, HR and NDCG: values worked out by hand, and what must never happen with ties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensar_core.ranking.metrics import average_ranks, hit_rate, ndcg


def rank(*scores, present=None):
    """The rank of the first of some scores."""
    shown = np.array([present or [True] * len(scores)])
    (value,) = average_ranks(np.array([scores], dtype=np.float64), shown)
    return value


def test_ranks_by_hand():
    assert rank(0.5) == 1.0
    assert rank(0.9, 0.1, 0.2) == 1.0
    assert rank(0.1, 0.9, 0.2) == 3.0
    assert rank(0.5, 0.5, 0.1) == 1.5
    assert rank(0.5, 0.5, 0.5, 0.9) == 3.0
    assert rank(-math.inf, -math.inf, 0.0) == 2.5


def test_absent_candidates_do_not_count_whatever_stands_there():
    assert rank(0.5, 0.9, 0.5, present=[True, False, True]) == 1.5
    assert rank(0.5, math.nan, 0.1, present=[True, False, True]) == 1.0


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        rank(0.5, math.nan)
    with pytest.raises(ValueError, match="not a number"):
        rank(math.nan, 0.5)


@pytest.mark.parametrize("n", [2, 5, 100])
def test_equal_scores_are_never_a_hit_at_one(n):
    ranks = average_ranks(np.zeros((4, n)), np.ones((4, n), dtype=bool))
    assert ranks.tolist() == [(n + 1) / 2] * 4
    assert hit_rate(ranks, 1) == 0.0
    assert ndcg(ranks, 1) == 0.0


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_rank_is_the_mean_place_over_all_orders_of_ties_and_shuffling_changes_nothing(scores, random):
    target, others = scores[0], scores[1:]
    above = sum(score > target for score in others)
    ties = sum(score == target for score in others)
    places = [above + 1 + place for place in range(ties + 1)]
    shuffled = random.sample(others, len(others))
    assert rank(*scores) == rank(target, *shuffled) == sum(places) / len(places)


def test_hit_rate_by_hand():
    ranks = np.array([1.0, 1.5, 5.0, 5.5, 10.0, 40.0])
    assert hit_rate(ranks, 1) == pytest.approx(1 / 6)
    assert hit_rate(ranks, 5) == pytest.approx(3 / 6)
    assert hit_rate(ranks, 10) == pytest.approx(5 / 6)


def test_ndcg_by_hand():
    # 1 / log2(2) = 1, 1 / log2(4) = 1/2, 1 / log2(8) = 1/3, and nothing beyond k.
    ranks = np.array([1.0, 3.0, 7.0, 11.0])
    assert ndcg(ranks, 5) == pytest.approx((1 + 1 / 2) / 4)
    assert ndcg(ranks, 10) == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    assert ndcg(np.array([2.0]), 5) == pytest.approx(0.6309297535714575)
    assert ndcg(np.array([1.5]), 1) == 0.0


def test_no_samples_give_no_metric():
    assert math.isnan(hit_rate(np.zeros(0), 5))
    assert math.isnan(ndcg(np.zeros(0), 5))

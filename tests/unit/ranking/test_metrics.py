"""Ranks, HR and NDCG: values worked out by hand, and ties."""

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensar_core.ranking.metrics import (
    average_ranks,
    count_codes,
    gain_deviation,
    gains,
    hit_rate,
    mean_gain,
    ndcg,
    rank_codes,
)


def rank(*scores, present=None):
    """Return the rank of the first score."""
    mask = np.array([present or [True] * len(scores)])
    return average_ranks(np.array([scores], dtype=np.float64), mask).item()


@pytest.mark.parametrize(
    ("scores", "present", "expected"),
    [
        ((0.5,), None, 1.0),
        ((0.9, 0.1, 0.2), None, 1.0),
        ((0.1, 0.9, 0.2), None, 3.0),
        ((0.5, 0.5, 0.5, 0.9), None, 3.0),
        ((-math.inf, -math.inf, 0.0), None, 2.5),
        # Scores in places without a candidate do not count.
        ((0.5, 0.9, 0.5), [True, False, True], 1.5),
        ((0.5, math.nan, 0.1), [True, False, True], 1.0),
    ],
)
def test_ranks_by_hand(scores, present, expected):
    assert rank(*scores, present=present) == expected


def test_a_score_that_is_not_a_number_is_refused():
    for scores in ((0.5, math.nan), (math.nan, 0.5)):
        with pytest.raises(ValueError, match="not a number"):
            rank(*scores)


@pytest.mark.parametrize("n", [2, 5, 100])
def test_equal_scores_are_never_a_hit_at_one(n):
    ranks = average_ranks(np.zeros((4, n)), np.ones((4, n), dtype=bool))
    assert ranks.tolist() == [(n + 1) / 2] * 4
    assert hit_rate(ranks, 1) == 0.0
    assert ndcg(ranks, 1) == 0.0


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_rank_is_the_mean_place_over_all_orders_of_ties(scores, random):
    target, others = scores[0], scores[1:]
    above = sum(score > target for score in others)
    places = [above + 1 + place for place in range(scores.count(target))]
    shuffled = random.sample(others, len(others))
    assert rank(*scores) == rank(target, *shuffled) == sum(places) / len(places)


def test_metrics_by_hand():
    ranks = np.array([1.0, 1.5, 5.0, 5.5, 10.0, 40.0])
    assert [hit_rate(ranks, k) for k in (1, 5, 10)] == pytest.approx([1 / 6, 3 / 6, 5 / 6])
    # 1 / log2(2) = 1, 1 / log2(4) = 1/2, 1 / log2(8) = 1/3, and nothing beyond k.
    ranks = np.array([1.0, 3.0, 7.0, 11.0])
    assert [ndcg(ranks, k) for k in (1, 5, 10)] == pytest.approx([1 / 4, 1.5 / 4, (1.5 + 1 / 3) / 4])
    assert ndcg(np.array([2.0]), 5) == pytest.approx(0.6309297535714575)
    assert ndcg(np.array([1.5]), 1) == 0.0


def test_metrics_without_samples_are_nan():
    assert math.isnan(hit_rate(np.zeros(0), 5))
    assert math.isnan(ndcg(np.zeros(0), 5))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20))
def test_metrics_are_those_of_ir_measures(ranks):
    """Each target is the one relevant of twelve documents, at its rank."""
    lists = {f"{sample}": rank for sample, rank in enumerate(ranks)}
    relevant = {sample: {"target": 1} for sample in lists}
    scored = {
        sample: {"target" if place == rank else f"other{place}": -float(place) for place in range(1, 13)}
        for sample, rank in lists.items()
    }
    for k in (1, 5, 10):
        measures = {"hr": ir_measures.Success @ k, "recall": ir_measures.R @ k, "ndcg": ir_measures.nDCG @ k}
        found = ir_measures.calc_aggregate(measures.values(), relevant, scored)
        for name, measure in measures.items():
            assert gains(np.array(ranks, dtype=float), f"{name}@{k}").mean() == pytest.approx(found[measure])


HALVES = st.integers(2, 80).map(lambda half: half / 2)


@given(st.lists(st.one_of(HALVES, st.sampled_from([32_767.0, 32_767.5, 1e7, math.inf])), min_size=1, max_size=30))
def test_counts_of_coded_ranks_give_the_metrics_of_the_ranks(values):
    counts = count_codes(rank_codes(np.array(values)))
    for metric in ("hr@1", "hr@5", "ndcg@10", "recall@20", "ndcg@20_unseen"):
        of_targets = gains(np.array(values), metric)
        assert mean_gain(counts, metric) == pytest.approx(of_targets.mean(), abs=1e-12)
        assert gain_deviation(counts, metric) == pytest.approx(of_targets.std(), abs=1e-12)

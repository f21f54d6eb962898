"""Significance against SciPy, a plain bootstrap, and cases whose answer is plain."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gensar_core.evaluation.significance import bootstrap_interval, gains, paired_t, significance
from gensar_core.ranking.metrics import hit_rate, ndcg

RANKS = st.lists(st.integers(2, 60).map(lambda half: half / 2), min_size=2, max_size=40)


@settings(max_examples=30, deadline=None)
@given(RANKS)
def test_gains_average_to_the_metric(ranks):
    values = np.array(ranks)
    for k in (1, 5, 10):
        assert gains(values, f"hr@{k}").mean() == pytest.approx(hit_rate(values, k))
        assert gains(values, f"ndcg@{k}").mean() == pytest.approx(ndcg(values, k))


@settings(max_examples=30, deadline=None)
@given(RANKS, st.randoms(use_true_random=False))
def test_t_and_p_are_those_of_scipys_paired_test(ranks, random):
    one, two = np.array(ranks), np.array(random.sample(ranks, len(ranks)))
    t, p = paired_t(one - two)
    if np.ptp(one - two) > 0:
        expected = stats.ttest_rel(one, two)
        assert (t, p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    else:
        assert (t, p) == (0.0, 1.0)


def test_a_constant_difference_is_no_chance_and_none_is_all_chance():
    assert paired_t(np.full(9, 0.5)) == (math.inf, 0.0)
    assert paired_t(np.zeros(9)) == (0.0, 1.0)
    assert bootstrap_interval(np.full(9, 0.5)) == (0.5, 0.5)


def test_the_interval_is_that_of_resampling_target_by_target():
    random = np.random.default_rng(3)
    differences = random.choice([-1.0, 0.0, 0.0, 0.5, 1.0], size=400)
    plain = [random.choice(differences, 400).mean() for _ in range(4000)]
    low, high = bootstrap_interval(differences)
    assert low == pytest.approx(np.percentile(plain, 2.5), abs=0.01)
    assert high == pytest.approx(np.percentile(plain, 97.5), abs=0.01)
    assert (low, high) == bootstrap_interval(differences)


def table(task, method, position, ranks):
    samples = range(len(ranks))
    return pl.DataFrame(
        {"task": task, "method": method, "position": position, "sample_id": samples, "rank": np.array(ranks, float)}
    )


def test_best_and_runner_up_of_each_task():
    ranks = pl.concat(
        [
            table("rec", "weak", 0, [20] * 40),
            table("rec", "good", 1, [1] * 10 + [9] * 30),
            table("rec", "best", 2, [1] * 30 + [9] * 10),
            # Rows come in any order; targets are matched by their number.
            table("search", "one", 0, [1, 2, 3, 4]).reverse(),
            table("search", "two", 1, [4, 3, 2, 1]),
            table("search", "lone", 2, [50, 50, 50, 50]),
        ]
    )
    found = significance(ranks, ("hr@1", "hr@5"))
    rec, search = found.row(0, named=True), found.row(2, named=True)
    assert (rec["task"], rec["metric"], rec["best"], rec["runner_up"]) == ("rec", "hr@1", "best", "good")
    assert rec["difference"] == pytest.approx(0.5)
    expected = stats.ttest_rel([1] * 30 + [0] * 10, [1] * 10 + [0] * 30)
    assert (rec["t"], rec["p_value"]) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert 0.3 < rec["low"] < 0.5 < rec["high"] < 0.7
    assert (search["best"], search["runner_up"], search["difference"]) == ("one", "two", 0.0)
    assert search["p_value"] == 1.0


def test_a_lone_method_has_no_runner_up():
    assert significance(table("rec", "only", 0, [1, 2]), ("hr@1",)).is_empty()

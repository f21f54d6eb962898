"""Significance against SciPy, a plain bootstrap, and cases whose answer is plain."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gensar_core.config.tables import ComparisonSettings
from gensar_core.errors import UserError
from gensar_core.evaluation.significance import bootstrap_interval, gains, holm, paired_t, significance
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
@given(st.lists(st.sampled_from([-1.0, -0.4, 0.3, 0.5, 1.0]), min_size=20, max_size=60), st.integers(0, 50))
def test_t_and_p_are_those_of_scipys_paired_test(moved, zeros):
    differences = np.array(moved + [0.0] * zeros)
    t, p = paired_t(differences)
    if np.ptp(differences) > 0:
        expected = stats.ttest_rel(differences, np.zeros(len(differences)))
        assert (t, p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.4, 0.3, 0.5, 1.0]), min_size=1, max_size=9), st.integers(1, 3))
def test_of_few_differences_p_is_scipys_exact_permutation_test(moved, zeros):
    differences = np.array(moved + [0.0] * zeros)
    expected = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert paired_t(differences)[1] == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(
    ("moved", "zeros", "p"),
    [
        # Of 2^n choices of signs, all plus and all minus are as far from zero.
        (2, 0, 0.5),
        (5, 0, 1 / 16),
        (9, 0, 2 / 512),
        (40, 0, 2.0**-39),
        # Targets that no row moves tell nothing; a t-test has p = 0.025 for five.
        (5, 5000, 1 / 16),
        (1, 5000, 1.0),
    ],
)
def test_equal_differences_are_as_much_chance_as_their_number_allows(moved, zeros, p):
    for sign in (1.0, -1.0):
        differences = np.array([sign * 0.5] * moved + [0.0] * zeros)
        t, found = paired_t(differences)
        assert found == pytest.approx(p)
        assert t == (sign * math.inf if not zeros else pytest.approx(stats.ttest_1samp(differences, 0.0).statistic))


def test_no_difference_is_all_chance_and_no_p_is_zero():
    assert paired_t(np.zeros(9)) == (0.0, 1.0)
    assert paired_t(np.array([0.5])) == (0.0, 1.0)
    assert 0.0 < paired_t(np.full(5000, 0.5))[1] < 1e-300
    assert bootstrap_interval(np.full(9, 0.5)) == (0.5, 0.5)


def test_the_interval_does_not_depend_on_how_many_are_drawn_at_a_time(monkeypatch):
    differences = np.random.default_rng(5).choice([-1.0, 0.0, 0.25, 1.0], size=300)
    whole = bootstrap_interval(differences)
    monkeypatch.setattr("gensar_core.evaluation.significance._DRAWN", 4000)
    assert bootstrap_interval(differences) == whole


def test_holms_p_by_hand():
    # The least times 3, the next times 2, the last times 1, none below one before it, none above 1.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5, 0.01]) == pytest.approx([1.0, 1.0, 0.03])
    assert holm([]) == []


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


def test_the_best_proposed_row_is_compared_with_the_best_other_one():
    ranks = pl.concat(
        [
            table("rec", "ours", 0, [1] * 10 + [9] * 30),
            table("rec", "ours2", 1, [1] * 30 + [9] * 10),
            table("rec", "theirs", 2, [1] * 32 + [9] * 8),
            table("rec", "weak", 3, [9] * 40),
            # Nothing that is proposed ranks searches.
            table("search", "theirs", 2, [1, 2]),
            table("search", "weak", 3, [2, 3]),
        ]
    )
    best = significance(ranks, ("hr@1",), ComparisonSettings(proposed=["ours", "ours2"]))
    assert best.columns == ["task", "metric", "proposed", "other", "difference", "t", "p_value", "low", "high"]
    assert len(best) == 1
    row = best.row(0, named=True)
    assert (row["proposed"], row["other"], row["difference"]) == ("ours2", "theirs", pytest.approx(-0.05))
    # Two targets differ.
    assert row["p_value"] == pytest.approx(0.5)

    each = significance(ranks, ("hr@1",), ComparisonSettings(proposed=["ours", "ours2"], compare="each"))
    assert each.columns == [*best.columns, "p_holm"]
    assert each.select("proposed", "other").rows() == [
        ("ours2", "theirs"), ("ours2", "weak"), ("ours", "theirs"), ("ours", "weak"),
    ]  # fmt: skip
    assert each.row(0)[:-1] == best.row(0)
    assert each["p_holm"].to_list() == pytest.approx(holm(each["p_value"].to_list()))


def test_over_seeds_a_target_counts_by_its_mean():
    # By target, hr@1 of `ours`: 1, 1/2, 1/2, 0 over two seeds; of `theirs`, which has one: 0, 0, 1, 0.
    ranks = pl.concat(
        [
            table("rec", "ours", 0, [1, 1, 9, 9]),
            table("rec", "ours", 1, [1, 9, 1, 9]),
            table("rec", "theirs", 2, [9, 9, 1, 9]),
        ]
    )
    row = significance(ranks, ("hr@1",)).row(0, named=True)
    expected = np.array([1.0, 0.5, -0.5, 0.0])
    assert (row["best"], row["runner_up"], row["difference"]) == ("ours", "theirs", pytest.approx(0.25))
    assert row["t"] == pytest.approx(stats.ttest_1samp(expected, 0.0).statistic)
    # Of the eight choices of signs of 1, 1/2, 1/2, six are as far from zero as 1.
    assert row["p_value"] == pytest.approx(6 / 8)
    assert (row["low"], row["high"]) == bootstrap_interval(expected)


def test_equal_seeds_in_another_order_are_equal():
    lists = [[1, 2, 4], [2, 4, 1], [4, 1, 2]]
    ranks = [table("rec", "one", place, values) for place, values in enumerate(lists)]
    ranks += [table("rec", "two", 3 + place, values) for place, values in enumerate([lists[2], lists[0], lists[1]])]
    row = significance(pl.concat(ranks), ("ndcg@5",)).row(0, named=True)
    assert (row["difference"], row["t"], row["p_value"]) == (0.0, 0.0, 1.0)


def test_as_many_other_targets_are_refused():
    other = table("rec", "two", 1, [1, 2]).with_columns(pl.col("sample_id") + 1)
    with pytest.raises(UserError, match="two and one ranked other targets of rec"):
        significance(pl.concat([table("rec", "one", 0, [1, 2]), other]), ("hr@1",))

"""Significance against SciPy, a plain bootstrap, and cases worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gensar_core.config.tables import ComparisonSettings
from gensar_core.evaluation.significance import bootstrap_interval, holm, paired_t, significance, tally
from gensar_core.ranking.metrics import rank_codes

RANKS = st.lists(st.integers(2, 60).map(lambda half: half / 2), min_size=2, max_size=40)


#: Binary fractions: their sums are exact, and so are ties.
DIFFERENCES = st.sampled_from([-1.0, -0.375, 0.25, 0.5, 1.0])


@settings(max_examples=30)
@given(st.lists(DIFFERENCES, min_size=20, max_size=60), st.integers(0, 50))
def test_t_and_p_are_those_of_scipys_paired_test(moved, zeros):
    differences = np.array(moved + [0.0] * zeros)
    t, p = paired_t(*tally([differences]))
    if np.ptp(differences) > 0:
        expected = stats.ttest_rel(differences, np.zeros(len(differences)))
        assert (t, p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))


@settings(max_examples=30)
@given(st.lists(DIFFERENCES, min_size=1, max_size=9), st.integers(1, 3))
def test_p_of_few_differences_is_scipys_exact_permutation_test(moved, zeros):
    differences = np.array(moved + [0.0] * zeros)
    expected = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert paired_t(*tally([differences]))[1] == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(
    ("moved", "zeros", "p"),
    [
        # Of 2^n choices of signs, all plus and all minus are as far from zero.
        (2, 0, 0.5),
        (5, 0, 1 / 16),
        (9, 0, 2 / 512),
        (40, 0, 2.0**-39),
        # Targets of equal gains have no effect; a t-test has p = 0.025 for five differences.
        (5, 5000, 1 / 16),
        (1, 5000, 1.0),
    ],
)
def test_p_of_equal_differences_depends_on_their_number_alone(moved, zeros, p):
    for sign in (1.0, -1.0):
        differences = np.array([sign * 0.5] * moved + [0.0] * zeros)
        t, p_value = paired_t(*tally([differences]))
        assert p_value == pytest.approx(p)
        assert t == (sign * math.inf if not zeros else pytest.approx(stats.ttest_1samp(differences, 0.0).statistic))


def test_no_difference_has_p_one_and_no_p_is_zero():
    assert paired_t(*tally([np.zeros(9)])) == (0.0, 1.0)
    assert paired_t(*tally([np.array([0.5])])) == (0.0, 1.0)
    assert 0.0 < paired_t(*tally([np.full(5000, 0.5)]))[1] < 1e-300
    assert bootstrap_interval(*tally([np.full(9, 0.5)])) == (0.5, 0.5)


def test_holms_p_by_hand():
    # The least times 3, the next times 2, the last times 1, none below one before it, none above 1.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5, 0.01]) == pytest.approx([1.0, 1.0, 0.03])
    assert holm([]) == []


def test_the_interval_is_that_of_resampling_target_by_target(monkeypatch):
    rng = np.random.default_rng(3)
    differences = rng.choice([-1.0, 0.0, 0.0, 0.5, 1.0], size=400)
    means = [rng.choice(differences, 400).mean() for _ in range(4000)]
    interval = bootstrap_interval(*tally([differences]))
    assert interval == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.01)
    # It repeats, however many counts are drawn at a time.
    monkeypatch.setattr("gensar_core.evaluation.significance._DRAWN", 4000)
    assert bootstrap_interval(*tally([differences])) == interval


def compared(*rows, metrics=("hr@1",), **comparison):
    """Compare rows of (task, method, ranks of the targets); a method that occurs again was trained again."""
    runs = {}
    for task, method, ranks in rows:
        codes = np.zeros(len(ranks), dtype=[("rank", np.uint16)])
        codes["rank"] = rank_codes(np.array(ranks, dtype=float))
        runs.setdefault((task, method), []).append(codes)
    return significance(runs, metrics, ComparisonSettings(**comparison))


def test_best_and_runner_up_of_each_task():
    tests = compared(
        ("rec", "weak", [20] * 40),
        ("rec", "good", [1] * 10 + [9] * 30),
        ("rec", "best", [1] * 30 + [9] * 10),
        ("search", "one", [1, 2, 3, 4]),
        ("search", "two", [4, 3, 2, 1]),
        ("search", "lone", [50, 50, 50, 50]),
        metrics=("hr@1", "hr@5"),
    )
    rec, search = tests.row(0, named=True), tests.row(2, named=True)
    assert (rec["task"], rec["metric"], rec["best"], rec["runner_up"]) == ("rec", "hr@1", "best", "good")
    assert rec["difference"] == pytest.approx(0.5)
    expected = stats.ttest_rel([1] * 30 + [0] * 10, [1] * 10 + [0] * 30)
    assert (rec["t"], rec["p_value"]) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert 0.3 < rec["low"] < 0.5 < rec["high"] < 0.7
    assert (search["best"], search["runner_up"], search["difference"], search["p_value"]) == ("one", "two", 0.0, 1.0)
    # A lone method has no runner-up.
    assert compared(("rec", "only", [1, 2])).is_empty()


def test_the_best_proposed_row_is_compared_with_the_best_other_one():
    rows = (
        ("rec", "ours", [1] * 10 + [9] * 30),
        ("rec", "ours2", [1] * 30 + [9] * 10),
        ("rec", "theirs", [1] * 32 + [9] * 8),
        ("rec", "weak", [9] * 40),
        # No proposed row ranks searches.
        ("search", "theirs", [1, 2]),
        ("search", "weak", [2, 3]),
    )
    best = compared(*rows, proposed=["ours", "ours2"])
    assert best.columns == ["task", "metric", "proposed", "other", "difference", "t", "p_value", "low", "high"]
    assert best.select("proposed", "other").rows() == [("ours2", "theirs")]
    # Two targets differ.
    assert best.select("difference", "p_value").row(0) == pytest.approx((-0.05, 0.5))

    each = compared(*rows, proposed=["ours", "ours2"], compare="each")
    assert each.columns == [*best.columns, "p_holm"]
    assert each.select("proposed", "other").rows() == [
        ("ours2", "theirs"), ("ours2", "weak"), ("ours", "theirs"), ("ours", "weak"),
    ]  # fmt: skip
    assert each.row(0)[:-1] == best.row(0)
    assert each["p_holm"].to_list() == pytest.approx(holm(each["p_value"].to_list()))


def test_over_seeds_a_target_counts_by_its_mean():
    # By target, hr@1 of `ours`: 1, 1/2, 1/2, 0 over two seeds; of `theirs`, which has one: 0, 0, 1, 0.
    rows = (("rec", "ours", [1, 1, 9, 9]), ("rec", "ours", [1, 9, 1, 9]), ("rec", "theirs", [9, 9, 1, 9]))
    row = compared(*rows).row(0, named=True)
    expected = np.array([1.0, 0.5, -0.5, 0.0])
    assert (row["best"], row["runner_up"], row["difference"]) == ("ours", "theirs", pytest.approx(0.25))
    assert row["t"] == pytest.approx(stats.ttest_1samp(expected, 0.0).statistic)
    # Of the eight choices of signs of 1, 1/2, 1/2, six are as far from zero as 1.
    assert row["p_value"] == pytest.approx(6 / 8)
    assert (row["low"], row["high"]) == bootstrap_interval(*tally([expected]))


def test_equal_seeds_in_another_order_are_equal():
    one, two, three = [1, 2, 4], [2, 4, 1], [4, 1, 2]
    rows = [("rec", "a", ranks) for ranks in (one, two, three)] + [("rec", "b", ranks) for ranks in (three, one, two)]
    row = compared(*rows, metrics=("ndcg@5",)).row(0, named=True)
    assert (row["difference"], row["t"], row["p_value"]) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("block", [1, 3, 7])
def test_comparisons_do_not_depend_on_the_targets_compared_at_a_time(monkeypatch, block):
    rng = np.random.default_rng(0)
    rows = [("rec", method, rng.integers(2, 30, 40) / 2) for method in ("a", "a", "b", "c")]
    whole = compared(*rows, metrics=("hr@5", "ndcg@10"), proposed=["a"], compare="each")
    monkeypatch.setattr("gensar_core.evaluation.significance._BLOCK", block)
    assert compared(*rows, metrics=("hr@5", "ndcg@10"), proposed=["a"], compare="each").equals(whole)

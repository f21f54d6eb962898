"""Test whether one row of a table differs from another by more than chance, target by target."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl
from scipy import stats

from gensar_core import schema
from gensar_core.config.tables import ComparisonSettings
from gensar_core.errors import UserError
from gensar_core.ranking.metrics import UNSEEN, gains

#: Bootstrap resamples; the interval is the middle 95 % of their means.
RESAMPLES: Final = 10_000
_INTERVAL: Final = (2.5, 97.5)
_SEED: Final = 0
#: Number of counts that the bootstrap draws at a time, which bounds its memory.
_DRAWN: Final = 1 << 22
#: Minimum number of nonzero differences for which p comes from the t distribution.
_ENOUGH: Final = 20
#: Sums of gains that differ by less are equal: gains are at most 1, and smaller differences are rounding.
_TOLERANCE: Final = 1e-9
_DECIMALS: Final = 12


def paired_t(differences: np.ndarray) -> tuple[float, float]:
    """Return t of a paired t-test and a two-sided p; (0, 1) for fewer than two differences, or when all are zero.

    p is that of the t-test, as in the paper, if 20 or more differences are nonzero. With fewer, the t distribution
    makes p too small, however many zeros there are: five that agree among thousands would be significant. p is then
    exact: the share of all choices of signs of the differences whose sum is at least as far from zero as theirs
    (Fisher's randomization test, 1935), in which zeros have no effect. p is also exact where all differences are equal
    and t is infinite.
    """
    moved = differences[differences != 0.0]
    if len(differences) < 2 or not len(moved):
        return 0.0, 1.0
    equal = np.ptp(differences) <= _TOLERANCE
    t, p = (np.copysign(np.inf, moved[0]), 0.0) if equal else stats.ttest_1samp(differences, 0.0)
    if len(moved) < _ENOUGH:
        p = _exact_p(moved)
    elif equal:
        # Only the two choices in which all signs are alike have so large a sum.
        p = max(2.0 ** (1 - len(moved)), float(np.finfo(np.float64).tiny))
    return float(t), float(p)


def _exact_p(differences: np.ndarray) -> float:
    """Return the share of 2^n choices of signs of n ``differences`` with a sum at least as far from zero as theirs."""
    sums = np.zeros(1)
    for size in np.abs(differences):
        sums = np.concatenate([sums + size, sums - size])
    return float(np.mean(np.abs(sums) >= abs(differences.sum()) - _TOLERANCE))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p of a family of tests by Holm's method (1979), in order: at 95 %, none below 0.05 is chance."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    adjusted = np.empty(len(p_values))
    adjusted[order] = stepped
    return [float(p) for p in adjusted]


def bootstrap_interval(differences: np.ndarray, seed: int = _SEED, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Compute the percentile interval (95 %) of the mean of paired differences, resampled over targets.

    A resample of n targets draws how often each distinct difference occurs, which is multinomial. Differences of gains
    have few distinct values, so a resample costs one draw per distinct value, not n.
    """
    values, counts = np.unique(differences, return_counts=True)
    rng, shares = np.random.default_rng(seed), counts / len(differences)
    at_once = max(1, _DRAWN // len(values))
    means = [
        rng.multinomial(len(differences), shares, size=min(at_once, resamples - start)) @ values / len(differences)
        for start in range(0, resamples, at_once)
    ]
    low, high = np.percentile(np.concatenate(means), _INTERVAL)
    return float(low), float(high)


def significance(ranks: pl.DataFrame, metrics: Sequence[str], comparison: ComparisonSettings) -> pl.DataFrame:
    """Compare rows of a table by task and metric: the best with the second best, or as ``comparison`` requests.

    ``ranks`` has the columns task, method, position (of a ranks file in the table), sample_id, rank and, for metrics
    that end in `_unseen`, rank_unseen, with the same targets for all methods of a task. A method with several positions
    was trained once per seed: a target's gain is the mean over them. Of equal methods, the first in the table is the
    better.

    Columns: `task`, `metric`, `best`, `runner_up`, `difference` (of the means), `t`, `p_value` (two-sided, see
    ``paired_t``), `low` and `high` (bootstrap). With proposed rows, `proposed` and `other` replace `best` and
    `runner_up`: first the best proposed row with the best other one, and with ``compare: each`` every other pair after
    it, better rows first, and a column `p_holm` (p adjusted for the comparisons of this task and metric, see ``holm``).
    A task without any comparison has no rows. Raises UserError when two methods rank different targets.
    """
    each = comparison.compare == "each"
    rows = []
    for task in schema.TASKS:
        of_task = ranks.filter(pl.col("task") == task)
        by_column = {
            column: _ranks_by_method(of_task, column) for column in dict.fromkeys(rank_column(name) for name in metrics)
        }
        for metric in metrics:
            by_method = by_column[rank_column(metric)]
            means = {name: _mean_gains(values, metric) for name, values in by_method.items()}
            tests = [(one, other, *_compared(means[one], means[other])) for one, other in _pairs(means, comparison)]
            adjusted = [(p,) for p in holm([test[4] for test in tests])] if each else [()] * len(tests)
            rows += [(task, metric, *test, *more) for test, more in zip(tests, adjusted, strict=True)]
    names = ("proposed", "other") if comparison.proposed else ("best", "runner_up")
    columns = ("task", "metric", *names, "difference", "t", "p_value", "low", "high", *(["p_holm"] if each else []))
    types = [pl.String] * 4 + [pl.Float64] * (len(columns) - 4)
    return pl.DataFrame(rows, schema=dict(zip(columns, types, strict=True)), orient="row")


def _pairs(gains_of: Mapping[str, np.ndarray], comparison: ComparisonSettings) -> Iterator[tuple[str, str]]:
    """Return the pairs of methods to compare, better ones first."""
    # Sorting is stable: equal means keep the table's order.
    order = sorted(gains_of, key=lambda name: -gains_of[name].mean())
    if not comparison.proposed:
        return itertools.islice(itertools.pairwise(order), 1)
    proposed = [name for name in order if name in comparison.proposed]
    pairs = itertools.product(proposed, [name for name in order if name not in comparison.proposed])
    return pairs if comparison.compare == "each" else itertools.islice(pairs, 1)


def rank_column(metric: str) -> str:
    """Return the column of ranks that a metric is computed from."""
    return f"rank{UNSEEN}" if metric.endswith(UNSEEN) else "rank"


def _ranks_by_method(ranks: pl.DataFrame, column: str) -> dict[str, np.ndarray]:
    """Return ranks [seeds, targets] of each method of a task, in the order of the table; infinite for a miss."""
    runs: dict[str, list[np.ndarray]] = {}
    first: pl.DataFrame | None = None
    for part in ranks.sort("position", "sample_id").partition_by("position", maintain_order=True):
        first = part if first is None else first
        if not part["sample_id"].equals(first["sample_id"]):
            raise UserError(f"{part['method'][0]} and {first['method'][0]} ranked other targets of {part['task'][0]}")
        runs.setdefault(part["method"][0], []).append(part[column].fill_null(np.inf).to_numpy())
    return {name: np.stack(rows) for name, rows in runs.items()}


def _mean_gains(ranks: np.ndarray, metric: str) -> np.ndarray:
    """Return each target's gain, float64 [targets], as the mean over seeds of ``ranks`` [seeds, targets]."""
    values = gains(ranks, metric)
    # Rounded, equal gains have equal means in any order of seeds.
    means: np.ndarray = values[0] if len(values) == 1 else np.round(values.mean(axis=0), _DECIMALS)
    return means


def _compared(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float, float, float]:
    """Return the mean difference, t, p and interval of the gains of two methods."""
    differences = one - other
    return float(differences.mean()), *paired_t(differences), *bootstrap_interval(differences)

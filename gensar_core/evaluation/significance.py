"""Test whether one row of a table differs from another by more than chance, target by target."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl
from scipy import stats

from gensar_core import schema
from gensar_core.config.tables import ComparisonSettings
from gensar_core.ranking.metrics import UNSEEN, code_gains, count_codes, mean_gain

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
#: Targets compared at a time; limits memory, does not affect results.
_BLOCK: Final = 1 << 18


def tally(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values of all blocks, ascending, and how often each occurs, int64.

    Differences of gains have few distinct values, so their tally is small, however many targets there are.
    """
    values, counts = np.zeros(0), np.zeros(0, dtype=np.int64)
    for block in blocks:
        more, of_more = np.unique(block, return_counts=True)
        values, place = np.unique(np.concatenate([values, more]), return_inverse=True)
        # Sums of whole numbers below 2^53 are exact.
        counts = np.bincount(place, weights=np.concatenate([counts, of_more])).astype(np.int64)
    return values, counts


def paired_t(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return t of a paired t-test and a two-sided p; (0, 1) for fewer than two differences, or when all are zero.

    ``values`` and ``counts`` are the `tally` of the differences. p is that of the t-test, as in the paper, if 20 or
    more differences are nonzero. With fewer, the t distribution makes p too small, however many zeros there are: five
    that agree among thousands would be significant. p is then exact: the share of all choices of signs of the
    differences whose sum is at least as far from zero as theirs (Fisher's randomization test, 1935), in which zeros
    have no effect. p is also exact where all differences are equal and t is infinite.
    """
    total, moved = int(counts.sum()), values != 0.0
    n_moved = int(counts[moved].sum())
    if total < 2 or not n_moved:
        return 0.0, 1.0
    equal = np.ptp(values) <= _TOLERANCE
    if equal:
        t, p = np.copysign(np.inf, values[0]), 0.0
    else:
        mean = values @ counts / total
        t = mean / np.sqrt((values - mean) ** 2 @ counts / (total - 1) / total)
        p = 2.0 * stats.t.sf(abs(t), total - 1)
    if n_moved < _ENOUGH:
        p = _exact_p(np.repeat(values[moved], counts[moved]))
    elif equal:
        # Only the two choices in which all signs are alike have so large a sum.
        p = max(2.0 ** (1 - n_moved), float(np.finfo(np.float64).tiny))
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


def bootstrap_interval(
    values: np.ndarray, counts: np.ndarray, seed: int = _SEED, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Compute the percentile interval (95 %) of the mean of paired differences, resampled over targets.

    ``values`` and ``counts`` are the `tally` of the differences. A resample of n targets draws how often each distinct
    difference occurs, which is multinomial: one draw per distinct value, not n.
    """
    total = int(counts.sum())
    rng, shares = np.random.default_rng(seed), counts / total
    at_once = max(1, _DRAWN // len(values))
    means = [
        rng.multinomial(total, shares, size=min(at_once, resamples - start)) @ values / total
        for start in range(0, resamples, at_once)
    ]
    low, high = np.percentile(np.concatenate(means), _INTERVAL)
    return float(low), float(high)


def significance(
    ranks: Mapping[tuple[str, str], Sequence[np.ndarray]], metrics: Sequence[str], comparison: ComparisonSettings
) -> pl.DataFrame:
    """Compare rows of a table by task and metric: the best with the second best, or as ``comparison`` requests.

    ``ranks`` holds the codes of each task and method, in the order of the table: as `TargetRanks` has them, of the same
    targets for all methods of a task. A method with several arrays was trained once per seed: a target's gain is the
    mean over them. Of equal methods, the first in the table is the better.

    Columns: `task`, `metric`, `best`, `runner_up`, `difference` (of the means), `t`, `p_value` (two-sided, see
    ``paired_t``), `low` and `high` (bootstrap). With proposed rows, `proposed` and `other` replace `best` and
    `runner_up`: first the best proposed row with the best other one, and with ``compare: each`` every other pair after
    it, better rows first, and a column `p_holm` (p adjusted for the comparisons of this task and metric, see ``holm``).
    A task without any comparison has no rows.
    """
    each = comparison.compare == "each"
    rows = []
    for task in schema.TASKS:
        runs = {method: of_method for (of, method), of_method in ranks.items() if of == task}
        for metric in metrics:
            pairs = _pairs({name: _mean(of_method, metric) for name, of_method in runs.items()}, comparison)
            tests = [(one, other, *_compared(runs[one], runs[other], metric)) for one, other in pairs]
            adjusted = [(p,) for p in holm([test[4] for test in tests])] if each else [()] * len(tests)
            rows += [(task, metric, *test, *more) for test, more in zip(tests, adjusted, strict=True)]
    names = ("proposed", "other") if comparison.proposed else ("best", "runner_up")
    columns = ("task", "metric", *names, "difference", "t", "p_value", "low", "high", *(["p_holm"] if each else []))
    types = [pl.String] * 4 + [pl.Float64] * (len(columns) - 4)
    return pl.DataFrame(rows, schema=dict(zip(columns, types, strict=True)), orient="row")


def _pairs(means: Mapping[str, float], comparison: ComparisonSettings) -> Iterator[tuple[str, str]]:
    """Return the pairs of methods to compare, better ones first."""
    # Sorting is stable: equal means keep the table's order.
    order = sorted(means, key=lambda name: -means[name])
    if not comparison.proposed:
        return itertools.islice(itertools.pairwise(order), 1)
    proposed = [name for name in order if name in comparison.proposed]
    pairs = itertools.product(proposed, [name for name in order if name not in comparison.proposed])
    return pairs if comparison.compare == "each" else itertools.islice(pairs, 1)


def rank_column(metric: str) -> str:
    """Return the column of ranks that a metric is computed from."""
    return f"rank{UNSEEN}" if metric.endswith(UNSEEN) else "rank"


def _mean(runs: Sequence[np.ndarray], metric: str) -> float:
    """Compute a metric as the mean over seeds; rounded, equal seeds have equal means in any order."""
    counts = [count_codes(codes[rank_column(metric)]) for codes in runs]
    return round(float(np.mean([mean_gain(of_run, metric) for of_run in counts])), _DECIMALS)


def mean_gains(runs: Sequence[np.ndarray], metric: str) -> Iterator[np.ndarray]:
    """Yield the targets' gains block by block, float64 [block], as means over the seeds of ``runs``."""
    by_code, column = code_gains(metric), rank_column(metric)
    for start in range(0, len(runs[0]), _BLOCK):
        values = [by_code[codes[column][start : start + _BLOCK]] for codes in runs]
        # Rounded, equal gains have equal means in any order of seeds.
        yield values[0] if len(values) == 1 else np.stack(values).mean(axis=0).round(_DECIMALS)


def _compared(
    one: Sequence[np.ndarray], other: Sequence[np.ndarray], metric: str
) -> tuple[float, float, float, float, float]:
    """Return the mean difference, t, p and interval of the gains of two methods."""
    both = zip(mean_gains(one, metric), mean_gains(other, metric), strict=True)
    values, counts = tally(ours - theirs for ours, theirs in both)
    mean = float(values @ counts / counts.sum())
    return mean, *paired_t(values, counts), *bootstrap_interval(values, counts)

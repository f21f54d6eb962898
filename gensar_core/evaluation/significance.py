"""Whether the best method of a task differs from the runner-up by more than chance, target by target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from scipy import stats

from gensar_core import schema

#: Resamples of the bootstrap; its interval is the middle 95 % of their means.
RESAMPLES: Final = 10_000
_INTERVAL: Final = (2.5, 97.5)
_SEED: Final = 0


def gains(ranks: np.ndarray, metric: str) -> np.ndarray:
    """What each target adds to a metric such as `hr@5` or `ndcg@10`, given its rank (infinite: not found); float64."""
    kind, k = metric.split("@")
    gain = 1.0 / np.log2(ranks + 1.0) if kind == "ndcg" else np.ones_like(ranks)
    return np.where(ranks <= int(k), gain, 0.0)


def paired_t(differences: np.ndarray) -> tuple[float, float]:
    """t and the two-sided p of a paired t-test; (0, 1) when all differences are equal to zero."""
    if len(differences) < 2 or not np.any(differences):
        return 0.0, 1.0
    if np.ptp(differences) == 0.0:
        return float(np.sign(differences[0]) * np.inf), 0.0
    found = stats.ttest_1samp(differences, 0.0)
    return float(found.statistic), float(found.pvalue)


def bootstrap_interval(differences: np.ndarray, seed: int = _SEED, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Percentile interval (95 %) of the mean of paired differences, resampled over targets.

    A resample of n targets is a draw of how often each distinct difference occurs, which is multinomial. Differences
    of gains have few distinct values, so a resample costs those and not n.
    """
    values, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(differences), counts / len(differences), size=resamples)
    low, high = np.percentile(drawn @ values / len(differences), _INTERVAL)
    return float(low), float(high)


def significance(ranks: pl.DataFrame, metrics: Sequence[str]) -> pl.DataFrame:
    """The best method of each task and metric against the second best: one row each, where there are two.

    ``ranks`` has the columns task, method, position (of the method in the table), sample_id and rank, with the same
    targets for all methods of a task. Of equal methods the first in the table is the better. Columns: `task`, `metric`,
    `best`, `runner_up`, `difference` (of the means), `t`, `p_value` (two-sided, paired), `low` and `high` (bootstrap).
    """
    rows = []
    for task in schema.TASKS:
        table = ranks.filter(pl.col("task") == task).sort("position", "sample_id")
        parts = table.partition_by("method", maintain_order=True)
        by_method = {part["method"][0]: part["rank"].fill_null(np.inf).to_numpy() for part in parts}
        for metric in metrics if len(by_method) > 1 else ():
            found = {name: gains(values, metric) for name, values in by_method.items()}
            best, second, *_ = sorted(found, key=lambda name, found=found: -found[name].mean())  # type: ignore[misc]
            differences = found[best] - found[second]
            t, p = paired_t(differences)
            low, high = bootstrap_interval(differences)
            rows.append((task, metric, best, second, float(differences.mean()), t, p, low, high))
    columns = ("task", "metric", "best", "runner_up", "difference", "t", "p_value", "low", "high")
    types = [pl.String] * 4 + [pl.Float64] * 5
    return pl.DataFrame(rows, schema=dict(zip(columns, types, strict=True)), orient="row")

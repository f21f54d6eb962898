"""Compute ranks and the metrics over them (paper, section 4.1.3)."""

from __future__ import annotations

from typing import Final

import numpy as np

from gensar_core.runtime.arrays import stretches

#: Ending of metrics over ranks among items that the user has not clicked before.
UNSEEN: Final = "_unseen"
#: The code of a rank above 32,767, and of a miss; see `rank_codes`.
_FAR: Final = 0xFFFF


def average_ranks(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Rank column 0 among the present columns of each row: 1 is best, ties take the average rank.

    ``scores`` [rows, width] floats, higher is better; ``present`` [rows, width] marks the candidates, column 0 always.
    Returns float64 [rows]. Raises ValueError on a NaN score of a candidate. If all n candidates score the same, the
    rank is (n + 1) / 2, never 1.
    """
    if np.isnan(scores[present]).any():
        raise ValueError("a candidate's score is not a number")
    return ranks_of(scores[:, 0], scores, present)


def ranks_of(targets: np.ndarray, scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Rank each target by its score [rows] among ``scores`` [rows, width] where ``present``, which hold it once.

    1 is best, ties take the average rank, float64 [rows].
    """
    better = ((scores > targets[:, None]) & present).sum(axis=1)
    equal = ((scores == targets[:, None]) & present).sum(axis=1) - 1
    ranks: np.ndarray = 1.0 + better + equal / 2.0
    return ranks


def ranks_in_list(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Rank every present column of each row: 1 is best, ties are averaged, float64 [rows, width]; 0 elsewhere.

    ``scores`` must be finite for every candidate.
    """
    from scipy.stats import rankdata

    ranks: np.ndarray = np.where(present, rankdata(np.where(present, -scores, np.inf), axis=1), 0.0)
    return ranks


def gains(ranks: np.ndarray, metric: str) -> np.ndarray:
    """Return what each target adds to a metric by its rank (infinite: a miss), float64; the metric is their mean.

    HR@k (`hr@5`), the share of targets ranked at k or better, is Recall@k (`recall@5`) with one relevant item. NDCG@k
    (`ndcg@5`) is then the mean of 1 / log2(rank + 1) where rank <= k, else 0.
    """
    kind, k = metric.removesuffix(UNSEEN).split("@")
    gain = 1.0 / np.log2(ranks + 1.0) if kind == "ndcg" else np.ones_like(ranks)
    return np.where(ranks <= int(k), gain, 0.0)


def rank_codes(ranks: np.ndarray) -> np.ndarray:
    """Encode ranks (infinite: a miss) in two bytes, uint16: twice the rank, since ties are halves.

    All ranks above 32,767, at which every metric is zero, have one code.
    """
    codes: np.ndarray = np.minimum(2.0 * ranks, _FAR).astype(np.uint16)
    return codes


def code_gains(metric: str) -> np.ndarray:
    """Return the `gains` of a metric by `rank_codes`, float64 [codes]."""
    ranks = np.arange(_FAR + 1) / 2.0
    # No rank is below 1.
    ranks[[0, 1, _FAR]] = np.inf
    return gains(ranks, metric)


def count_codes(codes: np.ndarray) -> np.ndarray:
    """Count how often each code occurs, int64 [codes]: all that metrics need of the ranks."""
    counts = np.zeros(_FAR + 1, dtype=np.int64)
    for targets in stretches(len(codes)):
        counts += np.bincount(codes[targets[0] : targets[-1] + 1], minlength=len(counts))
    return counts


def mean_gain(counts: np.ndarray, metric: str) -> float:
    """Compute a metric from the counts of `count_codes`; NaN without targets."""
    total = int(counts.sum())
    return float(counts @ code_gains(metric)) / total if total else float("nan")


def gain_deviation(counts: np.ndarray, metric: str) -> float:
    """Compute the standard deviation of a metric's gains over targets from the counts of `count_codes`."""
    squares = (code_gains(metric) - mean_gain(counts, metric)) ** 2
    return float(np.sqrt(counts @ squares / counts.sum()))


def hit_rate(ranks: np.ndarray, k: int) -> float:
    """Compute HR@k; NaN without targets."""
    return float(gains(ranks, f"hr@{k}").mean()) if len(ranks) else float("nan")


def ndcg(ranks: np.ndarray, k: int) -> float:
    """Compute NDCG@k; NaN without targets."""
    return float(gains(ranks, f"ndcg@{k}").mean()) if len(ranks) else float("nan")

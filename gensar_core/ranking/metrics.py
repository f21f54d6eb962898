"""Compute ranks and the metrics over them (paper, section 4.1.3)."""

from __future__ import annotations

from typing import Final

import numpy as np

#: Ending of metrics over ranks among items that the user has not clicked before.
UNSEEN: Final = "_unseen"


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


def hit_rate(ranks: np.ndarray, k: int) -> float:
    """Compute HR@k; NaN without targets."""
    return float(gains(ranks, f"hr@{k}").mean()) if len(ranks) else float("nan")


def ndcg(ranks: np.ndarray, k: int) -> float:
    """Compute NDCG@k; NaN without targets."""
    return float(gains(ranks, f"ndcg@{k}").mean()) if len(ranks) else float("nan")

"""Compute ranks and the metrics over them (paper, section 4.1.3)."""

from __future__ import annotations

import numpy as np


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


def hit_rate(ranks: np.ndarray, k: int) -> float:
    """Compute HR@k: the share of targets ranked at k or better."""
    return float(np.mean(ranks <= k)) if len(ranks) else float("nan")


def ndcg(ranks: np.ndarray, k: int) -> float:
    """Compute NDCG@k with one relevant item: the mean of 1 / log2(rank + 1) where rank <= k, else 0."""
    return float(np.mean(np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0))) if len(ranks) else float("nan")

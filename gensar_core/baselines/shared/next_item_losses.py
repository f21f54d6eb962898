"""Compute next-item losses over states and an item table, and draw their negatives.

``states`` [targets, dimensions], ``targets`` int64 [targets], ``table`` [items, dimensions]; each loss is a mean over
targets.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from gensar_core.nn.cross_entropy import cross_entropy
from gensar_core.runtime.arrays import Ragged, stretches
from gensar_core.runtime.mapped_arrays import MappedArray
from gensar_core.runtime.seeds import generator

#: Logit of a negative that is the target itself; finite, so that a row with only such negatives still has a gradient.
_NEVER = -1.0e30

#: Keeps the logarithm of a probability finite.
_SMALL = 1.0e-24

_REDRAWS = 10


def full_softmax(states: torch.Tensor, targets: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Compute cross-entropy over the whole catalogue."""
    return cross_entropy(states, table, targets).mean()


def sampled_softmax(
    states: torch.Tensor, targets: torch.Tensor, table: torch.Tensor, negatives: torch.Tensor
) -> torch.Tensor:
    """Compute cross-entropy of each target against ``negatives`` [drawn] shared by all targets.

    Logits are not corrected for the sampling distribution: with negatives drawn from q, the optimal score of item i is
    log p(i | history) - log q(i), which ranks candidates that were also drawn from q (Oord et al., 2018).
    """
    positive, negative = _logits(states, targets, table, negatives)
    # -log(exp p / (exp p + sum of exp n)) = log(1 + exp(logsumexp n - p))
    return functional.softplus(torch.logsumexp(negative, dim=1) - positive).mean()


def binary(states: torch.Tensor, targets: torch.Tensor, table: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Compute binary cross-entropy of each target and its one negative [targets] (Kang and McAuley, 2018, Eq. 7)."""
    positive = (states * functional.embedding(targets, table)).sum(dim=1)
    negative = (states * functional.embedding(negatives, table)).sum(dim=1)
    return (functional.softplus(-positive) + functional.softplus(negative)).mean()


def generalized_binary(
    states: torch.Tensor, targets: torch.Tensor, table: torch.Tensor, negatives: torch.Tensor, calibration: float
) -> torch.Tensor:
    """Compute gBCE: binary cross-entropy of each target against uniform ``negatives`` [drawn] shared by all targets.

    The target's probability is raised to beta = alpha (t (1 - 1 / alpha) + 1 / alpha), where alpha is the share of the
    other items that is drawn and t is the ``calibration``: at 0 this is the plain binary loss, at 1 its scores are
    those of a full softmax (Petrov and Macdonald, 2023, Eq. 11 to 13).
    """
    positive, negative = _logits(states, targets, table, negatives)
    sampled = min(1.0, len(negatives) / max(1, len(table) - 1))
    beta = sampled * (calibration * (1.0 - 1.0 / sampled) + 1.0 / sampled)
    terms = beta * functional.softplus(-positive) + functional.softplus(negative).sum(dim=1)
    return terms.mean() / (len(negatives) + 1)


def bpr_max(
    states: torch.Tensor, targets: torch.Tensor, table: torch.Tensor, negatives: torch.Tensor, regularization: float
) -> torch.Tensor:
    """Compute BPR-max: -log of the probability that the target beats a negative.

    The negative is weighted by a softmax over the ``negatives`` [drawn] alone. Adds ``regularization`` times the
    negatives' squared scores under the same softmax (Hidasi and Karatzoglou, 2018, Eq. 10).
    """
    positive, negative = _logits(states, targets, table, negatives)
    weights = torch.softmax(negative, dim=1)
    beaten = (weights * torch.sigmoid(positive[:, None] - negative)).sum(dim=1)
    # A row whose negatives all equal its target still puts weight on them, but their logits are no scores.
    scores = negative.masked_fill(negatives == targets[:, None], 0.0)
    return ((weights * scores.square()).sum(dim=1) * regularization - torch.log(beaten + _SMALL)).mean()


def _logits(
    states: torch.Tensor, targets: torch.Tensor, table: torch.Tensor, negatives: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute logits of targets [targets] and negatives [targets, drawn]; negatives that are the target are masked."""
    positive = (states * functional.embedding(targets, table)).sum(dim=1)
    negative = states @ functional.embedding(negatives, table).T
    return positive, negative.masked_fill(negatives == targets[:, None], _NEVER)


class PopularityNegatives:
    """Draw items with probability proportional to a power of their clicks: 1 by popularity, 0 uniformly.

    With a positive power, an item without clicks is never drawn; an item marked in ``cold`` is not with any.
    """

    def __init__(self, clicks: np.ndarray, power: float, seed: int, cold: np.ndarray | None = None) -> None:
        weights = np.power(clicks, power) if power else np.ones(len(clicks))
        self.upper = np.cumsum(weights if cold is None else np.where(cold, 0.0, weights))
        self.seed = seed

    def draw(self, step: int, count: int) -> np.ndarray:
        """Draw ``count`` items for one step, with replacement, int64."""
        numbers = generator(self.seed, "negatives", step).random(count) * self.upper[-1]
        items: np.ndarray = np.searchsorted(self.upper, numbers, side="right")
        return items


class UnseenNegatives:
    """Draw one item per target, uniformly from those its user has not clicked.

    ``clicked`` holds each user's items, one row per user; ``place`` [items] numbers the items to draw from, and the
    draws are such numbers below ``n_items``. The pairs of both are mapped from the disk of ``folder``. Redraws are
    limited, so a user who has clicked nearly everything may still get a clicked item.
    """

    def __init__(self, clicked: Ragged, place: np.ndarray, n_items: int, seed: int, folder: Path) -> None:
        self.n_items = n_items
        self.seed = seed
        pairs = MappedArray(folder, np.int64)
        for rows in stretches(len(clicked)):
            items = clicked.take(rows)
            pairs.append(np.unique(rows[items.rows] * n_items + place[items.values]))
        self.pairs = pairs.read_only()

    def draw(self, step: int, rows: np.ndarray) -> np.ndarray:
        """Draw one item for each of the given rows [targets] of ``clicked``, int64 [targets]."""
        rng = generator(self.seed, "negatives", step)
        items = rng.integers(self.n_items, size=len(rows))
        for _ in range(_REDRAWS):
            again = np.flatnonzero(self._clicked(rows, items))
            if not len(again):
                break
            items[again] = rng.integers(self.n_items, size=len(again))
        return items

    def _clicked(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        codes = rows * self.n_items + items
        place = np.minimum(np.searchsorted(self.pairs, codes), len(self.pairs) - 1)
        return np.asarray(self.pairs[place] == codes)

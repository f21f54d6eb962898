"""Next-item losses over states and an item table, and how their negatives are drawn.

``states`` [targets, dimensions], ``targets`` int64 [targets], ``table`` [items, dimensions]; each loss is a mean over
targets.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from gensar_core.nn.cross_entropy import cross_entropy
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.seeds import generator

#: Logit of a negative that is the target itself; finite, so that a row of nothing else has a gradient.
_NEVER = -1.0e30

#: Keeps the logarithm of a probability finite.
_SMALL = 1.0e-24

_REDRAWS = 10


def full_softmax(states: torch.Tensor, targets: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the whole catalogue."""
    return cross_entropy(states, table, targets).mean()


def sampled_softmax(
    states: torch.Tensor, targets: torch.Tensor, table: torch.Tensor, negatives: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of each target against the ``negatives`` [drawn] that all targets share.

    Logits are not corrected for how negatives are drawn: drawn from a distribution q, the optimal score of item i is
    log p(i | history) - log q(i), which orders candidates that were themselves drawn from q (Oord et al., 2018).
    """
    positive, negative = _logits(states, targets, table, negatives)
    # -log(exp p / (exp p + sum of exp n)) = log(1 + exp(logsumexp n - p))
    return functional.softplus(torch.logsumexp(negative, dim=1) - positive).mean()


def binary(states: torch.Tensor, targets: torch.Tensor, table: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each target and its one negative [targets] (Kang and McAuley, 2018, Eq. 7)."""
    positive = (states * functional.embedding(targets, table)).sum(dim=1)
    negative = (states * functional.embedding(negatives, table)).sum(dim=1)
    return (functional.softplus(-positive) + functional.softplus(negative)).mean()


def generalized_binary(
    states: torch.Tensor, targets: torch.Tensor, table: torch.Tensor, negatives: torch.Tensor, calibration: float
) -> torch.Tensor:
    """gBCE: binary cross-entropy of each target against ``negatives`` [drawn], drawn uniformly and shared by all.

    The probability of the target is raised to beta = alpha (t (1 - 1 / alpha) + 1 / alpha), where alpha is the share of
    the other items that is drawn and t the ``calibration``: at 0 this is the plain binary loss, at 1 its scores are
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
    """-log of the chance that the target beats a negative, under a softmax over the ``negatives`` [drawn] alone, plus
    ``regularization`` times their squared scores under the same softmax (Hidasi and Karatzoglou, 2018, Eq. 10)."""
    positive, negative = _logits(states, targets, table, negatives)
    weights = torch.softmax(negative, dim=1)
    beaten = (weights * torch.sigmoid(positive[:, None] - negative)).sum(dim=1)
    # A row whose negatives are all its own target has weights on them; their logits are no scores.
    scores = negative.masked_fill(negatives == targets[:, None], 0.0)
    return ((weights * scores.square()).sum(dim=1) * regularization - torch.log(beaten + _SMALL)).mean()


def _logits(
    states: torch.Tensor, targets: torch.Tensor, table: torch.Tensor, negatives: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the targets [targets], and of the negatives [targets, drawn] with those that are the target put out."""
    positive = (states * functional.embedding(targets, table)).sum(dim=1)
    negative = states @ functional.embedding(negatives, table).T
    return positive, negative.masked_fill(negatives == targets[:, None], _NEVER)


class PopularityNegatives:
    """Items drawn with a probability proportional to a power of their clicks: 1 by popularity, 0 uniformly.

    Under a positive power an item without clicks is never drawn.
    """

    def __init__(self, clicks: np.ndarray, power: float, seed: int) -> None:
        weights = np.power(clicks, power) if power else np.ones(len(clicks))
        self.upper = np.cumsum(weights)
        self.seed = seed

    def draw(self, step: int, count: int) -> np.ndarray:
        """``count`` items of one step, with replacement, int64."""
        numbers = generator(self.seed, "negatives", step).random(count) * self.upper[-1]
        items: np.ndarray = np.searchsorted(self.upper, numbers, side="right")
        return items


class UnseenNegatives:
    """One item for each target, drawn uniformly among those its own user has not clicked.

    ``clicked`` holds the items of each row. A user who has clicked nearly everything may still get a clicked one,
    after a few redraws.
    """

    def __init__(self, clicked: Ragged, n_items: int, seed: int) -> None:
        self.n_items = n_items
        self.seed = seed
        self.pairs = np.unique(clicked.rows * n_items + clicked.values)

    def draw(self, step: int, rows: np.ndarray) -> np.ndarray:
        """One item for each of the given rows [targets] of ``clicked``, int64 [targets]."""
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
        found = np.minimum(np.searchsorted(self.pairs, codes), len(self.pairs) - 1)
        return np.asarray(self.pairs[found] == codes)

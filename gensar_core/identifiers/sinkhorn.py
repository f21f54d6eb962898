"""Balanced choice of codes by Sinkhorn's algorithm, and the authors' repair of collisions that is built on it.

Nearest codes let a few codes serve most items. A transport plan of least cost in which every item has the same mass and
every code receives the same mass spreads them out; each item then takes the code that most of its mass goes to
(LC-Rec's uniform semantic mapping; paper, section 4.1.3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gensar_core.config.identifiers import SinkhornSettings
from gensar_core.identifiers.quantize import nearest

_ROUNDS = 20


@torch.no_grad()
def balanced(residual: Tensor, codebook: Tensor, settings: SinkhornSettings) -> Tensor:
    """Codes [n] of ``residual`` [n, D], balanced over ``codebook`` [K, D].

    Squared distances are put on the scale from -1 to 1 first, so that epsilon means the same in every codebook.
    """
    vectors, codes = residual.double(), codebook.double()
    norms = vectors.square().sum(dim=1, keepdim=True) + codes.square().sum(dim=1)
    distance = torch.addmm(norms, vectors, codes.T, alpha=-2.0)
    lowest, highest = distance.min(), distance.max()
    scaled = (distance - (highest + lowest) / 2) / ((highest - lowest) / 2 + 1e-5)
    # Each row's largest entry is made 1, and its factor kept apart: the plan is diag(rows) plan diag(columns).
    least = scaled.amin(dim=1, keepdim=True)
    exponent = (least - scaled) / settings.epsilon
    plan, rows, columns = exponent.exp(), (-least.squeeze(1) / settings.epsilon).exp(), exponent.new_ones(len(codebook))
    tiny = torch.finfo(plan.dtype).tiny
    for _ in range(settings.iterations):
        columns = (1.0 / plan.shape[1]) / (rows @ plan).clamp_min(tiny)
        rows = (1.0 / plan.shape[0]) / (plan @ columns).clamp_min(tiny)
    return (exponent + columns.log()).argmax(dim=1)


@torch.no_grad()
def repair(node: Tensor, residual: Tensor, codebook: Tensor, settings: SinkhornSettings) -> Tensor:
    """Last codes [n] after at most 20 rounds in which every group of colliding items is balanced over the codebook.

    ``node`` [n] numbers what items have chosen before the last level, ``residual`` [n, D] is what is left to quantize.
    Groups do not see who has a code already, so an item may come to collide with another; what still collides after
    the last round stays.
    """
    code = nearest(residual, codebook)
    for _ in range(_ROUNDS):
        repaired = code.clone()
        for group in _colliding(node * len(codebook) + code):
            repaired[group] = balanced(residual[group], codebook, settings)
        # The same groups would be balanced alike for ever.
        if torch.equal(repaired, code):
            break
        code = repaired
    return code


def _colliding(identifier: Tensor) -> tuple[Tensor, ...]:
    """The items of each identifier [n] that more than one has."""
    _, group, size = torch.unique(identifier, return_inverse=True, return_counts=True)
    items = torch.nonzero(size[group] > 1).squeeze(1)
    if not len(items):
        return ()
    items = items[torch.argsort(group[items], stable=True)]
    return torch.split(items, size[size > 1].tolist())

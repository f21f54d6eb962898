"""Balance the choice of codes by Sinkhorn's algorithm, and repair collisions with it as the authors do.

Choosing nearest codes lets a few codes serve most items. A transport plan of least cost, in which all items have the
same mass and all codes receive the same mass, spreads items out; each item then takes the code that receives most of
its mass (LC-Rec's uniform semantic mapping; paper, section 4.1.3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gensar_core.config.identifiers import SinkhornSettings
from gensar_core.identifiers.quantize import nearest

_ROUNDS = 20


@torch.no_grad()
def balanced(residual: Tensor, codebook: Tensor, settings: SinkhornSettings) -> Tensor:
    """Choose codes [n] for ``residual`` [n, D], balanced over ``codebook`` [K, D]; the cost is the squared distance."""
    vectors, codes = residual.double(), codebook.double()
    norms = vectors.square().sum(dim=1, keepdim=True) + codes.square().sum(dim=1)
    distance = torch.addmm(norms, vectors, codes.T, alpha=-2.0)
    return balanced_by_cost(distance, settings.epsilon, settings.iterations)


@torch.no_grad()
def balanced_by_cost(cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Choose codes [n], balanced over the K columns of ``cost`` [n, K], float64.

    Costs are first scaled to the range from -1 to 1, so that epsilon means the same for every codebook.
    """
    lowest, highest = cost.min(), cost.max()
    scaled = (cost - (highest + lowest) / 2) / ((highest - lowest) / 2 + 1e-5)
    # Scale each row's largest entry to 1 and keep its factor apart: the plan is diag(rows) plan diag(columns).
    least = scaled.amin(dim=1, keepdim=True)
    exponent = (least - scaled) / epsilon
    plan, rows, columns = exponent.exp(), (-least.squeeze(1) / epsilon).exp(), exponent.new_ones(cost.shape[1])
    tiny = torch.finfo(plan.dtype).tiny
    for _ in range(iterations):
        columns = (1.0 / plan.shape[1]) / (rows @ plan).clamp_min(tiny)
        rows = (1.0 / plan.shape[0]) / (plan @ columns).clamp_min(tiny)
    return (exponent + columns.log()).argmax(dim=1)


@torch.no_grad()
def repair(node: Tensor, residual: Tensor, codebook: Tensor, settings: SinkhornSettings) -> Tensor:
    """Repair last codes [n] in at most 20 rounds, each balancing every group of colliding items over the codebook.

    ``node`` [n] numbers the codes chosen before the last level, ``residual`` [n, D] is to quantize there. Groups
    ignore codes that other items hold, so an item may come to collide with another; collisions left after the last
    round stay.
    """
    code = nearest(residual, codebook)
    for _ in range(_ROUNDS):
        repaired = code.clone()
        for group in _colliding(node * len(codebook) + code):
            repaired[group] = balanced(residual[group], codebook, settings)
        # Further rounds would balance the same groups in the same way.
        if torch.equal(repaired, code):
            break
        code = repaired
    return code


def _colliding(identifier: Tensor) -> tuple[Tensor, ...]:
    """Group the items that share an identifier [n], one tensor for each identifier with several items."""
    _, group, size = torch.unique(identifier, return_inverse=True, return_counts=True)
    items = torch.nonzero(size[group] > 1).squeeze(1)
    if not len(items):
        return ()
    items = items[torch.argsort(group[items], stable=True)]
    return torch.split(items, size[size > 1].tolist())

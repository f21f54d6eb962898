"""Quantize residuals by Eq. 3 and 4 of the paper, with the loss of Eq. 9 where gradients are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

#: Distances computed at once; bounds memory to a few hundred megabytes for any number of items.
_DISTANCES = 1 << 25


class Quantization(NamedTuple):
    """Hold the residual quantization of a batch; L levels, D dimensions."""

    #: Chosen codes [batch, L].
    codes: Tensor
    #: Residual after the last level [batch, D]; ``residual_gradient`` decides how it carries gradient.
    residual: Tensor
    #: Eq. 9: squared distances summed over dimensions and levels, averaged over the batch.
    loss: Tensor


def nearest(residual: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of each row's nearest code by Euclidean distance; ties go to the lower index.

    Maps ``residual`` [n, D] and ``codebook`` [K, D] to [n]. The squared norm of the residual is the same for all codes,
    so comparing |e|^2 / 2 - r.e suffices.
    """
    half_norms = codebook.square().sum(dim=1).mul_(0.5)
    scores = torch.addmm(half_norms, residual, codebook.T, alpha=-1.0)
    return scores.argmin(dim=1)


@torch.no_grad()
def encode(residual: Tensor, codebooks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute codes [n, L] and the remaining residuals [n, D], for any number of rows, without gradient."""
    codes = residual.new_empty((len(residual), len(codebooks)), dtype=torch.int64)
    residual = residual.clone()
    for rows in row_blocks(len(residual), max((len(codebook) for codebook in codebooks), default=1)):
        for level, codebook in enumerate(codebooks):
            codes[rows, level] = nearest(residual[rows], codebook)
            residual[rows] -= codebook[codes[rows, level]]
    return codes, residual


def row_blocks(rows: int, width: int, distances: int = _DISTANCES) -> Iterator[slice]:
    """Slice ``rows`` rows into blocks with at most ``distances`` distances to ``width`` codes."""
    step = max(1, distances // max(1, width))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


#: Function that chooses a code from [K, D] for each row of [batch, D].
Choice = Callable[[Tensor, Tensor], Tensor]


def quantize(
    residual: Tensor,
    codebooks: Sequence[Tensor],
    commitment: float,
    residual_gradient: bool,
    choices: Sequence[Choice] | None = None,
) -> Quantization:
    """Quantize a batch [batch, D] level by level through ``codebooks``, [K, D] each (Eq. 3, 4), with the loss of Eq. 9.

    ``residual_gradient`` false matches the released code: the residual after a level is a constant, so the commitment
    terms of all later levels train nothing. True lets them reach the encoder, as Eq. 9 is written. ``choices`` sets how
    each level chooses its code; without it, every level takes the nearest one.
    """
    codes, loss = [], residual.new_zeros(())
    for codebook, choose in zip(codebooks, choices or [nearest] * len(codebooks), strict=True):
        with torch.no_grad():
            chosen = choose(residual, codebook)
        # Use an embedding look-up, because its backward pass sums in a fixed order on every device.
        entries = functional.embedding(chosen, codebook)
        loss = (
            loss + _squared_norm(residual.detach() - entries) + commitment * _squared_norm(residual - entries.detach())
        )
        residual = residual - entries.detach()
        if not residual_gradient:
            residual = residual.detach()
        codes.append(chosen)
    stacked = torch.stack(codes, dim=1) if codes else residual.new_zeros((len(residual), 0), dtype=torch.int64)
    return Quantization(stacked, residual, loss)


def _squared_norm(difference: Tensor) -> Tensor:
    return difference.square().sum(dim=1).mean()

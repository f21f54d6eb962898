"""Residual quantization: Eq. 3 and 4 of the paper, with the loss of Eq. 9 where gradients are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

#: Distances computed at once: bounds memory to a few hundred megabytes whatever the number of items.
_BLOCK = 1 << 25


class Quantization(NamedTuple):
    """What residual quantization of a batch gives; L levels, D dimensions."""

    #: Chosen codes [batch, L].
    codes: Tensor
    #: Residual after the last level [batch, D]; it carries gradient as ``residual_gradient`` says.
    residual: Tensor
    #: Eq. 9: squared distances summed over dimensions and levels, averaged over the batch.
    loss: Tensor


def nearest(residual: Tensor, codebook: Tensor) -> Tensor:
    """Index of the code of least Euclidean distance for each row; ties go to the lower index.

    ``residual`` [n, D] and ``codebook`` [K, D] give [n]. The squared norm of the residual is the same for all codes,
    so comparing |e|^2 / 2 - r.e decides.
    """
    half_norms = codebook.square().sum(dim=1).mul_(0.5)
    scores = torch.addmm(half_norms, residual, codebook.T, alpha=-1.0)
    return scores.argmin(dim=1)


@torch.no_grad()
def encode(residual: Tensor, codebooks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Codes [n, L] and the residuals that are left [n, D], for any number of rows, without gradient."""
    codes = residual.new_empty((len(residual), len(codebooks)), dtype=torch.int64)
    left = residual.clone()
    for rows in row_blocks(len(residual), max((len(codebook) for codebook in codebooks), default=1)):
        for level, codebook in enumerate(codebooks):
            codes[rows, level] = nearest(left[rows], codebook)
            left[rows] -= codebook[codes[rows, level]]
    return codes, left


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices that cut ``rows`` rows into blocks whose distances to ``width`` codes fit in memory."""
    step = max(1, _BLOCK // max(1, width))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


#: Chooses a code for each row of [batch, D] from [K, D].
Choice = Callable[[Tensor, Tensor], Tensor]


def quantize(
    residual: Tensor,
    codebooks: Sequence[Tensor],
    commitment: float,
    residual_gradient: bool,
    choices: Sequence[Choice] | None = None,
) -> Quantization:
    """Quantize a batch [batch, D] level by level through ``codebooks``, [K, D] each (Eq. 3, 4), with the loss of Eq. 9.

    ``residual_gradient`` false is the released behavior: a residual past a level is a constant, so the commitment
    terms of all later levels train nothing. True lets them reach the encoder, as Eq. 9 is written. ``choices`` says how
    each level chooses; without it, every level takes the nearest code.
    """
    codes, loss = [], residual.new_zeros(())
    for codebook, choose in zip(codebooks, choices or [nearest] * len(codebooks), strict=True):
        with torch.no_grad():
            chosen = choose(residual, codebook)
        # An embedding look-up, because its backward pass adds up in a fixed order on every device.
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

"""Measure the quality of identifiers: collisions, code use, and the cost of the unique assignment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from gensar_core.runtime.arrays import Ragged


def collision_rate(identifiers: Tensor) -> float:
    """Compute 1 - distinct identifiers / items, for identifiers [n, L] (paper, section 4.5)."""
    return 1.0 - len(torch.unique(identifiers, dim=0)) / len(identifiers)


def colliding_items(identifiers: Tensor) -> int:
    """Count the items that share their identifier with another, for identifiers [n, L]."""
    _, counts = torch.unique(identifiers, dim=0, return_counts=True)
    return int(counts[counts > 1].sum())


def row_collisions(rows: Ragged | Sequence[str]) -> tuple[float, int]:
    """Return the collision rate of rows of codes or of texts, and the number of items that share theirs."""
    if isinstance(rows, Ragged):
        padded = torch.from_numpy(rows.padded(int(rows.lengths.max(initial=0)), -1))
        return collision_rate(padded), colliding_items(padded)
    counts = pl.Series(rows).value_counts().get_column("count")
    return 1.0 - len(counts) / len(rows), int(counts.filter(counts > 1).sum())


def code_counts(rows: Ragged, sizes: Sequence[int]) -> dict[str, list[float]]:
    """Compute `code_use` of rows that may differ in length: that of a level is over the items that have it."""
    position = np.arange(len(rows.values)) - rows.offsets[rows.rows]
    levels = [torch.from_numpy(rows.values[position == level]).unsqueeze(1) for level in range(len(sizes))]
    uses = [code_use(codes, [size]) for codes, size in zip(levels, sizes, strict=True)]
    return {name: [use[name][0] for use in uses] for name in ("usage", "perplexity")}


def code_use(identifiers: Tensor, sizes: Sequence[int]) -> dict[str, list[float]]:
    """Compute, for each level of [n, L], the share of its codes in use and the perplexity of their distribution.

    The perplexity of a level is the number of codes that, evenly used, would carry as much information.
    """
    usage, perplexity = [], []
    for codes, size in zip(identifiers.unbind(dim=1), sizes, strict=True):
        counts = torch.bincount(codes, minlength=size).double()
        shares = counts[counts > 0] / len(codes)
        usage.append(float((counts > 0).double().mean()))
        perplexity.append(float(torch.exp(-(shares * shares.log()).sum())))
    return {"usage": usage, "perplexity": perplexity}


def distortion(latents: Tensor, quantized: Tensor) -> float:
    """Compute the mean squared distance between latents and their quantization, both [n, d]."""
    return float((latents - quantized).square().sum(dim=1).mean())

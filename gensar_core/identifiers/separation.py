"""Separate colliding items by spending a few of the last level's codes on them.

k-means places codes where items are dense, which is exactly where two items share a code. A pair a, b on code e is
separated by one more code on the line through them, beyond a: close enough to a to take it from e, far enough from b to
leave b on e. The codes to spend are those whose items lose least by moving to their second nearest code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gensar_core.identifiers.quantize import encode, row_blocks
from gensar_core.identifiers.rqvae import RQVAE

#: Each round scans all items, so a few rounds must suffice.
_ROUNDS = 16


@torch.no_grad()
def separate_last_level(model: RQVAE, latents: Tensor) -> None:
    """Separate the items that collide under ``model`` by each side's last codebook, given all items' ``latents``."""
    for _, node, residual, codebook in last_levels(model, latents):
        codebook.copy_(separate(node, residual, codebook, model.settings.separation_share))


@torch.no_grad()
def last_levels(model: RQVAE, latents: Tensor) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Yield the last level of every identifier: its chain, each item's node and residual there, and its codebook.

    A node [n] numbers a prefix of codes in the code tree; residuals are [n, D], the codebook [K, D]. The chain is
    `shared` where no side has specific levels.
    """
    residuals, above = {"shared": latents}, latents.new_zeros((len(latents), 0), dtype=torch.int64)
    if model.settings.specific_levels:
        above, residual = encode(latents, list(model.shared))
        residuals = model.split(residual)
    for chain, residual in residuals.items():
        *codebooks, last = model.chains()[chain]
        codes, residual = encode(residual.contiguous(), codebooks)
        _, node = torch.unique(torch.cat([above, codes], dim=1), dim=0, return_inverse=True)
        yield chain, node, residual, last


@torch.no_grad()
def separate(node: Tensor, residual: Tensor, codebook: Tensor, share: float) -> Tensor:
    """Return a codebook [K, D] under which fewer items collide, with at most ``share`` of its codes moved.

    ``node`` [n] numbers the codes chosen before the last level, ``residual`` [n, D] is to quantize there. The returned
    codebook never has more collisions than the given one.
    """
    budget = at_once = int(share * len(codebook))
    choice = _nearest_two(residual, codebook)
    collisions = _collisions(node, choice.first, len(codebook))
    for _ in range(_ROUNDS):
        if not collisions or min(budget, at_once) == 0:
            break
        points = _parting_points(node, residual, codebook, choice.first)[: min(budget, at_once)]
        if not len(points):
            break
        changed = codebook.clone()
        changed[_dispensable(node, choice, len(codebook))[: len(points)]] = points
        new_choice = _nearest_two(residual, changed)
        remaining = _collisions(node, new_choice.first, len(codebook))
        if remaining < collisions:
            budget -= len(points)
            codebook, choice, collisions = changed, new_choice, remaining
        else:
            at_once //= 2
    return codebook


class _Choice(NamedTuple):
    #: Nearest and second nearest code of every item [n].
    first: Tensor
    second: Tensor
    #: Squared distance to the second less that to the first [n].
    gap: Tensor


def _nearest_two(residual: Tensor, codebook: Tensor) -> _Choice:
    first = torch.empty(len(residual), dtype=torch.int64, device=residual.device)
    second, gap = first.clone(), residual.new_empty(len(residual))
    norms = codebook.square().sum(dim=1)
    for rows in row_blocks(len(residual), len(codebook)):
        distance = torch.addmm(norms, residual[rows], codebook.T, alpha=-2.0)
        two = distance.topk(2, dim=1, largest=False)
        first[rows], second[rows] = two.indices.unbind(dim=1)
        gap[rows] = two.values[:, 1] - two.values[:, 0]
    return _Choice(first, second, gap)


def _collisions(node: Tensor, code: Tensor, size: int) -> int:
    """Count items less distinct identifiers."""
    return len(node) - len(torch.unique(node * size + code))


def _dispensable(node: Tensor, choice: _Choice, size: int) -> Tensor:
    """Order all codes, most dispensable first: by the collisions, then the loss, of moving items to second codes."""
    would_collide = torch.isin(node * size + choice.second, node * size + choice.first)
    # Sum on the CPU, where the order is fixed.
    first = choice.first.cpu().numpy()
    loss = np.bincount(first, weights=choice.gap.cpu().double().numpy(), minlength=size)
    collide = np.bincount(first, weights=would_collide.cpu().numpy(), minlength=size)
    return torch.from_numpy(np.lexsort((loss, collide))).to(node.device)


def _parting_points(node: Tensor, residual: Tensor, codebook: Tensor, code: Tensor) -> Tensor:
    """Return one point [groups, D] for each group of colliding items that differ: it parts off the outermost item a."""
    _, group, size = torch.unique(node * len(codebook) + code, return_inverse=True, return_counts=True)
    rows = torch.nonzero(size[group] > 1).squeeze(1)
    distance = (residual[rows] - codebook[code[rows]]).norm(dim=1)
    # Sort by group and, within it, from the outermost item inwards: a and b are the first two of each group.
    order = torch.argsort(distance, descending=True, stable=True)
    order = order[torch.argsort(group[rows][order], stable=True)]
    rows, distance = rows[order], distance[order]
    first = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    first[1:] = group[rows][1:] != group[rows][:-1]
    a = torch.nonzero(first).squeeze(1)
    apart = residual[rows[a]] - residual[rows[a + 1]]
    length = apart.norm(dim=1)
    differ = length > 0
    beyond = ((distance[a + 1] - length).clamp_min(0.0) + distance[a]) / 2
    points: Tensor = residual[rows[a]] + apart * (beyond / length.clamp_min(1e-12)).unsqueeze(1)
    return points[differ]

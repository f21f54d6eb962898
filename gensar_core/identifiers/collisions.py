"""Resolve collisions, items that share an identifier: one function for each value of the setting `collisions`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gensar_core.config.identifiers import SinkhornSettings
from gensar_core.identifiers.rqvae import RQVAE, Codes
from gensar_core.identifiers.separation import last_levels
from gensar_core.identifiers.sinkhorn import repair
from gensar_core.identifiers.unique import unique_codes


@dataclass(frozen=True)
class Resolved:
    """Hold the codes after collisions are resolved, and any extra digits."""

    codes: Codes
    #: side -> [n]: each item's number among the items with its identifier.
    digits: dict[str, Tensor] = field(default_factory=dict)

    def identifier(self, side: str) -> Tensor:
        """Return a side's full identifiers [n, L], extra digit last."""
        codes = self.codes.identifier(side)
        return torch.cat([codes, self.digits[side].unsqueeze(1)], dim=1) if self.digits else codes


def resolve(model: RQVAE, latents: Tensor, raw: Codes) -> Resolved:
    """Resolve the collisions of ``raw``, the nearest codes of ``latents``, as ``model.settings.collisions`` specifies.

    Raises UserError when identifiers must be unique but there are fewer of them than items.
    """
    match model.settings.collisions:
        case "unique":
            return Resolved(_moved(model, latents, raw))
        case "extra_digit":
            return Resolved(raw, {side: occurrence(raw.identifier(side)) for side in model.sides})
        case "sinkhorn_repair":
            return Resolved(_repaired(model, latents, raw))
        case "none":
            return Resolved(raw)


def occurrence(identifiers: Tensor) -> Tensor:
    """Count the earlier items with the same identifier, [n] for identifiers [n, L]: TIGER's last code."""
    _, group = torch.unique(identifiers, dim=0, return_inverse=True)
    order = np.argsort(group.cpu().numpy(), kind="stable")
    sorted_group = group.cpu().numpy()[order]
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order)) - np.searchsorted(sorted_group, sorted_group)
    return torch.from_numpy(number).to(identifiers.device)


def _moved(model: RQVAE, latents: Tensor, raw: Codes) -> Codes:
    """Make identifiers unique on every side while staying close to ``raw``; see `unique.unique_codes`."""
    shared, specific = unique_codes(
        latents.cpu().numpy(),
        [codebook.detach().cpu().numpy() for codebook in model.shared],
        [[codebook.detach().cpu().numpy() for codebook in model.specific_codebooks(side)] for side in model.sides],
        raw.shared.cpu().numpy(),
        [raw.specific[side].cpu().numpy() for side in model.sides],
    )
    shared_codes, *specific_codes = (torch.from_numpy(codes).to(latents.device) for codes in (shared, *specific))
    return Codes(shared_codes, dict(zip(model.sides, specific_codes, strict=True)))


def _repaired(model: RQVAE, latents: Tensor, raw: Codes) -> Codes:
    """Repair the last level with `sinkhorn.repair`, each side separately."""
    chains = raw.chains()
    for chain, node, residual, codebook in last_levels(model, latents):
        last = repair(node, residual, codebook, model.settings.sinkhorn or SinkhornSettings())
        chains[chain] = torch.cat([chains[chain][:, :-1], last.unsqueeze(1)], dim=1)
    return Codes(chains.pop("shared"), chains)

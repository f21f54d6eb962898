"""Resolve collisions, items that share an identifier: one function for each value of the setting `collisions`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gensar_core.config.identifiers import SinkhornSettings
from gensar_core.identifiers.quantize import encode
from gensar_core.identifiers.rqvae import RQVAE, Codes
from gensar_core.identifiers.separation import last_nodes
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
    groups = group.cpu().numpy()
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    number = np.empty(len(groups), dtype=np.int64)
    number[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return torch.from_numpy(number).to(identifiers.device)


def _moved(model: RQVAE, latents: Tensor, raw: Codes) -> Codes:
    """Make identifiers unique on every side while staying close to ``raw``; see `unique.unique_codes`."""
    shared, specific = unique_codes(
        latents.cpu().numpy(),
        [codebook.detach().cpu().numpy() for codebook in model.shared],
        [[codebook.detach().cpu().numpy() for codebook in model.own(side)] for side in model.sides],
        raw.shared.cpu().numpy(),
        [raw.specific[side].cpu().numpy() for side in model.sides],
    )
    own = {side: torch.from_numpy(code).to(latents.device) for side, code in zip(model.sides, specific, strict=True)}
    return Codes(torch.from_numpy(shared).to(latents.device), own)


def _repaired(model: RQVAE, latents: Tensor, raw: Codes) -> Codes:
    """Repair the last level with `sinkhorn.repair`, each side separately."""
    settings = model.settings.sinkhorn or SinkhornSettings()
    nothing = raw.shared[:, :0]
    if not model.settings.specific_levels:
        last = repair(*last_nodes(list(model.shared), nothing, latents), model.shared[-1], settings)
        return Codes(_with_last(raw.shared, last), raw.specific)
    _, left = encode(latents, list(model.shared))
    own = {}
    for side, part in model.split(left).items():
        codebooks = model.own(side)
        last = repair(*last_nodes(codebooks, raw.shared, part.contiguous()), codebooks[-1], settings)
        own[side] = _with_last(raw.specific[side], last)
    return Codes(raw.shared, own)


def _with_last(codes: Tensor, last: Tensor) -> Tensor:
    return torch.cat([codes[:, :-1], last.unsqueeze(1)], dim=1)

"""What becomes of items that share an identifier: one function a way of `collisions`."""

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
    """Codes after collisions were dealt with, and the extra digits, if any."""

    codes: Codes
    #: side -> [n]: the number of each item among those with its identifier.
    digits: dict[str, Tensor] = field(default_factory=dict)

    def identifier(self, side: str) -> Tensor:
        """The whole identifiers of a side [n, L], the digit last."""
        codes = self.codes.identifier(side)
        return torch.cat([codes, self.digits[side].unsqueeze(1)], dim=1) if self.digits else codes


def resolve(model: RQVAE, latents: Tensor, raw: Codes) -> Resolved:
    """Deal with the collisions of ``raw``, the nearest codes of ``latents``, as ``model.settings.collisions`` says.

    Raises UserError when all identifiers are to be unique and there are fewer of them than items.
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
    """How many earlier items have the identifier of each [n], for identifiers [n, L]: TIGER's last code."""
    _, group = torch.unique(identifiers, dim=0, return_inverse=True)
    groups = group.cpu().numpy()
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    number = np.empty(len(groups), dtype=np.int64)
    number[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return torch.from_numpy(number).to(identifiers.device)


def _moved(model: RQVAE, latents: Tensor, raw: Codes) -> Codes:
    """Codes that no two items share on any side, as close to ``raw`` as `unique.unique_codes` says."""
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
    """Codes whose last level `sinkhorn.repair` has gone over, each side by itself."""
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

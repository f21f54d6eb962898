"""Quantize the vectors of one or two sides level by level, and make the identifiers unique (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from gensar_core.config.identifiers import QuantizerSettings
from gensar_core.errors import UserError
from gensar_core.identifiers.collisions import Resolved, resolve
from gensar_core.identifiers.fit import fit
from gensar_core.identifiers.interface import KindData, SideIdentifiers, Work
from gensar_core.identifiers.quality import code_use, collision_rate, distortion
from gensar_core.identifiers.rqvae import RQVAE, Codes, save_rqvae
from gensar_core.identifiers.table import Scheme
from gensar_core.identifiers.unique import check_room
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import pick_device
from gensar_core.runtime.stage import digest, write_json
from gensar_core.runtime.tensors import load_vectors
from gensar_core.samples.cold_items import mark_cold_items

#: Side -> letter of its levels.
LETTERS: Final = {"semantic": "S", "collaborative": "R"}


def quantized_sides(settings: QuantizerSettings, data: KindData, work: Work) -> dict[str, SideIdentifiers]:
    """Learn identifiers from one or two vectors.safetensors files, by side.

    Writes model.safetensors and curve.json. Raises UserError when vectors are not finite or cover different numbers of
    items, and when identifiers must be unique but the levels offer too few.
    """
    stage, paths = work.stage, data.vectors
    vectors = read_sides(paths)
    if settings.collisions == "unique":
        check_room(len(next(iter(vectors.values()))), settings.sizes)
    # The stage's key does not record which file belongs to which side.
    key = f"{stage.key} {' '.join(f'{side}={digest(path)}' for side, path in paths.items())}"
    model, record = fit(trained_rows(vectors, data.cold_items), settings, work.seed, work.checkpoints, key)

    scaled = model.scale(vectors)
    del vectors
    latents = model.all_latents(scaled)
    raw = model.encode_latents(latents)
    resolved = resolve(model, latents, raw)
    stage.record(best_step=record.best_step, steps=record.steps)
    save_rqvae(model, stage.path("model.safetensors"))
    write_json(stage.path("curve.json"), record.history)
    counts, schemes = _counts(model, scaled, latents, raw, resolved), _schemes(model.sides, settings, resolved)
    return {
        side: SideIdentifiers(
            code_rows(resolved.identifier(side).cpu().numpy()),
            schemes[side],
            (raw.identifier(side) != resolved.codes.identifier(side)).any(dim=1).cpu().numpy(),
            counts[side],
        )
        for side in model.sides
    }


def read_sides(paths: Mapping[str, Path]) -> dict[str, Tensor]:
    """Read the item vectors of each side onto the device used for fitting. Raises UserError when they are unusable."""
    device = pick_device()
    matrices = {side: load_vectors(path) for side, path in paths.items()}
    for side, matrix in matrices.items():
        if matrix.ndim != 2 or not matrix.size:
            raise UserError(
                f"{paths[side]}: 'items' has shape {matrix.shape}, not [items, dimensions] with items in it"
            )
        broken = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if len(broken):
            raise UserError(
                f"{paths[side]}: the vector of item {broken[0]} is not finite ({len(broken)} items in all); "
                "build the embedding again"
            )
    if len({len(matrix) for matrix in matrices.values()}) > 1:
        sizes = ", ".join(f"{paths[side]} has {len(matrix):,} items" for side, matrix in matrices.items())
        raise UserError(f"{sizes}; both embeddings must be of the same data set")
    return {side: torch.from_numpy(matrix).float().to(device) for side, matrix in matrices.items()}


def trained_rows(vectors: Mapping[str, Tensor], cold_items: Path | None) -> dict[str, Tensor]:
    """Return the rows of vectors, side -> [n, dimensions], without those of the table ``cold_items``."""
    if cold_items is None:
        return dict(vectors)
    return {
        side: matrix[torch.from_numpy(~mark_cold_items(cold_items, len(matrix))).to(matrix.device)]
        for side, matrix in vectors.items()
    }


def _counts(
    model: RQVAE,
    scaled: Mapping[str, Tensor],
    latents: Tensor,
    raw: Codes,
    resolved: Resolved,
) -> dict[str, dict[str, Any]]:
    """Return each side's quality metrics, before (raw) and after resolving collisions."""
    raw_unexplained, unexplained = (model.unexplained_variance(scaled, codes) for codes in (raw, resolved.codes))
    exact, before, after = (
        model.split(vectors) for vectors in (latents, model.quantized(raw), model.quantized(resolved.codes))
    )
    counts: dict[str, dict[str, Any]] = {}
    for side in model.sides:
        raw_distortion = distortion(exact[side], before[side])
        counts[side] = {
            "raw_collision_rate": collision_rate(raw.identifier(side)),
            "raw_distortion": raw_distortion,
            "added_distortion": distortion(exact[side], after[side]) - raw_distortion,
            "raw_unexplained_variance": raw_unexplained[side],
            "unexplained_variance": unexplained[side],
            **code_use(raw.identifier(side), model.settings.sizes),
        }
    return counts


def _schemes(sides: tuple[str, ...], settings: QuantizerSettings, resolved: Resolved) -> dict[str, Scheme]:
    """Name the levels of each side: M for the shared levels, then S or R for the side's specific levels.

    With a single side, all levels carry its letter. An extra digit is one more specific level.
    """
    shared = 0 if len(sides) == 1 else settings.shared_levels
    schemes = {}
    for side in sides:
        sizes = [*settings.sizes, *([int(resolved.digits[side].max()) + 1] if resolved.digits else [])]
        levels = [f"M{level + 1}" for level in range(shared)]
        levels += [f"{LETTERS[side]}{level + 1}" for level in range(len(sizes) - shared)]
        schemes[side] = Scheme(levels=levels, sizes=sizes)
    return schemes


def code_rows(codes: np.ndarray) -> Ragged:
    """Return codes [n, L] as rows."""
    items, levels = codes.shape
    return Ragged(np.arange(items + 1) * levels, codes.ravel())

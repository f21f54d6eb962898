"""Build two unique identifiers for every item from item vectors (paper, section 3.2): the stage `identifiers`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gensar_core.config.identifiers import QuantizerSettings
from gensar_core.errors import UserError
from gensar_core.identifiers.collisions import Resolved, resolve
from gensar_core.identifiers.fit import fit
from gensar_core.identifiers.quality import code_use, colliding_items, collision_rate, distortion
from gensar_core.identifiers.rqvae import RQVAE, Codes, save_rqvae
from gensar_core.identifiers.table import Scheme, Vocabulary, save_identifiers
from gensar_core.identifiers.unique import check_room
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import pick_device
from gensar_core.runtime.stage import Stage, digest, write_json
from gensar_core.runtime.tensors import load_vectors
from gensar_core.schema import SIDES


def build_identifiers(
    semantic: Path | None,
    collaborative: Path | None,
    output: Path,
    settings: QuantizerSettings,
    seed: int,
    checkpoints: Path | None,
) -> None:
    """Learn identifiers from one or two vectors.safetensors files and write them to the folder ``output``.

    Writes identifiers.parquet, vocabulary.json, model.safetensors and curve.json. With a single file, both sides get
    the identifiers learned from it. A killed run continues from the folder ``checkpoints``. Raises UserError when
    vectors are missing, not finite or cover different numbers of items, and when identifiers must be unique but the
    levels offer too few.
    """
    given = {"semantic": semantic, "collaborative": collaborative}
    paths = {side: path for side, path in given.items() if path is not None}
    if not paths:
        raise UserError("identifiers: give a semantic embedding, a collaborative one, or both")
    with Stage("identifiers", output, settings=settings, inputs=paths.values(), seed=seed, code=__name__) as stage:
        vectors = read_sides(paths)
        items = len(next(iter(vectors.values())))
        if settings.collisions == "unique":
            check_room(items, settings.sizes)
        # The stage's key does not record which file belongs to which side.
        key = f"{stage.key} {' '.join(f'{side}={digest(path)}' for side, path in paths.items())}"
        model, record = fit(vectors, settings, seed, checkpoints, key)

        scaled = model.scale(vectors)
        del vectors
        latents = model.all_latents(scaled)
        raw = model.encode_latents(latents)
        resolved = resolve(model, latents, raw)
        moved = {
            side: (raw.identifier(side) != resolved.codes.identifier(side)).any(dim=1).cpu().numpy()
            for side in model.sides
        }
        stage.record(items=items, best_step=record.best_step, steps=record.steps)
        stage.record(**_counts(model, scaled, latents, raw, resolved, moved))
        save_identifiers(
            _both_sides({side: _rows(resolved.identifier(side)) for side in model.sides}),
            _both_sides(moved),
            _vocabulary(model.sides, settings, resolved),
            stage.path("identifiers.parquet"),
            stage.path("vocabulary.json"),
        )
        save_rqvae(model, stage.path("model.safetensors"))
        write_json(stage.path("curve.json"), record.history)
    if checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)


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


def _counts(
    model: RQVAE,
    scaled: Mapping[str, Tensor],
    latents: Tensor,
    raw: Codes,
    resolved: Resolved,
    moved: Mapping[str, np.ndarray],
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
            "collision_rate": collision_rate(resolved.identifier(side)),
            "colliding_items": colliding_items(resolved.identifier(side)),
            "moved_items": int(moved[side].sum()),
            "raw_distortion": raw_distortion,
            "added_distortion": distortion(exact[side], after[side]) - raw_distortion,
            "raw_unexplained_variance": raw_unexplained[side],
            "unexplained_variance": unexplained[side],
            **code_use(raw.identifier(side), model.settings.sizes),
        }
    return counts


def _vocabulary(sides: tuple[str, ...], settings: QuantizerSettings, resolved: Resolved) -> Vocabulary:
    """Name the levels of each side: M for the shared levels, then S or R for the side's specific levels.

    With a single side, all levels carry its letter, and both sides use them. An extra digit is one more specific level.
    """
    letters = {"semantic": "S", "collaborative": "R"}
    shared = 0 if len(sides) == 1 else settings.shared_levels
    schemes = {}
    for side in sides:
        sizes = [*settings.sizes, *([int(resolved.digits[side].max()) + 1] if resolved.digits else [])]
        letter = letters[side]
        levels = [f"M{level + 1}" for level in range(shared)]
        levels += [f"{letter}{level + 1}" for level in range(len(sizes) - shared)]
        schemes[side] = Scheme(levels=levels, sizes=sizes)
    return Vocabulary(**_both_sides(schemes))


def _both_sides(values: Mapping[str, Any]) -> dict[str, Any]:
    """Map both sides to their values, using the only value twice when there is a single side."""
    return {side: values[side] if side in values else next(iter(values.values())) for side in SIDES}


def _rows(codes: Tensor) -> Ragged:
    items, levels = codes.shape
    return Ragged(np.arange(items + 1) * levels, codes.cpu().numpy().ravel())

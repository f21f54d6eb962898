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
    with Stage(
        "identifiers",
        output,
        settings=settings,
        inputs=paths.values(),
        seed=seed,
        code="gensar_core.identifiers.build",
    ) as stage:
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
        stage.record(items=items, best_step=record.best_step, steps=record.steps)
        stage.record(**_counts(model, scaled, latents, raw, resolved))

        moved = {side: _changed(raw, resolved.codes, side).cpu().numpy() for side in model.sides}
        codes = {side: _rows(resolved.identifier(side)) for side in model.sides}
        save_identifiers(
            _both_sides(codes),
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
        wrong = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if len(wrong):
            raise UserError(
                f"{paths[side]}: the vector of item {wrong[0]} is not finite ({len(wrong)} items in all); "
                "build the embedding again"
            )
    counts = {side: len(matrix) for side, matrix in matrices.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{paths[side]} has {count:,} items" for side, count in counts.items())
        raise UserError(f"{told}; both embeddings must be of the same data set")
    return {side: torch.from_numpy(matrix).float().to(device) for side, matrix in matrices.items()}


def _changed(raw: Codes, now: Codes, side: str) -> Tensor:
    """Mark items whose codes differ from those they were encoded to, bool [n]."""
    return (raw.identifier(side) != now.identifier(side)).any(dim=1)


def _counts(
    model: RQVAE, scaled: Mapping[str, Tensor], latents: Tensor, raw: Codes, resolved: Resolved
) -> dict[str, dict[str, Any]]:
    """Return each side's quality metrics, before (raw) and after resolving collisions."""
    unexplained = model.unexplained_variance(scaled, raw), model.unexplained_variance(scaled, resolved.codes)
    whole = model.split(latents)
    before, after = model.split(model.quantized(raw)), model.split(model.quantized(resolved.codes))
    counts: dict[str, dict[str, Any]] = {}
    for side in model.sides:
        raw_distortion, new_distortion = distortion(whole[side], before[side]), distortion(whole[side], after[side])
        counts[side] = {
            "raw_collision_rate": collision_rate(raw.identifier(side)),
            "collision_rate": collision_rate(resolved.identifier(side)),
            "colliding_items": colliding_items(resolved.identifier(side)),
            "moved_items": int(_changed(raw, resolved.codes, side).sum()),
            "raw_distortion": raw_distortion,
            "added_distortion": new_distortion - raw_distortion,
            "raw_unexplained_variance": unexplained[0][side],
            "unexplained_variance": unexplained[1][side],
            **code_use(raw.identifier(side), model.settings.sizes),
        }
    return counts


def _vocabulary(sides: tuple[str, ...], settings: QuantizerSettings, resolved: Resolved) -> Vocabulary:
    """Name the levels of each side: M for the shared levels, then S or R for the side's specific levels.

    With a single side, all levels carry its letter, and both sides use them. An extra digit is one more specific level.
    """
    letters = {"semantic": "S", "collaborative": "R"}
    shared = 0 if len(sides) == 1 else settings.shared_levels
    own = settings.levels - shared
    schemes = {}
    for side in sides:
        levels = [f"M{level + 1}" for level in range(shared)] + [f"{letters[side]}{level + 1}" for level in range(own)]
        sizes = list(settings.sizes)
        if resolved.digits:
            levels.append(f"{letters[side]}{own + 1}")
            sizes.append(int(resolved.digits[side].max()) + 1)
        schemes[side] = Scheme(levels=levels, sizes=sizes)
    return Vocabulary(**_both_sides(schemes))


def _both_sides(values: Mapping[str, Any]) -> dict[str, Any]:
    """Map both sides to their values, using the only value twice when there is a single side."""
    return {side: values[side] if side in values else next(iter(values.values())) for side in SIDES}


def _rows(codes: Tensor) -> Ragged:
    matrix = codes.cpu().numpy()
    return Ragged.from_lengths(np.full(len(matrix), matrix.shape[1]), matrix.ravel())

"""Build the identifiers of every item, by any kind: the stage `identifiers`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gensar_core.config.identifiers import KindSettings
from gensar_core.identifiers.interface import KindData, SideIdentifiers, Work, find_kind
from gensar_core.identifiers.quality import code_counts, row_collisions
from gensar_core.identifiers.table import Vocabulary, save_identifiers
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.stage import Stage
from gensar_core.schema import SIDES


def build_identifiers(
    data: KindData, output: Path, settings: KindSettings, seed: int, checkpoints: Path | None
) -> None:
    """Build the identifiers of all items by the kind that ``settings`` names, and write them to the folder ``output``.

    Writes identifiers.parquet, vocabulary.json, and the kind's own files. A kind that builds one side gives both sides
    its identifiers. A killed run continues from the folder ``checkpoints``. Raises UserError when data that the kind
    declares is missing or unfit.
    """
    kind = find_kind(settings.kind)
    data = data.declared(settings.inputs)
    with Stage(
        "identifiers",
        output,
        settings=settings,
        inputs=data.paths,
        seed=seed,
        code=f"gensar_core.identifiers.kinds.{settings.kind}",
        # Files that another kind left here, such as its curve, and a report on its identifiers, would mislead.
        alone=True,
    ) as stage:
        sides = kind.build(settings, data, Work(stage, seed, checkpoints))
        items = len(next(iter(sides.values())).rows)
        moved = {side: np.zeros(items, dtype=bool) if one.moved is None else one.moved for side, one in sides.items()}
        stage.record(items=items, **{side: _counts(one, moved[side]) for side, one in sides.items()})
        save_identifiers(
            _both_sides({side: one.rows for side, one in sides.items()}),
            _both_sides(moved),
            Vocabulary(**_both_sides({side: one.scheme for side, one in sides.items()})),
            stage.path("identifiers.parquet"),
            stage.path("vocabulary.json"),
        )
    if checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)


def _counts(side: SideIdentifiers, moved: np.ndarray) -> dict[str, Any]:
    """Return a side's quality metrics; where nothing was resolved, the raw collision rate is the final one."""
    rate, colliding = row_collisions(side.rows)
    use = code_counts(side.rows, side.scheme.sizes) if isinstance(side.rows, Ragged) else {}
    counts = {
        "raw_collision_rate": rate,
        "collision_rate": rate,
        "colliding_items": colliding,
        "moved_items": int(moved.sum()),
    }
    return {**counts, **use, **side.counts}


def _both_sides(values: Mapping[str, Any]) -> dict[str, Any]:
    """Map both sides to their values, using the only value twice when there is a single side."""
    return {side: values[side] if side in values else next(iter(values.values())) for side in SIDES}

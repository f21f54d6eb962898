"""Build what `gensar tune` varies from an entry of the configuration and a data set's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gensar_core.baselines.interface import find
from gensar_core.config.base import not_an_entry
from gensar_core.config.experiments import Experiments
from gensar_core.config.generators import TrainingSettings
from gensar_core.errors import UserError
from gensar_core.tuning.fitting import Tuned, TunedGenerator, TunedMethod


def read_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs, whose values are JSON. Raises UserError on any other text."""
    return {key: _read_json(f"--set {pair}", value) for pair in pairs for key, _, value in [pair.partition("=")]}


def read_grid(text: str) -> dict[str, list[Any]]:
    """Read lists of values by the paths of their keys. Raises UserError on any other text."""
    grid = _read_json("--grid", text)
    if not isinstance(grid, dict) or not grid or not all(isinstance(one, list) and one for one in grid.values()):
        raise UserError('--grid: write a list of values for each key: {"dropout": [0.3, 0.5]}')
    return grid


def _read_json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); quote texts: KEY='\"value\"'") from None


def tuned_entry(dataset: Path, experiments: Experiments, name: str) -> Tuned:
    """Find an entry of `methods` or `generators`, and the files in the folder ``dataset`` that it reads.

    Raises UserError on a name that is neither.
    """
    known = experiments.datasets.get(dataset.name)
    cold_items = dataset / "samples/cold_items.parquet" if known is not None and known.samples.cold_share else None
    if name in experiments.methods:
        method = experiments.methods[name]
        embedding = dataset / f"embeddings/{method.embedding}/vectors.safetensors" if method.embedding else None
        reads_negatives = "training_negatives" in find(method.kind, f"methods.{name}.kind").inputs
        return TunedMethod(
            name,
            experiments.seed_of(method),
            method.kind,
            method.own(),
            dataset / "canonical",
            dataset / "samples",
            embedding,
            dataset / "training_negatives/training_negatives.parquet" if reads_negatives else None,
            cold_items,
        )
    if name in experiments.generators:
        generator = experiments.generators[name]
        warm = dataset / f"token_vectors/{generator.corpus}/token_vectors.safetensors"
        return TunedGenerator(
            name,
            experiments.seed_of(generator),
            generator.part(TrainingSettings),
            dataset / f"corpora/{generator.corpus}",
            dataset / "samples",
            warm if generator.warm_start else None,
            dataset / f"models/{generator.start_from}" if generator.start_from else None,
            cold_items,
        )
    raise UserError(not_an_entry(name, [*experiments.methods, *experiments.generators], "of methods or generators"))

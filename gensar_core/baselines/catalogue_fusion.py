"""Fuse fitted ranking methods among all items of the catalogue, with weights fitted on valid targets among all items.

The model is that of `gensar_core.ranking.fusion`, whose lists of candidates give way to the catalogue. A target is
compared with every other item, or, in a large catalogue, with items drawn uniformly: the same for all items, the chance
of being drawn cancels out of the likelihood (McFadden: Modelling the Choice of Residential Location, 1978). Ranks are
always those among all items.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.baselines.interface import Method, MethodData
from gensar_core.baselines.run import fitted_method, items_ranked_last
from gensar_core.config.datasets import FullRankingSettings
from gensar_core.config.fusions import WeightSettings
from gensar_core.errors import UserError
from gensar_core.ranking.full_ranking import TargetBlocks, block_rows, ranks_by_score, write_full_ranks
from gensar_core.ranking.fusion import features, fit_fusion, log_clicks, named_weights
from gensar_core.runtime.progress import progress
from gensar_core.runtime.stage import Stage
from gensar_core.samples.cold_items import rank_cold_last

#: Valid targets of a task, evenly spread, that the weights are fitted on at most, and items that each is compared with.
_FITTED: Final = 1 << 11
_ITEMS: Final = 1 << 12

#: A batch of samples -> features of all items, float64 [rows, n_items, features].
_Features = Callable[[pl.DataFrame], np.ndarray]


@dataclass(frozen=True)
class FusedMethod:
    """Say what restores a fitted method: its kind, settings and seed, the folder of its model and its text vectors."""

    kind: str
    overrides: Mapping[str, Any]
    seed: int
    model: Path
    embedding: Path | None = None

    @classmethod
    def read_all(cls, methods: str) -> dict[str, FusedMethod]:
        """Read the parts, by name and in order, from the JSON of `gensar_core.config.paths.fusion_methods`."""
        return {
            one["name"]: cls(
                kind=one["kind"],
                overrides=one["overrides"],
                seed=one["seed"],
                model=Path(one["model"]).parent,
                embedding=Path(one["embedding"]) if one["embedding"] else None,
            )
            for one in json.loads(methods)
        }


def rank_catalogue_by_fusion(
    name: str,
    parts: Mapping[str, FusedMethod],
    canonical: Path,
    samples: Path,
    output: Path,
    settings: WeightSettings,
    protocol: FullRankingSettings,
    cold_items: Path | None = None,
) -> None:
    """Write {name}.parquet (table `full_ranks`) and its record into the folder ``output``.

    ``parts`` maps the names of fitted methods to what restores them; a part counts in the tasks that it ranks. The
    other arguments are those of `gensar_core.baselines.run.rank_catalogue_by_method`. Raises UserError when a task has
    test targets and no valid ones.
    """
    methods, tasks_of = dict[str, Method[Any]](), dict[str, list[str]]()
    for part, one in parts.items():
        data = MethodData(canonical, samples, one.embedding, cold_items=cold_items)
        methods[part], tasks_of[part] = fitted_method(part, one.kind, one.overrides, data, one.seed, one.model)
    n_items = next(iter(methods.values())).data.n_items
    prior = _log_clicks(samples, n_items) if settings.popularity else None
    models = [path for one in parts.values() for path in sorted(one.model.glob("*.safetensors"))]
    vectors = [one.embedding for one in parts.values() if one.embedding]
    with Stage.named_after(
        output / name,
        "full_rank_fusion",
        settings={**settings.model_dump(mode="json"), "parts": list(parts), "protocol": protocol.model_dump()},
        inputs=[
            samples / "samples.parquet",
            samples / "training_events.parquet",
            *([cold_items] if cold_items else []),
            *vectors,
            *models,
        ],
        code=__name__,
    ) as stage:

        def tables() -> Iterator[pl.DataFrame]:
            for task in schema.TASKS:
                used = [part for part in parts if task in tasks_of[part]]
                if not used:
                    continue
                inside = _features_of([methods[part] for part in used], prior)
                scale, weights = _fit(name, task, samples, n_items, inside, settings)
                stage.record(**{f"{task}_weights": named_weights(used, weights)})
                blocks = TargetBlocks.open(samples, task, "test", block_rows(n_items), protocol.users)
                for targets in blocks.read(columns=list(schema.SAMPLES.columns), unseen=protocol.unseen):
                    yield ranks_by_score(
                        targets,
                        n_items,
                        lambda rows, inside=inside, by=weights / scale: inside(rows) @ by,  # type: ignore[misc]
                        description=f"full ranks {task}",
                    )

        stage.record(**write_full_ranks(tables(), stage.path(f"{name}.parquet")))


def _log_clicks(samples: Path, n_items: int) -> np.ndarray:
    """Compute log(1 + training clicks) of every item, [n_items]."""
    clicked = log_clicks(samples / "training_events.parquet")
    return np.pad(clicked, (0, n_items - len(clicked)))


def _features_of(methods: Sequence[Method[Any]], prior: np.ndarray | None) -> _Features:
    """Return what computes the features of all items by these methods, and ``prior`` [n_items] as the last."""
    unknown = [items_ranked_last(method) for method in methods]

    def of_samples(samples: pl.DataFrame) -> np.ndarray:
        scores = [
            rank_cold_last(method.score_catalogue(samples), cold).astype(np.float64)
            for method, cold in zip(methods, unknown, strict=True)
        ]
        inside = features(scores, np.ones(scores[0].shape, dtype=bool))
        if prior is None:
            return inside
        return np.concatenate([inside, np.broadcast_to(prior[:, None], (*scores[0].shape, 1))], axis=2)

    return of_samples


def _fit(
    name: str, task: str, samples: Path, n_items: int, inside: _Features, settings: WeightSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the weights on valid targets among all items; return the features' scale and weights, [features] both."""
    draws, views = np.random.default_rng(0), []
    blocks = TargetBlocks.open(samples, task, "valid", block_rows(n_items), _FITTED)
    if not len(blocks):
        raise UserError(f"fusions.{name}: {task} has no valid targets, on which its weights are fitted")
    for targets in blocks.read(columns=list(schema.SAMPLES.columns)):
        starts = range(0, len(targets), blocks.rows)
        for start in progress(starts, f"valid features {task}", unit="batch"):
            batch = targets.take(start, start + blocks.rows).samples
            shown = _compared(batch.get_column("target_item").to_numpy(), n_items, draws)
            views.append((np.take_along_axis(inside(batch), shown[:, :, None], axis=1), np.ones(shown.shape, bool)))
    return fit_fusion(views, settings, signed=int(settings.popularity))


def _compared(targets: np.ndarray, n_items: int, draws: np.random.Generator) -> np.ndarray:
    """Return each target, and after it all other items, or `_ITEMS` of them, drawn uniformly: int64 [rows, items]."""
    if n_items - 1 <= _ITEMS:
        others = np.tile(np.arange(n_items - 1), (len(targets), 1))
    else:
        others = np.stack([draws.choice(n_items - 1, _ITEMS, replace=False, shuffle=False) for _ in targets])
    # Items from the target on move up by one, so it is not among them.
    return np.column_stack([targets, others + (others >= targets[:, None])])

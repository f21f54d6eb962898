"""Run rule `method`: fit a ranking method and rank the valid and test targets of its tasks."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.baselines.interface import Method, MethodData, find
from gensar_core.config.base import validate
from gensar_core.config.datasets import FullRankingSettings
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateBlocks, Ranking, RankingWriter, rank_batch
from gensar_core.ranking.full_ranking import TargetBlocks, block_rows, ranks_by_score, write_full_ranks
from gensar_core.runtime.progress import progress
from gensar_core.runtime.reading import table_parts
from gensar_core.runtime.stage import Stage, cpu_seconds
from gensar_core.samples.cold_items import rank_cold_last

_RANKED_SPLITS = ("valid", "test")
#: Lists scored at a time.
_LISTS = 4096


def fit_and_rank(
    name: str,
    kind: str,
    overrides: Mapping[str, Any],
    canonical: Path,
    samples: Path,
    embedding: Path | None,
    model: Path,
    ranks: Path,
    seed: int,
    checkpoints: Path | None,
    training_negatives: Path | None = None,
    cold_items: Path | None = None,
) -> None:
    """Write a fitted method into the folder ``model``, and {name}.parquet (table `ranks`) into the folder ``ranks``.

    ``kind`` names the method's file and ``overrides`` are its settings. ``embedding`` is a vectors.safetensors file for
    methods that read text vectors. ``checkpoints`` is a folder for this method alone: a killed training resumes from
    it, and it is removed once everything is written. ``training_negatives`` is the path of the table, for methods that
    list it among their inputs. A method without vectors for items of the table ``cold_items`` ranks them last. Raises
    UserError on wrong settings, or when there is no target to rank.
    """
    method, tasks = _untrained(
        name, kind, overrides, MethodData(canonical, samples, embedding, training_negatives, cold_items), seed
    )
    code = type(method).__module__
    recorded = {"name": name, "kind": kind, **method.settings.model_dump(mode="json")}

    inputs = [samples / file for file in ("training_events.parquet", "samples.parquet", "candidates.parquet")]
    inputs += [canonical / file for file in ("items.parquet", "queries.parquet")]
    inputs += [path for path in (embedding, training_negatives, cold_items) if path is not None]
    with Stage("method", model, settings=recorded, inputs=inputs, seed=seed, code=code, alone=True) as stage:
        started, cpu_started = time.monotonic(), cpu_seconds()
        fitted = method.fit(checkpoints, stage.key)
        stage.record(
            paper=method.paper,
            parameters=weights_learned(method),
            training_seconds=round(time.monotonic() - started, 3),
            training_cpu_seconds=round(cpu_seconds() - cpu_started, 3),
            **fitted,
        )
        for warning in method.warnings:
            stage.warn(f"{name}: {warning}")
        method.save(stage.path("."))
        learned = method.item_vectors()
        if learned is not None:
            learned.save(stage.path("."))

    weights = sorted(model.glob("*.safetensors"))
    with Stage(
        "rank_method",
        ranks,
        settings=recorded,
        inputs=[*inputs, *weights],
        seed=seed,
        code=code,
        record_name=f"{name}.stage.json",
    ) as stage:
        with RankingWriter(stage, name) as writer:
            for ranking in rank_targets(method, tasks):
                writer.write(ranking.ranks, ranking.scores)
        stage.record(cold_items_last=int(items_ranked_last(method).sum()))
    if checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)


def weights_learned(method: Method[Any]) -> int:
    """Count the weights of a trained method's module; 0 for a method that only counts or compares."""
    from gensar_core.baselines.shared.trained_method import TrainedMethod

    if not isinstance(method, TrainedMethod):
        return 0
    return sum(weight.numel() for weight in method.module.parameters())


def rank_catalogue_by_method(
    name: str,
    kind: str,
    overrides: Mapping[str, Any],
    canonical: Path,
    samples: Path,
    embedding: Path | None,
    model: Path,
    output: Path,
    seed: int,
    protocol: FullRankingSettings,
    cold_items: Path | None = None,
) -> None:
    """Write {name}.parquet (table `full_ranks`) of the fitted method in the folder ``model`` into ``output``.

    The other arguments are those of ``fit_and_rank``.
    """
    data = MethodData(canonical, samples, embedding, cold_items=cold_items)
    method, tasks = fitted_method(name, kind, overrides, data, seed, model)
    unknown, n_items = items_ranked_last(method), method.data.n_items
    settings = method.settings.model_dump(mode="json")
    recorded = {"name": name, "kind": kind, "protocol": protocol.model_dump(), **settings}
    with Stage(
        "full_rank_method",
        output,
        settings=recorded,
        inputs=[
            samples / "samples.parquet",
            samples / "training_events.parquet",
            *([cold_items] if cold_items else []),
            *sorted(model.glob("*.safetensors")),
        ],
        seed=seed,
        code=type(method).__module__,
        record_name=f"{name}.stage.json",
    ) as stage:
        tables = (
            ranks_by_score(
                targets,
                n_items,
                lambda rows: rank_cold_last(method.score_catalogue(rows), unknown),
                description=f"full ranks {task}",
            )
            for task in tasks
            for targets in TargetBlocks.open(samples, task, "test", block_rows(n_items), protocol.users).read(
                columns=list(schema.SAMPLES.columns), unseen=protocol.unseen
            )
        )
        stage.record(**write_full_ranks(tables, stage.path(f"{name}.parquet")))


def fitted_method(
    name: str, kind: str, overrides: Mapping[str, Any], data: MethodData, seed: int, model: Path
) -> tuple[Method[Any], list[str]]:
    """Restore the method that ``fit_and_rank`` wrote into the folder ``model``; also return its tasks with targets."""
    method, tasks = _untrained(name, kind, overrides, data, seed)
    method.load(model)
    return method, tasks


def _untrained(
    name: str, kind: str, overrides: Mapping[str, Any], data: MethodData, seed: int
) -> tuple[Method[Any], list[str]]:
    """Build a method of validated settings; also return its tasks that have targets."""
    method_class = find(kind, f"methods.{name}.kind")
    settings = validate(method_class.settings_model, dict(overrides), f"methods.{name}")
    return method_class(settings, data, seed), ranked_tasks(method_class, data.samples_folder)


def ranked_tasks(method_class: type[Method[Any]], samples_folder: Path) -> list[str]:
    """List the method's tasks that have targets. Raises UserError when none has."""
    path, ranked = samples_folder / "samples.parquet", set[str]()
    for part in table_parts(path, schema.SAMPLES, columns=("task", "split")):
        ranked |= set(part.filter(pl.col("split") != "train").get_column("task").unique())
    tasks = [task for task in method_class.tasks if task in ranked]
    if not tasks:
        raise UserError(
            f"{path}: no valid or test target of {' or '.join(method_class.tasks)}, which is what "
            f"{method_class.__name__} ranks; leave the method out of this data set's table"
        )
    return tasks


def rank_targets(method: Method[Any], tasks: list[str]) -> Iterator[Ranking]:
    """Rank the valid and test targets of ``tasks`` by a fitted method, block by block."""
    unknown = items_ranked_last(method)
    for task, split in itertools.product(tasks, _RANKED_SPLITS):
        lists = CandidateBlocks.open(method.data.samples_folder, task, split, _LISTS)
        blocks = lists.read(columns=list(schema.SAMPLES.columns))
        for block in progress(blocks, f"ranks {task} {split}", total=-(-len(lists) // _LISTS), unit="batch"):
            yield rank_batch(block, lambda rows: rank_cold_last(method.score(rows), unknown[rows.items]))


def items_ranked_last(method: Method[Any]) -> np.ndarray:
    """Mark the cold items of which a method knows nothing, bool [n_items]."""
    known = method.scores_cold_items or method.data.embedding is not None
    return np.zeros_like(method.data.cold) if known else method.data.cold

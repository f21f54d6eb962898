"""Rank every valid and test candidate list by a trained generator (stage `rank_generator`).

The tasks that it ranks are those that its corpus has prompts for: both, or one.

Several jobs may share the ranking of candidates, or that of the catalogue; see `ranking.parts`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.datasets import FullRankingSettings
from gensar_core.config.generators import RankingSettings, RetrievalSettings
from gensar_core.corpora.instructions import PROMPTS_COPY, prompted_tasks
from gensar_core.generator.open import Generator, asked_file, load_generator
from gensar_core.ranking.candidates import CandidateBlocks, CandidateLists, Ranking, RankingWriter, rank_batch
from gensar_core.ranking.full_ranking import (
    CatalogueTargets,
    TargetBlocks,
    block_rows,
    found_ranks,
    full_ranks,
    ranks_by_score,
    write_full_ranks,
)
from gensar_core.ranking.parts import WHOLE, Part
from gensar_core.runtime.progress import progress
from gensar_core.runtime.stage import Stage
from gensar_core.samples.cold_items import mark_cold_items, rank_cold_last

#: Number of lists sorted together by prompt length before they are cut into batches.
_LISTS = 4096


def rank_candidates(
    model: Path,
    corpus: Path,
    samples: Path,
    output: Path,
    name: str,
    settings: RankingSettings,
    part: Part = WHOLE,
    unknown_items: Path | None = None,
) -> None:
    """Write ``output``/{name}.parquet (table `ranks`), {name}.scores.parquet (table `scores`) and {name}.stage.json.

    ``model`` is the folder of a trained generator, ``corpus`` the folder it was trained on, ``samples`` the folder of
    candidate lists; ``part`` selects the lists to rank. Items of the table ``unknown_items``, of which the identifiers
    tell nothing, are ranked last. Raises UserError if they do not belong together.
    """
    inputs = [*_inputs(model, corpus, samples), *([unknown_items] if unknown_items else [])]
    with Stage(
        "rank_generator", output, settings=settings, inputs=inputs, code=__name__, record_name=f"{name}.stage.json"
    ) as stage:
        generator = load_generator(model, corpus, settings.precision)
        asked = generator.asked()
        groups = itertools.product(prompted_tasks(corpus), ("valid", "test"))
        lists = [CandidateBlocks.open(samples, *group, _LISTS) for group in groups]
        spans = part.spans([len(one) for one in lists], _LISTS)
        unknown = mark_cold_items(unknown_items, len(generator.items["rec"]))
        with RankingWriter(stage, name) as writer:
            for one, span in zip(lists, spans, strict=True):
                for ranking in rank_split(generator, asked, one, span, settings, unknown):
                    writer.write(ranking.ranks, ranking.scores)
        stage.record(precision=generator.precision, cold_items_last=int(unknown.sum()))


def rank_catalogue(
    model: Path,
    corpus: Path,
    samples: Path,
    output: Path,
    name: str,
    settings: RetrievalSettings,
    protocol: FullRankingSettings,
    part: Part = WHOLE,
    unknown_items: Path | None = None,
) -> None:
    """Write ``output``/{name}.parquet (table `full_ranks`) and its record: test targets ranked among all items.

    With beams, a target that the search misses has no rank. ``part`` selects the targets to rank. Items of the table
    ``unknown_items`` are ranked last, or not searched. Raises UserError if the folders do not belong together.
    """
    with Stage(
        "full_rank_generator",
        output,
        settings={"retrieval": settings.model_dump(), "protocol": protocol.model_dump()},
        inputs=[
            *_inputs(model, corpus, samples)[:-1],
            corpus / "trie.safetensors",
            samples / "training_events.parquet",
            *([unknown_items] if unknown_items else []),
        ],
        code=__name__,
        record_name=f"{name}.stage.json",
    ) as stage:
        generator = load_generator(model, corpus, settings.precision)
        asked = generator.asked()
        tasks = prompted_tasks(corpus)
        block = _LISTS if settings.beams else block_rows(len(generator.items[tasks[0]]))
        every = [TargetBlocks.open(samples, task, "test", block, protocol.users) for task in tasks]
        spans = part.spans([len(blocks) for blocks in every], block)
        unknown = mark_cold_items(unknown_items, len(generator.items["rec"]))
        tables = (
            catalogue_table(generator, asked, blocks.task, targets, settings, unknown)
            for blocks, span in zip(every, spans, strict=True)
            for targets in blocks.read(*span, unseen=protocol.unseen)
        )
        stage.record(**write_full_ranks(tables, stage.path(f"{name}.parquet")))
        stage.record(precision=generator.precision, cold_items_last=int(unknown.sum()))


def catalogue_table(
    generator: Generator,
    asked: Any,
    task: str,
    targets: CatalogueTargets,
    settings: RetrievalSettings,
    unknown: np.ndarray,
) -> pl.DataFrame:
    """Build the table `full_ranks` of one task's targets; items marked in ``unknown`` [n_items] are last."""
    n_items = len(generator.items[task])
    asked_by = [task, _other(task)] if getattr(settings.other_identifier, task) else [task]

    def score(batch: pl.DataFrame) -> np.ndarray:
        everything = np.tile(np.arange(n_items, dtype=np.int32), (len(batch), 1))
        rows = asked.of(batch.get_column("sample_id").to_numpy())
        return rank_cold_last(item_scores(generator, rows, everything, task, settings), unknown)

    beams = settings.beams
    if beams is None:
        return ranks_by_score(targets, n_items, score, description=f"full ranks {task}")
    ranks = [np.zeros((2, 0))]
    for start in progress(range(0, len(targets), _LISTS), f"full ranks {task}", unit="batch"):
        batch = targets.take(start, start + _LISTS)
        rows = asked.of(batch.samples.get_column("sample_id").to_numpy())
        clicked = None
        if batch.clicked is not None and len(batch.clicked.values):
            clicked = batch.clicked.padded(int(batch.clicked.lengths.max()), -1)
        by_each = [
            generator.retrieve(
                rows,
                identifier,
                beams=beams,
                users_per_batch=settings.users_per_batch,
                excluded=clicked,
                allowed=~unknown if unknown.any() else None,
            )
            for identifier in asked_by
        ]
        items, scores = by_each[0].items, by_each[0].scores
        if len(by_each) > 1:
            # Score what either identifier finds by both.
            items = each_once(items, by_each[1].items)
            scores = item_scores(generator, rows, items, task, settings)
        among = [found_ranks(items, scores, batch)] * 2
        if clicked is not None:
            # Score what a user clicked before: it needs no search.
            before = np.where(unknown[clicked], -1, clicked)
            scores = np.concatenate([scores, item_scores(generator, rows, before, task, settings)], axis=1)
            among[0] = found_ranks(np.concatenate([items, before], axis=1), scores, batch)
        elif batch.clicked is None:
            among[1] = np.full(len(batch), np.nan)
        ranks.append(np.stack(among))
    return full_ranks(targets, np.concatenate(ranks, axis=1), n_items)


def rank_split(
    generator: Generator,
    asked: Any,
    lists: CandidateBlocks,
    span: tuple[int, int],
    settings: RankingSettings,
    unknown: np.ndarray,
) -> Iterator[Ranking]:
    """Rank the lists of one task and split from the first to the second of ``span``, block by block.

    Items marked in ``unknown`` [n_items] are last.
    """
    task = lists.task

    def score(batch: CandidateLists) -> np.ndarray:
        rows = asked.of(batch.samples.get_column("sample_id").to_numpy())
        scores = item_scores(generator, rows, batch.items, task, settings, settings.beams)
        return rank_cold_last(scores, unknown[batch.items])

    blocks = -(-(span[1] - span[0]) // _LISTS)
    for block in progress(lists.read(*span), f"rank {task} {lists.split}", total=blocks, unit="batch"):
        yield rank_batch(block, score)


def item_scores(
    generator: Generator,
    rows: Any,
    items: np.ndarray,
    task: str,
    settings: RankingSettings | RetrievalSettings,
    beams: int | None = None,
) -> np.ndarray:
    """Score ``items`` int [users, width] (-1: none) for questions, float32 [users, width].

    A score is the log-probability of the identifier of the ``task``. That of the other one is added, with its factor in
    the settings. With ``beams``, items that a search among the candidates misses score -inf.
    """
    at_once = settings.users_per_batch
    scores = generator.score(rows, items, task, users_per_batch=at_once, beams=beams)
    if factor := float(getattr(settings.other_identifier, task)):
        scores += factor * generator.score(rows, items, _other(task), users_per_batch=at_once)
    return scores


def each_once(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Put the items of two lists of each user side by side, int [users, n + m]; -1 for what both have, or none."""
    both = np.concatenate([first, second], axis=1)
    order = np.argsort(both, axis=1, kind="stable")
    in_order = np.take_along_axis(both, order, axis=1)
    again = np.zeros(both.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], axis=1)
    return np.where(again, -1, both)


def _other(task: str) -> str:
    (other,) = (name for name in schema.TASKS if name != task)
    return other


def _inputs(model: Path, corpus: Path, samples: Path) -> list[Path]:
    return [
        model / "config.json",
        *sorted(model.glob("*.safetensors")),
        corpus / asked_file(model),
        corpus / PROMPTS_COPY,
        corpus / "item_tokens.parquet",
        samples / "samples.parquet",
        samples / "candidates.parquet",
    ]

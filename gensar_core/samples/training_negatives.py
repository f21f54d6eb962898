"""Draw a few negatives for every train target, once for all methods that train on them (stage `training_negatives`).

Recommendation targets get items drawn by popularity that the user has not interacted with. Search targets get the best
BM25 hits of their query without the target, topped up by popularity where BM25 returns too few. Only the training
events are used: they form the pool, and only their items count as interacted with. So an item that the user clicks
later, even the held-out target itself, may become a negative of an earlier target; sparing it would reveal the future
to a method.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.datasets import TrainingNegativesSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage
from gensar_core.runtime.writing import TableWriter
from gensar_core.samples.cold_items import mark_cold_items
from gensar_core.samples.events import EventLog
from gensar_core.samples.negatives import Group, NegativeSampler, QueryHits, write_negatives
from gensar_core.samples.popularity import PopularityPool


def draw_training_negatives(
    canonical: Path,
    samples: Path,
    output: Path,
    settings: TrainingNegativesSettings,
    seed: int,
    cold_items: Path | None = None,
) -> None:
    """Write training_negatives.parquet: the negatives of every train sample.

    ``canonical`` is a folder with the tables `items` and `queries`, ``samples`` the output folder of the stage
    `samples` built from it. Items of the table ``cold_items`` become negatives of none. Raises UserError when a table
    is missing, or when the two folders do not match.
    """
    sources = {
        name: folder / f"{name}.parquet"
        for folder, names in ((canonical, ("items", "queries")), (samples, ("samples", "training_events")))
        for name in names
    }
    inputs = [*sources.values(), *([cold_items] if cold_items else [])]
    with Stage("training_negatives", output, settings=settings, inputs=inputs, seed=seed, code=__name__) as stage:
        items = schema.ITEMS.read(sources["items"]).sort("item_id")["text"].to_list()
        for item in np.flatnonzero(mark_cold_items(cold_items, len(items))).tolist():
            # No query finds an empty text.
            items[item] = ""
        queries = schema.QUERIES.read(sources["queries"]).sort("query_id")["text"].to_list()
        log = EventLog.from_frame(schema.EVENTS.read(sources["training_events"]).sort("event_id"))
        if int(log.item.max(initial=-1)) >= len(items) or int(log.query.max(initial=-1)) >= len(queries):
            raise UserError(
                f"{sources['training_events']}: an item or a query has no row in {canonical}; build the samples again"
            )
        # Do not read the histories, by far the largest part of the table.
        train = schema.SAMPLES.scan(sources["samples"]).filter(pl.col("split") == "train")
        train_rows = train.select("sample_id", "task", "event_id").collect().sort("sample_id")
        groups = [_group(task, train_rows.filter(pl.col("task") == task), log, sources) for task in schema.TASKS]
        sampler = NegativeSampler(PopularityPool.from_clicks(log.item[~log.searched]), log, seed, "training")
        hits = QueryHits(items, queries, settings)
        with TableWriter(schema.TRAINING_NEGATIVES, stage.path("training_negatives.parquet")) as table:
            counts = write_negatives(table, sampler, groups, hits, settings.negatives)
        stage.record(queries=len(hits), **counts)


def _group(task: str, train: pl.DataFrame, log: EventLog, sources: dict[str, Path]) -> Group:
    """Look up the train targets of one task among the training events; each must be one."""
    events = train["event_id"].to_numpy()
    rows = np.searchsorted(log.event, events)
    if not np.array_equal(np.append(log.event, -1)[rows], events):
        raise UserError(
            f"{sources['samples']}: a train target is not among {sources['training_events']}; build the samples again"
        )
    return Group(task, train["sample_id"].to_numpy(), log.take(rows))

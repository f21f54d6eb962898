"""Draw a few negatives for every train target, once for all methods that train on them (stage `training_negatives`).

Recommendation targets get items drawn by popularity that the user has not interacted with. Search targets get the best
BM25 hits of their query without the target, topped up by popularity where BM25 returns too few. Only the training
events are used: they form the pool, and only their items count as interacted with. So an item that the user clicks
later, even the held-out target itself, may become a negative of an earlier target; sparing it would reveal the future
to a method.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.datasets import TrainingNegativesSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage, read_record
from gensar_core.runtime.verification import intact
from gensar_core.runtime.writing import TableWriter
from gensar_core.samples.cold_items import mark_cold_items
from gensar_core.samples.events import EventLog, EventTable
from gensar_core.samples.negatives import Group, NegativeSampler, QueryHits, write_negatives
from gensar_core.samples.popularity import PopularityPool

#: Rows of a row group of training_negatives.parquet, and rows that are gathered at once.
_ROWS: Final = 1 << 17
_FILE: Final = "training_negatives.parquet"


def draw_training_negatives(
    canonical: Path,
    samples: Path,
    output: Path,
    settings: TrainingNegativesSettings,
    seed: int,
    cold_items: Path | None = None,
    part: int = 0,
    parts: int = 1,
) -> None:
    """Write training_negatives.parquet: the negatives of every train sample of one part of the users.

    ``part`` of ``parts`` counts from 0. ``canonical`` is a folder with the tables `items` and `queries`, ``samples``
    the output folder of the stage `samples` built from it. Items of the table ``cold_items`` become negatives of none.
    Raises UserError when a table is missing, or when the two folders do not match.
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
        events, clicks = _training_events(sources, len(items), len(queries))
        train = _train(samples)
        users = events.users(part, parts)
        hits = QueryHits(items, queries, settings)
        # All at once: a table that grows with each block of users would be copied as often.
        hits.find(_queries(train.filter(_is_among(users))).to_numpy())
        pool = PopularityPool.from_counts(clicks)
        counts: Counter[str] = Counter()
        with TableWriter(schema.TRAINING_NEGATIVES, stage.path(_FILE), rows=_ROWS) as table:
            for task, block in itertools.product(schema.TASKS, events.blocks(users)):
                rows = schema.EVENTS.scan(sources["training_events"]).filter(_is_among(block)).collect()
                log = EventLog.from_frame(schema.EVENTS.check(rows, sources["training_events"]).sort("event_id"))
                targets = train.filter(_is_among(block), pl.col("task") == task).select("sample_id", "event_id")
                group = _group(task, targets.collect().sort("sample_id"), log, samples)
                sampler = NegativeSampler(pool, log, seed, "training")
                written = write_negatives(table, sampler, [group], hits, settings.negatives)
                counts.update(written)
                counts[f"lists_{task}"] += written["lists"]
        if parts == 1:
            _check_lists(counts["lists"], samples)
        stage.record(queries=len(hits), **counts)


def gather_training_negatives(
    samples: Path, parts: Sequence[Path], output: Path, settings: TrainingNegativesSettings, seed: int
) -> None:
    """Gather the negatives of all parts, in order, into the file that a single part would write.

    Raises UserError when ``samples`` does not match, as `draw_training_negatives` does, and when a file of a part is
    missing or damaged.
    """
    inputs = [samples / "samples.parquet", *(file for part in parts for file in intact(part, _FILE))]
    with Stage("training_negatives", output, settings=settings, inputs=inputs, seed=seed, code=__name__) as stage:
        counts: list[Counter[str]] = [Counter(read_record(part / "stage.json")["counts"]) for part in parts]
        with TableWriter(schema.TRAINING_NEGATIVES, stage.path(_FILE), rows=_ROWS) as table:
            for task, (part, of_part) in itertools.product(schema.TASKS, zip(parts, counts, strict=True)):
                # A part holds the lists of recommendation, then those of search.
                first = of_part["lists_rec"] if task == "search" else 0
                lists = schema.TRAINING_NEGATIVES.scan(part / _FILE).slice(first, of_part[f"lists_{task}"])
                for start in range(0, of_part[f"lists_{task}"], _ROWS):
                    table.write(lists.slice(start, _ROWS).collect())
        total: Counter[str] = Counter()
        for of_part in counts:
            total.update(of_part)
        # Parts may share queries.
        total["queries"] = len(_queries(_train(samples)))
        _check_lists(total["lists"], samples)
        stage.record(**total)


def _train(samples: Path) -> pl.LazyFrame:
    """Scan the train samples."""
    return schema.SAMPLES.scan(samples / "samples.parquet").filter(pl.col("split") == "train")


def _queries(train: pl.LazyFrame) -> pl.Series:
    """Return the distinct queries of train samples, in no order."""
    # The histories, by far the largest part of the table, are not read.
    return train.select(pl.col("query_id").drop_nulls().unique()).collect(engine="streaming").to_series()


def _is_among(users: range) -> pl.Expr:
    return pl.col("user_id").is_between(users.start, users.stop - 1)


def _check_lists(lists: int, samples: Path) -> None:
    """Reject samples of which some got no list, because their users have no training event."""
    if lists < _train(samples).select(pl.len()).collect(engine="streaming").item():
        raise _unknown_target(samples)


def _training_events(sources: Mapping[str, Path], n_items: int, n_queries: int) -> tuple[EventTable, np.ndarray]:
    """Open the training events, and count the recommendation clicks on each item, int64 [items]."""
    path = sources["training_events"]
    schema.EVENTS.open(path)
    rows = schema.EVENTS.scan(path)
    largest = rows.select(pl.max("item_id", "query_id").fill_null(-1)).collect(engine="streaming").row(0)
    if largest[0] >= n_items or largest[1] >= n_queries:
        raise UserError(f"{path}: an item or a query has no row in {sources['items'].parent}; build the samples again")
    user, events = _counts(rows, "user_id")
    offsets = np.zeros(int(user.max(initial=-1)) + 2, dtype=np.int64)
    offsets[user + 1] = events
    item, clicked = _counts(rows.filter(pl.col("task") == "rec"), "item_id")
    clicks = np.zeros(n_items, dtype=np.int64)
    clicks[item] = clicked
    return EventTable(path, np.cumsum(offsets)), clicks


def _counts(rows: pl.LazyFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values of a column, in no order, and how many rows have each."""
    counted = rows.group_by(column).len().collect(engine="streaming")
    return counted[column].to_numpy(), counted["len"].to_numpy()


def _group(task: str, train: pl.DataFrame, log: EventLog, samples: Path) -> Group:
    """Look up the train targets of one task among the training events; each must be one."""
    events = train["event_id"].to_numpy()
    rows = np.searchsorted(log.event, events)
    if not np.array_equal(np.append(log.event, -1)[rows], events):
        raise _unknown_target(samples)
    return Group(task, train["sample_id"].to_numpy(), log.take(rows))


def _unknown_target(samples: Path) -> UserError:
    return UserError(
        f"{samples / 'samples.parquet'}: a train target is not among {samples / 'training_events.parquet'}; build the "
        "samples again"
    )

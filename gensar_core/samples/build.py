"""Stage `samples`: canonical events -> targets with their histories, candidate lists, and what training may see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.data import SampleSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage, write_json
from gensar_core.samples.audit import audit
from gensar_core.samples.candidates import NegativeSampler, candidate_table, query_hits
from gensar_core.samples.events import EventLog, read_events
from gensar_core.samples.histories import Histories
from gensar_core.samples.targets import Selection, select_targets

_INPUTS = ("items.parquet", "queries.parquet", "events.parquet")


def build_samples(canonical: Path, output: Path, settings: SampleSettings, seed: int) -> None:
    """Write training_events.parquet, samples.parquet, candidates.parquet and audit.json.

    ``canonical`` is a folder with the tables `items`, `queries` and `events`. Raises UserError when a table is missing
    or inconsistent, or when no user has enough targets of any task.
    """
    with Stage(
        "samples",
        output,
        settings=settings,
        inputs=[canonical / name for name in _INPUTS],
        seed=seed,
        code=__name__,
    ) as stage:
        items = schema.ITEMS.read(canonical / "items.parquet").sort("item_id")
        queries = schema.QUERIES.read(canonical / "queries.parquet").sort("query_id")
        events = read_events(canonical, len(items), len(queries))
        log = EventLog.from_frame(events)
        selection = select_targets(log, settings.history_protocol, settings.min_targets)
        _report(stage, selection, settings)
        if not any(len(rows) for rows in selection.targets.values()):
            raise UserError(
                f"{canonical / 'events.parquet'}: no user has {settings.min_targets} clicks of one task with both a "
                "recommendation click and a search before them; such a log gives no samples"
            )
        schema.EVENTS.write(events.filter(selection.training), stage.path("training_events.parquet"))
        samples = _samples(log, selection, settings)
        schema.SAMPLES.write(samples, stage.path("samples.parquet"))
        del samples
        candidates = _candidates(stage, log, selection, items["text"], queries["text"], settings, seed)
        schema.CANDIDATES.write(candidates, stage.path("candidates.parquet"))
        del candidates, log, selection
        report = audit(
            events,
            schema.EVENTS.read(stage.path("training_events.parquet")),
            schema.SAMPLES.read(stage.path("samples.parquet")),
            schema.CANDIDATES.read(stage.path("candidates.parquet")),
            negatives=settings.negatives,
        )
        write_json(stage.path("audit.json"), {"history_protocol": settings.history_protocol, **report})


def _report(stage: Stage, selection: Selection, settings: SampleSettings) -> None:
    """Put the row counts into the record, and warn where one is not what the settings expect."""
    stage.record(**selection.figures, training_events=int(selection.training.sum()))
    for step, rows in settings.expected_rows.items():
        found = stage.figures.get(step)
        if found != rows:
            stage.warn(f"step {step}: {found if found is not None else 'no such step'}, expected {rows} rows")


def _groups(selection: Selection) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(task, split, sample ids, rows of the log) in the order of sample_id: task, split, event."""
    start = 0
    for (task, split), rows in selection.targets.items():
        yield task, split, np.arange(start, start + len(rows)), rows
        start += len(rows)


def _samples(log: EventLog, selection: Selection, settings: SampleSettings) -> pl.DataFrame:
    """Table `samples`."""
    everything = Histories(log, settings.history_protocol)
    training = Histories(log.take(selection.shown), settings.history_protocol)
    frames = []
    for task, split, ids, rows in _groups(selection):
        targets = log.take(rows)
        source = training if split == "train" else everything
        inputs = source.inputs(targets, settings.max_recommendations, settings.max_searches)
        frames.append(
            schema.SAMPLES.check(
                pl.DataFrame(
                    {
                        "sample_id": ids,
                        "task": pl.Series([task]).new_from_index(0, len(ids)),
                        "split": pl.Series([split]).new_from_index(0, len(ids)),
                        "user_id": targets.user,
                        "time": targets.time,
                        "event_id": targets.event,
                        "target_item": targets.item,
                        "query_id": pl.Series(targets.query).replace(-1, None),
                        "history_behavior": inputs.behavior.to_series("history_behavior", pl.UInt8()),
                        "history_object": inputs.object.to_series("history_object", pl.Int32()),
                    }
                )
            )
        )
    return pl.concat(frames)


def _candidates(
    stage: Stage,
    log: EventLog,
    selection: Selection,
    item_texts: pl.Series,
    query_texts: pl.Series,
    settings: SampleSettings,
    seed: int,
) -> pl.DataFrame:
    """Table `candidates`."""
    sampler = NegativeSampler(log, seed, "candidates")
    groups = [(task, ids, log.take(rows)) for task, split, ids, rows in _groups(selection) if split != "train"]
    asked = np.concatenate([targets.query for task, _, targets in groups if task == "search"])
    hits, hit_rows = query_hits(asked, item_texts.to_list(), query_texts.to_list(), settings)
    tables, topped_up = [], 0
    for task, ids, targets in groups:
        if task == "rec":
            negatives = sampler.by_popularity(targets, settings.negatives)
        else:
            own, hit_rows = hit_rows[: len(targets)], hit_rows[len(targets) :]
            negatives, more = sampler.by_bm25(targets, hits, own, settings.negatives)
            topped_up += more
        tables.append(candidate_table(ids, negatives))
    table = pl.concat(tables)
    stage.record(
        candidate_queries=len(hits),
        candidate_lists=len(table),
        candidate_lists_topped_up=topped_up,
        candidate_lists_short=int((table["negatives"].list.len() < settings.negatives).sum()),
    )
    return table

"""Stage `samples`: canonical events -> targets with their histories, candidate lists, and what training may see."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.data import SampleSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage, write_json
from gensar_core.runtime.writing import TableWriter
from gensar_core.samples.audit import audit, audit_time_split
from gensar_core.samples.events import EventLog, read_events
from gensar_core.samples.histories import Histories, Inputs
from gensar_core.samples.negatives import Group, NegativeSampler, write_negatives
from gensar_core.samples.targets import Selection, select_targets

_INPUTS = ("items.parquet", "queries.parquet", "events.parquet")
#: Samples made and written at once; bounds memory, not results.
_SLICE = 1 << 17


def build_samples(canonical: Path, output: Path, settings: SampleSettings, seed: int) -> None:
    """Write training_events.parquet, samples.parquet, candidates.parquet and audit.json.

    ``canonical`` is a folder with the tables `items`, `queries` and `events`. Raises UserError when a table is missing
    or inconsistent, or when the log has too few targets for the split.
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
        selection = select_targets(log, settings)
        _report(stage, selection, settings)
        if not any(len(rows) for rows in selection.targets.values()):
            raise UserError(f"{canonical / 'events.parquet'}: {_nothing_found(settings)}; such a log gives no samples")
        schema.EVENTS.write(events.filter(selection.training), stage.path("training_events.parquet"))
        _write_samples(stage.path("samples.parquet"), log, selection, settings)
        _write_candidates(stage, log, selection, items["text"], queries["text"], settings, seed)
        del log, selection
        write_json(stage.path("audit.json"), _audit(stage, events, settings))


def _nothing_found(settings: SampleSettings) -> str:
    """Why no click became a target."""
    both = "with both a recommendation click and a search before them"
    if settings.split == "time":
        return f"the clicks {both} have fewer than three different times"
    return f"no user has {settings.min_targets} clicks of one task {both}"


def _audit(stage: Stage, events: pl.DataFrame, settings: SampleSettings) -> dict[str, Any]:
    """The leak audit of the tables as they were written."""
    training_events = schema.EVENTS.scan(stage.path("training_events.parquet"))
    samples = schema.SAMPLES.scan(stage.path("samples.parquet"))
    candidates = schema.CANDIDATES.scan(stage.path("candidates.parquet"))
    report: dict[str, Any] = {"history_protocol": settings.history_protocol, "split": settings.split}
    if settings.split == "time":
        report["time_split"] = audit_time_split(training_events, samples)
    return report | audit(events, training_events, samples, candidates, negatives=settings.negatives)


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


def _write_samples(path: Path, log: EventLog, selection: Selection, settings: SampleSettings) -> None:
    """Table `samples`, part by part."""
    with TableWriter(schema.SAMPLES, path) as table:
        for trained, groups in itertools.groupby(_groups(selection), key=lambda group: group[1] == "train"):
            histories = Histories(log.take(selection.shown) if trained else log, settings.history_protocol)
            for task, split, ids, rows in groups:
                for start in range(0, len(rows), _SLICE):
                    part = slice(start, start + _SLICE)
                    targets = log.take(rows[part])
                    inputs = histories.inputs(targets, settings.max_recommendations, settings.max_searches)
                    table.write(_sample_rows(task, split, ids[part], targets, inputs))
            # Those of training and of all events need not be in memory together.
            del histories


def _sample_rows(task: str, split: str, ids: np.ndarray, targets: EventLog, inputs: Inputs) -> pl.DataFrame:
    """Rows of table `samples`."""
    return pl.DataFrame(
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


def _write_candidates(
    stage: Stage,
    log: EventLog,
    selection: Selection,
    item_texts: pl.Series,
    query_texts: pl.Series,
    settings: SampleSettings,
    seed: int,
) -> None:
    """Table `candidates`, part by part."""
    groups = [Group(task, ids, log.take(rows)) for task, split, ids, rows in _groups(selection) if split != "train"]
    sampler = NegativeSampler(log, seed, "candidates")
    with TableWriter(schema.CANDIDATES, stage.path("candidates.parquet")) as table:
        figures = write_negatives(table, sampler, groups, item_texts.to_list(), query_texts.to_list(), settings)
    stage.record(**{f"candidate_{name}": count for name, count in figures.items()})

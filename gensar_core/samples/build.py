"""Build targets with their histories, candidate lists and training events from canonical events (stage `samples`).

Users are processed block by block, so memory grows with the catalogue and hardly with the log. `build_samples` does all
work in one process. `survey_samples` (samples/survey.py), `build_part` for each part of the users, and `gather_samples`
do the same in several processes, on one machine or on many, with the same bytes for any number of parts.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.datasets import SampleSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage, read_record, write_json
from gensar_core.runtime.verification import intact
from gensar_core.runtime.writing import TableWriter
from gensar_core.samples.audit import Audit, audit_time_split
from gensar_core.samples.cold_items import draw_cold_items
from gensar_core.samples.events import EventLog, EventTable
from gensar_core.samples.histories import Histories, Inputs
from gensar_core.samples.negatives import Group, NegativeSampler, QueryHits, write_negatives
from gensar_core.samples.parts import EVALUATED, EVENTS_FILE, GROUPS, group_file, part_files
from gensar_core.samples.popularity import PopularityPool
from gensar_core.samples.survey import FILES as SURVEY_FILES
from gensar_core.samples.survey import TABLES, Survey, survey
from gensar_core.samples.targets import DROPPED, Selection, select_targets

#: Samples built and written at once; limits memory. It is also the size of a written file's row groups.
_SLICE = 1 << 17


def build_samples(canonical: Path, output: Path, settings: SampleSettings, seed: int) -> None:
    """Write training_events.parquet, samples.parquet, candidates.parquet, cold_items.parquet and audit.json.

    ``canonical`` is a folder with the tables `items`, `queries` and `events`. Raises UserError when a table is missing
    or inconsistent, or when the log has too few targets for the split.
    """
    with Stage("samples", output, settings=settings, inputs=_inputs(canonical), seed=seed, code=__name__) as stage:
        user_survey = survey(canonical, settings)
        whole = stage.path("whole")
        whole.mkdir()
        counts = _Part(canonical, user_survey, settings, seed).write(whole)
        _gather(stage, canonical, user_survey, [whole], counts, settings, seed)
        shutil.rmtree(whole)


def build_part(
    canonical: Path, surveyed: Path, output: Path, settings: SampleSettings, seed: int, part: int, parts: int
) -> None:
    """Write the samples of one part of the users to the files of `parts.part_files` (stage `samples_part`).

    ``part`` of ``parts`` counts from 0; ``surveyed`` is the output folder of the stage `samples_survey`.
    """
    inputs = _inputs(canonical, surveyed)
    with Stage("samples_part", output, settings=settings, inputs=inputs, seed=seed, code=__name__) as stage:
        user_survey = Survey.read(surveyed)
        files = stage.path(EVENTS_FILE).parent
        stage.record(**_Part(canonical, user_survey, settings, seed).write(files, part, parts))


def gather_samples(
    canonical: Path, surveyed: Path, parts: Sequence[Path], output: Path, settings: SampleSettings, seed: int
) -> None:
    """Gather the samples of all parts, in order, into the output of `build_samples` (stage `samples`).

    Raises UserError as `build_samples` does, and when a file of a part is missing or damaged.
    """
    inputs = [*_inputs(canonical, surveyed), *(file for part in parts for file in intact(part, *part_files()))]
    with Stage("samples", output, settings=settings, inputs=inputs, seed=seed, code=__name__) as stage:
        counts: Counter[str] = Counter()
        for part in parts:
            counts.update(read_record(part / "stage.json")["counts"])
        _gather(stage, canonical, Survey.read(surveyed), parts, counts, settings, seed)


def _inputs(canonical: Path, surveyed: Path | None = None) -> list[Path]:
    """List the input files in the folder of canonical tables and, if given, in that of the survey."""
    tables = [canonical / f"{name}.parquet" for name in TABLES]
    return tables if surveyed is None else [*tables, *(surveyed / name for name in SURVEY_FILES)]


class _Part:
    """Build the samples of some users, block by block."""

    def __init__(self, canonical: Path, user_survey: Survey, settings: SampleSettings, seed: int) -> None:
        items = schema.ITEMS.read(canonical / "items.parquet").select("item_id", "text").sort("item_id")
        queries = schema.QUERIES.read(canonical / "queries.parquet").sort("query_id")
        self._events = EventTable(canonical / "events.parquet", user_survey.offsets)
        self._survey = user_survey
        self._pool = PopularityPool.from_counts(user_survey.clicks)
        self._hits = QueryHits(items["text"].to_list(), queries["text"].to_list(), settings)
        self._cold = draw_cold_items(len(items), settings.cold_share, seed)
        self._settings = settings
        self._seed = seed

    def write(self, folder: Path, part: int = 0, parts: int = 1) -> Counter[str]:
        """Write one part's files of `parts.part_files`, with ids from 0 in each, and return the row counts."""
        counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        written: Counter[tuple[str, str]] = Counter()
        with contextlib.ExitStack() as stack:

            def open_table(table: schema.Table, name: str) -> TableWriter:
                return stack.enter_context(TableWriter(table, folder / name, compression="lz4"))

            events = open_table(schema.EVENTS, EVENTS_FILE)
            samples = {group: open_table(schema.SAMPLES, group_file("samples", *group)) for group in GROUPS}
            candidates = {group: open_table(schema.CANDIDATES, group_file("candidates", *group)) for group in EVALUATED}
            for block in self._events.blocks(self._events.users(part, parts)):
                frame = self._events.read(block)
                log = EventLog.from_frame(frame)
                selection = select_targets(
                    log, self._settings, self._survey.moments, searching=self._survey.searching, cold=self._cold
                )
                counts.update({name: count for name, count in selection.counts.items() if name in _COUNTS})
                counts["training_events"] += int(selection.training.sum())
                events.write(frame.filter(selection.training))
                ids = {group: written[group] + np.arange(len(rows)) for group, rows in selection.targets.items()}
                written.update({group: len(rows) for group, rows in selection.targets.items()})
                self._write_samples(samples, log, selection, ids)
                counts.update(self._write_candidates(candidates, log, selection, ids))
        return counts

    def _write_samples(
        self,
        tables: Mapping[tuple[str, str], TableWriter],
        log: EventLog,
        selection: Selection,
        ids: Mapping[tuple[str, str], np.ndarray],
    ) -> None:
        settings = self._settings
        for trained in (True, False):
            histories = Histories(log.take(selection.shown) if trained else log, settings.history_protocol)
            for group, rows in selection.targets.items():
                if trained == (group in EVALUATED):
                    continue
                for start in range(0, len(rows), _SLICE):
                    part = slice(start, start + _SLICE)
                    targets = log.take(rows[part])
                    inputs = histories.inputs(targets, settings.max_recommendations, settings.max_searches)
                    tables[group].write(_sample_rows(*group, ids[group][part], targets, inputs))
            # Histories over training events and over all events need not be in memory together.
            del histories

    def _write_candidates(
        self,
        tables: Mapping[tuple[str, str], TableWriter],
        log: EventLog,
        selection: Selection,
        ids: Mapping[tuple[str, str], np.ndarray],
    ) -> Counter[str]:
        counts: Counter[str] = Counter()
        sampler = NegativeSampler(self._pool, log, self._seed, "candidates")
        for group, table in tables.items():
            targets = Group(group[0], ids[group], log.take(selection.targets[group]))
            lists = write_negatives(table, sampler, [targets], self._hits, self._settings.negatives)
            counts.update({f"candidate_{name}": count for name, count in lists.items()})
        return counts


#: Row counts to sum over the parts of the users.
_COUNTS = (
    *(f"{task}_{name}" for task in schema.TASKS for name in ("with_both_histories", "users", "targets", "train_split")),
    *(f"{task}_train_dropped_{reason}" for task in schema.TASKS for reason in DROPPED),
    *(f"{task}_{split}" for task, split in GROUPS),
    "training_events",
    "candidate_lists",
    "candidate_lists_topped_up",
    "candidate_lists_short",
)


def _sample_rows(task: str, split: str, ids: np.ndarray, targets: EventLog, inputs: Inputs) -> pl.DataFrame:
    """Build rows of the table `samples`."""
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


def _gather(
    stage: Stage,
    canonical: Path,
    user_survey: Survey,
    parts: Sequence[Path],
    counts: Mapping[str, int],
    settings: SampleSettings,
    seed: int,
) -> None:
    """Write the merged tables of all parts, their counts, the cold items, and the audit."""
    _report(stage, counts, user_survey.moments, settings)
    if not any(counts[f"{task}_{split}"] for task, split in GROUPS):
        lack = _lack_of_targets(settings, user_survey.searching)
        raise UserError(f"{canonical / 'events.parquet'}: {lack}; such a log gives no samples")
    with TableWriter(schema.EVENTS, stage.path(EVENTS_FILE)) as training_events:
        for rows in _rows([part / EVENTS_FILE for part in parts]):
            training_events.write(rows)
    with (
        TableWriter(schema.SAMPLES, stage.path("samples.parquet")) as samples,
        TableWriter(schema.CANDIDATES, stage.path("candidates.parquet")) as candidates,
    ):
        first = 0
        for group in GROUPS:
            for name, table in (("samples", samples), ("candidates", candidates)):
                if name == "samples" or group in EVALUATED:
                    _append(table, [part / group_file(name, *group) for part in parts], first)
            first += counts["_".join(group)]
    cold = np.flatnonzero(draw_cold_items(len(user_survey.clicks), settings.cold_share, seed))
    schema.COLD_ITEMS.write(
        pl.DataFrame({"item_id": pl.Series(cold, dtype=pl.Int32)}), stage.path("cold_items.parquet")
    )
    stage.record(cold_items=len(cold))
    stage.record(candidate_queries=_count_evaluated_queries(stage.path("samples.parquet")))
    events = EventTable(canonical / "events.parquet", user_survey.offsets)
    write_json(stage.path("audit.json"), _audit(stage, events, settings))


def _rows(paths: list[Path]) -> Iterator[pl.DataFrame]:
    """Yield the rows of all files in order, in frames of `_SLICE` rows whatever the sizes of the files."""
    rows = pl.scan_parquet(paths)
    for start in range(0, rows.select(pl.len()).collect().item(), _SLICE):
        yield rows.slice(start, _SLICE).collect()


def _append(table: TableWriter, paths: list[Path], first: int) -> None:
    """Write the rows of all files, with sample ids counted from ``first``."""
    for rows in _rows(paths):
        numbers = pl.int_range(first, first + len(rows), dtype=pl.Int64())
        table.write(rows.with_columns(sample_id=numbers))
        first += len(rows)


def _count_evaluated_queries(samples: Path) -> int:
    """Count the distinct queries of valid and test targets."""
    queries = schema.SAMPLES.scan(samples).filter(pl.col("split") != "train").select(pl.col("query_id").drop_nulls())
    return int(queries.select(pl.col("query_id").n_unique()).collect(engine="streaming").item())


def _lack_of_targets(settings: SampleSettings, searching: bool) -> str:
    """Explain why no click became a target."""
    needed = "both a recommendation click and a search" if searching else "a recommendation click"
    if settings.split == "time":
        return f"the clicks with {needed} before them have fewer than three different times"
    return f"no user has {settings.min_targets} clicks of one task with {needed} before them"


def _report(stage: Stage, counts: Mapping[str, int], moments: np.ndarray, settings: SampleSettings) -> None:
    """Record the row counts, and warn where one differs from the settings' expected rows."""
    stage.record(**dict(zip(("valid_from", "test_from"), moments.tolist(), strict=False)))
    stage.record(**{name: counts[name] for name in _COUNTS if name in counts})
    for step, rows in settings.expected_rows.items():
        if (count := stage.counts.get(step, "no such step")) != rows:
            stage.warn(f"step {step}: {count}, expected {rows} rows")


def _audit(stage: Stage, events: EventTable, settings: SampleSettings) -> dict[str, Any]:
    """Audit the written tables for leaks."""
    training_events = schema.EVENTS.scan(stage.path(EVENTS_FILE))
    samples = schema.SAMPLES.scan(stage.path("samples.parquet"))
    candidates = schema.CANDIDATES.scan(stage.path("candidates.parquet"))
    report: dict[str, Any] = {
        "history_protocol": settings.history_protocol,
        "split": settings.split,
        "training_cutoff": settings.training_cutoff,
    }
    if settings.split == "time":
        report["time_split"] = audit_time_split(training_events, samples)
    audit = Audit(training_events, settings.negatives)
    for users in events.blocks():
        block = samples.filter(pl.col("user_id").is_between(users.start, users.stop - 1)).collect()
        audit.add(events.read(users), block, _lists_of(block, candidates))
    counted = audit.report()
    if settings.split == "leave_one_out":
        _warn_of_the_future(stage, counted)
    return report | counted


def _warn_of_the_future(stage: Stage, audit: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Warn of the share of test targets that precede training events of other users."""
    shares = {task: audit[task]["test"]["future_of_others_share"] for task in schema.TASKS}
    told = ", ".join(f"{share:.0%} of {task}" for task, share in shares.items() if share)
    if told:
        stage.warn(
            f"leave-one-out trains on clicks of other users that are later than test targets ({told}); split: time "
            "trains on what was there before them"
        )


def _lists_of(samples: pl.DataFrame, candidates: pl.LazyFrame) -> pl.DataFrame:
    """Read the candidate lists of some users' evaluated samples; ids of a task and split are contiguous."""
    groups = samples.filter(pl.col("split") != "train").group_by("task", "split", maintain_order=True)
    ends = groups.agg(first=pl.col("sample_id").min(), last=pl.col("sample_id").max()).select("first", "last").rows()
    lists = [candidates.filter(pl.col("sample_id").is_between(*bounds)) for bounds in ends]
    return pl.concat([candidates.clear(), *lists]).collect()

"""Survey all users before building samples: the place of each user's events, and the statistics that users share.

Everything else about a user's samples follows from that user's events, so users can be processed block by block, in one
process or in many, with the same results.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.datasets import SampleSettings
from gensar_core.runtime.stage import Stage, write_json
from gensar_core.samples.events import EventLog, EventTable, check_events
from gensar_core.samples.histories import Histories
from gensar_core.samples.targets import moments_of_counts

TABLES: Final = ("items", "queries", "events")
FILES: Final = ("users.parquet", "clicks.parquet", "survey.json")


@dataclass(frozen=True)
class Survey:
    """Hold the statistics of all users that every user's samples depend on.

    ``events`` int64 [users]: events of each user; ``clicks`` int64 [items]: recommendation clicks on each item;
    ``moments`` int64 [2]: times at which valid and test begin in a split by time, empty for another split or where no
    such times exist; ``searching``: whether the data set has queries.
    """

    events: np.ndarray
    clicks: np.ndarray
    moments: np.ndarray
    searching: bool = True

    @property
    def offsets(self) -> np.ndarray:
        """Return the rows of the events table where users' events begin and the last user's end, int64 [users + 1]."""
        return np.concatenate([[0], np.cumsum(self.events)])

    def write(self, stage: Stage) -> None:
        """Write the three files into a stage's folder."""
        for name, counts in (("users", self.events), ("clicks", self.clicks)):
            pl.DataFrame({"count": counts}).write_parquet(stage.path(f"{name}.parquet"), compression="zstd")
        write_json(stage.path("survey.json"), {"moments": self.moments.tolist(), "searching": self.searching})

    @classmethod
    def read(cls, folder: Path) -> Survey:
        """Read the files that ``write`` wrote."""
        users, clicks = (
            pl.read_parquet(folder / f"{name}.parquet")["count"].to_numpy() for name in ("users", "clicks")
        )
        values = json.loads((folder / "survey.json").read_text(encoding="utf-8"))
        return cls(users, clicks, np.array(values["moments"], dtype=np.int64), values["searching"])


def survey_samples(canonical: Path, output: Path, settings: SampleSettings, seed: int) -> None:
    """Write the survey of a data set whose samples are built in parts (stage `samples_survey`).

    Raises UserError when a table is missing or inconsistent.
    """
    inputs = [canonical / f"{name}.parquet" for name in TABLES]
    with Stage("samples_survey", output, settings=settings, inputs=inputs, seed=seed, code=__name__) as stage:
        user_survey = survey(canonical, settings)
        user_survey.write(stage)
        stage.record(users=int((user_survey.events > 0).sum()), events=int(user_survey.events.sum()))


def survey(canonical: Path, settings: SampleSettings) -> Survey:
    """Check the events of a data set, block by block, and count them.

    Raises UserError when a table is missing or not readable, or when the events fail `check_events`.
    """
    n_items, n_queries = (schema.TABLES[name].open(canonical / f"{name}.parquet")[1] for name in ("items", "queries"))
    events, clicks = check_events(canonical / "events.parquet", n_items, n_queries)
    user_survey = Survey(events, clicks, moments=np.zeros(0, dtype=np.int64), searching=n_queries > 0)
    if settings.split != "time" or not len(events):
        return user_survey
    table = EventTable(canonical / "events.parquet", user_survey.offsets)
    times, targets = _target_times(table, settings, searching=user_survey.searching)
    return replace(user_survey, moments=moments_of_counts(times, targets, settings.time_shares))


def _target_times(table: EventTable, settings: SampleSettings, *, searching: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct times of targets, ascending, and the number of targets at each."""
    times, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for users in table.blocks():
        log = EventLog.from_frame(table.read(users))
        targets = log.time[Histories(log, settings.history_protocol).complete(log, searching=searching)]
        times, place = np.unique(np.concatenate([times, targets]), return_inverse=True)
        weights = np.concatenate([counts, np.ones(len(targets), dtype=np.int64)])
        counts = np.bincount(place, weights=weights, minlength=len(times)).astype(np.int64)
    return times, counts

"""Read source `eventlog`: the user's own item and event tables, as described in docs/own-data.md."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from gensar_core.config.datasets import EventLogSettings
from gensar_core.runtime.stage import Stage
from gensar_core.sources.shared.click_logs import KINDS, EventRows, RawClicks, first_fault, write_canonical
from gensar_core.sources.shared.normalization import identity, normalized, unix_seconds
from gensar_core.sources.shared.raw_tables import scan_text

ITEM_COLUMNS: Final = ("item_id", "title")
OPTIONAL_ITEM_COLUMNS: Final = ("description", "brand", "categories")
EVENT_COLUMNS: Final = ("user_id", "time", "kind", "item_id", "query")
OPTIONAL_EVENT_COLUMNS: Final = ("session_id",)

#: Faults that make an event unusable, in the order of the checks -> what to write instead.
EVENT_FAULTS: Final = {
    "empty_user_id": "give every event a user_id",
    "empty_item_id": "give every event an item_id",
    "bad_time": "give the time in unix seconds (not milliseconds) or as an ISO date-time",
    "search_without_query": "give every search its query",
}


def canonicalize_events(items: Path, events: Path, settings: EventLogSettings, output: Path, seed: int) -> None:
    """Write users.parquet, items.parquet, queries.parquet and events.parquet into ``output``.

    ``items`` and ``events`` are Parquet, CSV or JSON lines files. Nothing is drawn at random; ``seed`` is only
    recorded. Raises UserError when a file or column is missing, a file cannot be read or is mostly unusable, an event
    has an unknown kind, or no event is left. Other unusable rows are counted in stage.json and skipped.
    """
    rows = EventRows("events", events, (False, True), EVENT_FAULTS)
    raw = RawClicks(clean_items(items), clean_events(events), items, (rows,))
    with Stage("canonical", output, settings=settings, inputs=[items, events], seed=seed, code=__name__) as stage:
        write_canonical(stage, raw, settings)


def clean_items(path: Path, id_column: str = "item_id") -> pl.LazyFrame:
    """Return the item table in the form of ``RawClicks.items``; ``id_column`` holds the ids of the source."""
    table = scan_text(path, (id_column, *ITEM_COLUMNS[1:]), OPTIONAL_ITEM_COLUMNS)
    raw_id = identity(pl.col(id_column))
    return table.select(
        "row",
        raw_id.alias("raw_id"),
        *(normalized(pl.col(name)).alias(name) for name in ("title", "description", "brand", "categories")),
        pl.when(raw_id.is_null()).then(pl.lit("empty_item_id")).alias("fault"),
    )


def clean_events(path: Path) -> pl.LazyFrame:
    """Return the event table in the form of ``RawClicks.events``."""
    kind = pl.col("kind").str.strip_chars().fill_null("")
    by_name = {name: flag for flag, name in KINDS.items()}
    searched = kind.str.to_lowercase().replace_strict(by_name, default=None, return_dtype=pl.Boolean())
    query = normalized(pl.col("query"))
    faults = {
        "empty_user_id": pl.col("user").is_null(),
        "empty_item_id": pl.col("item").is_null(),
        "unknown_kind": pl.col("searched").is_null(),
        "bad_time": pl.col("time").is_null(),
        "search_without_query": pl.col("searched") & pl.col("query").is_null(),
    }
    return (
        scan_text(path, EVENT_COLUMNS, OPTIONAL_EVENT_COLUMNS)
        .select(
            "row",
            user=identity(pl.col("user_id")),
            item=identity(pl.col("item_id")),
            time=unix_seconds(pl.col("time")),
            searched=searched,
            query=query,
            session=identity(pl.col("session_id")),
            unknown_kind=kind,
        )
        .with_columns(
            pl.when("searched", pl.col("query") != "").then("query").alias("query"),
            pl.when("searched").then("session").alias("session"),
        )
        .with_columns(fault=first_fault(faults))
        .with_columns(unknown_kind=pl.when(pl.col("fault") == "unknown_kind").then("unknown_kind"))
    )

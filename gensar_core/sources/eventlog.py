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
    "bad_time": "give the time in unix seconds (or set time_unit to milliseconds) or as an ISO date-time",
    "search_without_query": "give every search its query",
}


def canonicalize_events(
    items: Path, events: Path, settings: EventLogSettings, output: Path, seed: int, parts: int = 1
) -> None:
    """Write users.parquet, items.parquet, queries.parquet and events.parquet into ``output``.

    ``items`` and ``events`` are Parquet, CSV or JSON lines files. With several ``parts``, only a survey for them is
    written (``write_canonical``). Nothing is drawn at random; ``seed`` is only recorded. Raises UserError when a file
    or column is missing, a file cannot be read or is mostly unusable, an event has an unknown kind, or no event is
    left. Other unusable rows are counted in stage.json and skipped.
    """
    rows = EventRows("events", events, (False, True), EVENT_FAULTS)
    raw = RawClicks(clean_items(items, settings), (clean_events(events, settings),), items, (rows,))
    with Stage("canonical", output, settings=settings, inputs=[items, events], seed=seed, code=__name__) as stage:
        write_canonical(stage, raw, settings, parts)


def clean_items(path: Path, settings: EventLogSettings) -> pl.LazyFrame:
    """Return the item table in the form of ``RawClicks.items``."""
    table = scan_text(path, ITEM_COLUMNS, OPTIONAL_ITEM_COLUMNS, settings.item_columns)
    raw_id = identity(pl.col("item_id"))
    return table.select(
        "row",
        raw_id.alias("raw_id"),
        *(normalized(pl.col(name)).alias(name) for name in ("title", "description", "brand", "categories")),
        pl.when(raw_id.is_null()).then(pl.lit("empty_item_id")).alias("fault"),
    )


def clean_events(path: Path, settings: EventLogSettings) -> pl.LazyFrame:
    """Return the event table in the form of ``RawClicks.events``."""
    query = normalized(pl.col("query"))
    kind = pl.col("kind").str.strip_chars().fill_null("")
    lower = kind.str.to_lowercase()
    by_query = settings.kinds == "by_query"
    flags = {name: flag for flag, name in KINDS.items()}
    meanings: dict[str, bool | None] = {**flags}
    for name, meaning in {} if settings.kinds == "by_query" else settings.kinds.items():
        meanings[name.lower()] = None if meaning is None else flags[meaning]
    left_out = [name for name, flag in meanings.items() if flag is None]
    # A chain of conditions streams; `replace_strict` would hold the whole log.
    searched = pl.coalesce(pl.when(lower == name).then(flag) for name, flag in meanings.items())
    optional = (*OPTIONAL_EVENT_COLUMNS, *(("kind", "query") if by_query else ()))
    faults = {
        "empty_user_id": pl.col("user").is_null(),
        "empty_item_id": pl.col("item").is_null(),
        "unknown_kind": pl.col("searched").is_null(),
        "bad_time": pl.col("time").is_null(),
        "search_without_query": pl.col("searched") & pl.col("query").is_null(),
    }
    return (
        scan_text(path, [name for name in EVENT_COLUMNS if name not in optional], optional, settings.event_columns)
        .filter(~lower.is_in(left_out))
        .select(
            "row",
            user=identity(pl.col("user_id")),
            item=identity(pl.col("item_id")),
            time=unix_seconds(pl.col("time"), 1000 if settings.time_unit == "milliseconds" else 1),
            searched=query != "" if by_query else searched,
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

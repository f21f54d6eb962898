"""Read source `qilin`: the published files of the Qilin data set (Chen et al., SIGIR 2025; THUIR/Qilin).

A request of Xiaohongshu, for recommendations or for a query, lists the notes that it showed and which were clicked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from gensar_core.config.datasets import QilinSettings
from gensar_core.runtime.stage import Stage
from gensar_core.sources.shared.click_logs import EventRows, RawClicks, clicked_rows, write_canonical
from gensar_core.sources.shared.normalization import identity, normalized
from gensar_core.sources.shared.raw_tables import scan_parquet_folder

NOTES: Final = "notes"
RECOMMENDATIONS: Final = ("recommendation_train", "recommendation_test")
#: Searches whose page opened with a generated answer (`dqa`) list the notes below it in the same way.
SEARCHES: Final = ("search_train", "search_test", "dqa")
FOLDERS: Final = (NOTES, *RECOMMENDATIONS, *SEARCHES)

_SHOWN: Final = "rec_result_details_with_idx"
_FOUND: Final = "search_result_details_with_idx"
_TIME: Final = "request_timestamp"
_SEARCH_TIME: Final = "search_timestamp"
_TAXONOMY: Final = ("taxonomy1_id", "taxonomy2_id", "taxonomy3_id")
_PADDING: Final = ("", "nan", "none", "null", "-1")

_FAULTS: Final = {
    "empty_user_id": "put the published files there",
    "empty_item_id": "put the published files there",
    "bad_time": "the time stamp should be unix seconds; put the published files there",
    "bad_click": "click should be a number; put the published files there",
}
_SEARCH_FAULTS: Final = _FAULTS | {"without_query": "put the published files there"}


def canonicalize_qilin(raw: Path, settings: QilinSettings, output: Path, seed: int, parts: int = 1) -> None:
    """Write users.parquet, items.parquet, queries.parquet and events.parquet into ``output``.

    ``raw`` holds the published folders ``FOLDERS`` of Parquet files. Clicks are the shown notes with click > 0; a
    search with several clicks is one session. The numbers of skipped rows count the shown notes of all folders of a
    kind, in the order of ``FOLDERS``. With several ``parts``, only a survey for them is written (``write_canonical``).
    Nothing is drawn at random; ``seed`` is only recorded. Raises UserError when a folder or column is missing, a file
    cannot be read or is mostly unusable, or no event is left.
    """
    notes = clean_notes(raw / NOTES)
    clicks = (clean_recommendations(raw), clean_searches(raw))
    kinds = (
        EventRows("recommendation_clicks", raw, (False,), _FAULTS, _TIME),
        EventRows("search_clicks", raw, (True,), _SEARCH_FAULTS, _SEARCH_TIME),
    )
    inputs = [file for folder in FOLDERS for file in sorted((raw / folder).glob("*.parquet"))]
    with Stage("canonical", output, settings=settings, inputs=inputs, seed=seed, code=__name__) as stage:
        write_canonical(stage, RawClicks(notes, clicks, raw / NOTES, kinds), settings, parts)


def clean_notes(folder: Path) -> pl.LazyFrame:
    """Return the notes as ``RawClicks.items``: their content is the description, their taxonomy the category path."""
    raw_id = identity(pl.col("note_idx").cast(pl.String()))
    levels = [normalized(pl.col(name).cast(pl.String())) for name in _TAXONOMY]
    real = [pl.when(~level.str.to_lowercase().is_in(_PADDING)).then(level) for level in levels]
    return scan_parquet_folder(folder, ("note_idx", "note_title", "note_content", *_TAXONOMY)).select(
        "row",
        raw_id=raw_id,
        title=normalized(pl.col("note_title").cast(pl.String())),
        description=normalized(pl.col("note_content").cast(pl.String())),
        brand=pl.lit(""),
        categories=pl.concat_str(real, separator=" > ", ignore_nulls=True),
        fault=pl.when(raw_id.is_null()).then(pl.lit("empty_item_id")),
    )


def clean_recommendations(raw: Path) -> pl.LazyFrame:
    """Return the clicked notes of requests for recommendations, in the form of ``RawClicks.events``."""
    nothing = pl.lit(None, dtype=pl.String())
    columns = {"query": nothing, "session": nothing}
    return clicked_rows(_shown(raw, RECOMMENDATIONS, _SHOWN, _TIME, ()), searched=False, **columns)


def clean_searches(raw: Path) -> pl.LazyFrame:
    """Return the clicked notes of searches, in the form of ``RawClicks.events``."""
    query = normalized(pl.col("query"))
    return clicked_rows(
        _shown(raw, SEARCHES, _FOUND, _SEARCH_TIME, ("query", "search_idx")),
        searched=True,
        query=pl.when(query != "").then(query),
        session=identity(pl.col("search_idx")),
    )


def _shown(raw: Path, folders: tuple[str, ...], details: str, time: str, columns: tuple[str, ...]) -> pl.LazyFrame:
    """Return one row per shown note: row, user_id, item_id, seconds, clicks, and the request's ``columns`` as text."""
    shown = pl.col(details).struct
    tables = [
        scan_parquet_folder(raw / folder, ("user_idx", details, *columns))
        .explode(details)
        .filter(pl.col(details).is_not_null())
        .select(
            pl.col("user_idx").cast(pl.String()).alias("user_id"),
            shown.field("note_idx").cast(pl.String()).alias("item_id"),
            shown.field(time).cast(pl.Float64(), strict=False).alias("seconds"),
            shown.field("click").cast(pl.Float64(), strict=False).alias("clicks"),
            *(pl.col(name).cast(pl.String()) for name in columns),
        )
        for folder in folders
    ]
    return pl.concat(tables).with_row_index("row", 1)

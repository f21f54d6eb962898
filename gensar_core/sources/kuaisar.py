"""Read source `kuaisar`: the published files of the KuaiSAR data set (Sun et al., 2023).

Its words and ids are anonymized: a caption or a query is a list of word numbers, which serve as words here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from gensar_core.config.datasets import KuaiSARSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage
from gensar_core.sources.shared.click_logs import EventRows, RawClicks, clicked_rows, write_canonical
from gensar_core.sources.shared.normalization import identity, normalized
from gensar_core.sources.shared.raw_tables import reading, scan_text

RECOMMENDATIONS: Final = "rec_inter.csv"
SEARCHES: Final = "src_inter.csv"
ITEMS: Final = "item_features.csv"
USERS: Final = "user_features.csv"

_TIME: Final = "timestamp"
_SEARCH_TIME: Final = "search_session_timestamp"
_LEVELS: Final = ("first", "second", "third", "fourth")
_PADDING: Final = ("", "0", "空", "empty", "unknown")
_HOME: Final = "https://kuaisar.github.io"

_FAULTS: Final = {
    "empty_user_id": "put the published file there",
    "empty_item_id": "put the published file there",
    "bad_time": "the time stamp should be unix milliseconds; put the published file there",
    "bad_click": "clicks should be whole numbers; put the published file there",
}
_SEARCH_FAULTS: Final = _FAULTS | {"without_query": "keyword should be a list of word numbers, such as [20, 34, 3]"}


def canonicalize_kuaisar(raw: Path, settings: KuaiSARSettings, output: Path, seed: int, parts: int = 1) -> None:
    """Write users.parquet, items.parquet, queries.parquet and events.parquet into ``output``.

    ``raw`` is the folder of the published files. Recommendation clicks are the rows of rec_inter.csv with click = 1,
    search clicks the rows of src_inter.csv with click_cnt > 0. With several ``parts``, only a survey for them is
    written (``write_canonical``). Nothing is drawn at random; ``seed`` is only recorded. Raises UserError when a file
    or column is missing, a file cannot be read or is mostly unusable, times are not in milliseconds, or no event is
    left.
    """
    files = [raw / name for name in (RECOMMENDATIONS, SEARCHES, ITEMS)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{raw}: lacks {' and '.join(missing)}; put the published files of KuaiSAR there ({_HOME}), or name the "
            "folder that holds them"
        )
    recommendations, searches, items = files
    users = raw / USERS
    inputs = [*files, users] if users.is_file() else files
    clicks = RawClicks(
        clean_items(items),
        (clean_recommendations(recommendations), clean_searches(searches)),
        items,
        (
            EventRows("recommendation_clicks", recommendations, (False,), _FAULTS, _TIME, milliseconds=True),
            EventRows("search_clicks", searches, (True,), _SEARCH_FAULTS, _SEARCH_TIME, milliseconds=True),
        ),
    )
    with Stage("canonical", output, settings=settings, inputs=inputs, seed=seed, code=__name__) as stage:
        stage.record(recommendation_rows=_rows(recommendations), search_rows=_rows(searches))
        if users.is_file():
            stage.record(users_with_features=_rows(users))
        write_canonical(stage, clicks, settings, parts)


def clean_items(path: Path) -> pl.LazyFrame:
    """Return item_features.csv as ``RawClicks.items``: caption words as title, English categories as description."""
    names = [f"{level}_level_category_name_en" for level in _LEVELS]
    numbers = [f"{level}_level_category_id" for level in _LEVELS]
    # Padding may occur at any level, even before a real one.
    real = [_real(name) & _real(number) for name, number in zip(names, numbers, strict=True)]
    levels = [pl.when(is_real).then(normalized(pl.col(name))) for name, is_real in zip(names, real, strict=True)]
    path_text = pl.concat_str(levels, separator=" > ", ignore_nulls=True)
    raw_id = identity(pl.col("item_id"))
    return scan_text(path, ("item_id", "caption", *names, *numbers)).select(
        "row",
        raw_id=raw_id,
        title=_words(pl.col("caption")),
        description=path_text,
        brand=pl.lit(""),
        categories=path_text,
        fault=pl.when(raw_id.is_null()).then(pl.lit("empty_item_id")),
    )


def clean_recommendations(path: Path) -> pl.LazyFrame:
    """Return the rows of rec_inter.csv with a click, in the form of ``RawClicks.events``."""
    nothing = pl.lit(None, dtype=pl.String())
    table = scan_text(path, ("user_id", "item_id", _TIME, "click"))
    return clicked_rows(_with_numbers(table, _TIME, "click"), searched=False, query=nothing, session=nothing)


def clean_searches(path: Path) -> pl.LazyFrame:
    """Return the shown items of src_inter.csv with a click, in the form of ``RawClicks.events``."""
    columns = ("user_id", "item_id", "search_session_id", _SEARCH_TIME, "keyword", "click_cnt")
    query = _words(pl.col("keyword"))
    return clicked_rows(
        _with_numbers(scan_text(path, columns), _SEARCH_TIME, "click_cnt"),
        searched=True,
        query=pl.when(query != "").then(query),
        session=identity(pl.col("search_session_id")),
    )


def _with_numbers(table: pl.LazyFrame, milliseconds: str, clicks: str) -> pl.LazyFrame:
    numbers = {name: pl.col(name).cast(pl.Float64(), strict=False) for name in (milliseconds, clicks)}
    return table.with_columns(seconds=numbers[milliseconds] / 1000, clicks=numbers[clicks])


def _words(numbers: pl.Expr) -> pl.Expr:
    """Convert ``[20, 34, 3]`` to ``20 34 3``; anything but a list of whole numbers becomes empty."""
    is_list = numbers.str.contains(r"^\s*\[[\d,\s]*\]\s*$")
    return pl.when(is_list).then(numbers.str.replace_all(r"\D+", " ").str.strip_chars()).otherwise(pl.lit(""))


def _real(column: str) -> pl.Expr:
    return ~pl.col(column).fill_null("").str.strip_chars().str.to_lowercase().is_in(_PADDING)


def _rows(path: Path) -> int:
    with reading(path):
        table = scan_text(path, ("user_id",))
        return int(table.select(pl.len()).collect(engine="streaming").item())

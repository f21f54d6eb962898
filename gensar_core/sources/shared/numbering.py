"""Assign dense numbers to the users, items, queries and sessions of a log, and write its canonical tables."""

from __future__ import annotations

import polars as pl

from gensar_core import schema
from gensar_core.runtime.stage import Stage


def sorted_names(texts: pl.LazyFrame) -> pl.Series:
    """Return the distinct texts of a one-column frame, without null, in the order of their code points."""
    distinct = texts.drop_nulls().unique().collect(engine="streaming")
    return distinct.to_series().sort()


def codes(texts: pl.Expr, names: pl.Series) -> pl.Expr:
    """Return the place of each text in ``names`` (sorted, distinct), UInt32; null if it is not among them."""
    # An Enum's mapping is built once and shared by all threads and batches; its codes are the places in `names`.
    return texts.cast(pl.Enum(names), strict=False).to_physical().cast(pl.UInt32())


def session_numbers(searches: pl.DataFrame) -> pl.Series:
    """Assign numbers to the sessions of search clicks, from 0 in the order of their first click, Int64 [rows].

    ``searches`` holds `user`, `query` and `session` in event order. Clicks share a session when all three are equal; a
    click whose `session` is null forms a session by itself.
    """
    place = pl.int_range(pl.len(), dtype=pl.Int64())
    first = pl.when(pl.col("session").is_null()).then("place")
    shared = first.otherwise(pl.col("place").min().over("user", "query", "session"))
    numbers = searches.lazy().with_columns(place=place).select(shared.rank("dense").cast(pl.Int64()) - 1)
    return numbers.collect().to_series()


def number_rows(number: str, **column: pl.Series) -> pl.DataFrame:
    """Build a table of a column and its row numbers, named ``number``."""
    return pl.DataFrame(column).with_row_index(number)


def event_table(events: pl.DataFrame, sessions: pl.Series, first: int = 0) -> pl.DataFrame:
    """Build rows of the table `events`, numbered from ``first``.

    ``events`` holds user, item, query (numbers), time and searched in event order; ``sessions`` [events] counts only
    for searches.
    """
    searched = events["searched"]
    return pl.select(
        event_id=pl.int_range(first, first + len(events), dtype=pl.Int64()),
        user_id=events["user"],
        time=events["time"],
        task=pl.when(searched).then(pl.lit("search")).otherwise(pl.lit("rec")).cast(schema.Task),
        item_id=events["item"],
        query_id=events["query"],
        session_id=pl.when(searched).then(sessions),
    )


def write_names(stage: Stage, users: int, queries: pl.Series, items: pl.DataFrame) -> None:
    """Write queries and items.parquet, and record the numbers of users, items and queries.

    ``queries`` holds the texts of queries by number; ``items`` is the table of items.
    """
    schema.QUERIES.write(number_rows("query_id", text=queries), stage.path("queries.parquet"))
    schema.ITEMS.write(items, stage.path("items.parquet"))
    stage.record(users=users, items=len(items), queries=len(queries))

"""Assign dense numbers to the users, items, queries and sessions of a log, and write its canonical tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
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


def renumber(places: pl.Series, names: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Renumber the names that occur, from 0 in the order of ``names``.

    ``places`` [rows] are places in ``names``, or null. Returns the number of each row (Int32, null where the place is
    null) and the names that occur, in the order of their numbers.
    """
    occurring = np.zeros(len(names), dtype=bool)
    occurring[places.drop_nulls().to_numpy()] = True
    numbers = pl.Series(np.cumsum(occurring) - 1, dtype=pl.Int32)
    return numbers.gather(places), names.filter(pl.Series(occurring))


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


def write_tables(
    stage: Stage, events: pl.DataFrame, sessions: pl.Series, names: Mapping[str, pl.Series], items: pl.DataFrame
) -> None:
    """Write users, items, queries and events.parquet, and record the numbers of users, items and queries.

    ``events`` holds user, item, query (numbers), time and searched in event order; ``sessions`` [events] counts only
    for searches. ``names`` holds the raw ids of users and the texts of queries by number; ``items`` is the table of
    items.
    """
    searched = events["searched"]
    table = pl.select(
        event_id=pl.int_range(len(events), dtype=pl.Int64()),
        user_id=events["user"],
        time=events["time"],
        task=pl.when(searched).then(pl.lit("search")).otherwise(pl.lit("rec")).cast(schema.Task),
        item_id=events["item"],
        query_id=events["query"],
        session_id=pl.when(searched).then(sessions),
    )
    schema.EVENTS.write(table, stage.path("events.parquet"))
    schema.USERS.write(number_rows("user_id", raw_id=names["user"]), stage.path("users.parquet"))
    schema.QUERIES.write(number_rows("query_id", text=names["query"]), stage.path("queries.parquet"))
    schema.ITEMS.write(items, stage.path("items.parquet"))
    stage.record(users=len(names["user"]), items=len(items), queries=len(names["query"]))

"""Assign dense numbers to the users, items, queries and sessions of a log."""

from __future__ import annotations

import numpy as np
import polars as pl


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

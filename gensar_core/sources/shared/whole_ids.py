"""Unify whole-number ids that some rows write as floats: `1.0` and `1` are one id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from gensar_core.errors import UserError

#: Kind of ids -> the columns of events and items that hold them.
_PLACES: Final = {
    "user": (("events", "user"),),
    "item": (("items", "raw_id"), ("events", "item")),
    "session": (("events", "session"),),
}
_FLOAT: Final = r"^(-?\d+)\.0$"
_WHOLE: Final = r"^-?\d+(\.0)?$"


def whole_ids(
    items: pl.LazyFrame, events: pl.LazyFrame, files: Mapping[str, Sequence[Path]]
) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Return items and events (as ``RawClicks``) with `1.0` written as `1` if all ids of a kind are whole numbers.

    Most programs turn a column of whole numbers into floats once a value is missing, so one log may hold both forms. If
    other ids are among them, ids are text and stay as they are. ``files`` are those behind `items` and `events`. Raises
    UserError when such ids hold both `1.0` and `1`, because nothing tells whether the two are one id.
    """
    frames = {"items": items, "events": events}
    for kind, places in _PLACES.items():
        columns = [frames[name].filter(pl.col("fault").is_null()).select("row", id=column) for name, column in places]
        if not any(_any_float(ids) for ids in columns):
            continue
        names = pl.concat(ids.select("id") for ids in columns).drop_nulls()
        if names.select(pl.col("id").str.contains(_WHOLE).all()).collect(engine="streaming").item():
            for name, column in places:
                frames[name] = frames[name].with_columns(pl.col(column).str.replace(_FLOAT, "${1}"))
            continue
        floats = names.filter(pl.col("id").str.contains(_FLOAT)).select(pl.col("id").str.replace(_FLOAT, "${1}"))
        whole = names.join(floats.unique(), on="id", how="semi").unique().collect(engine="streaming")
        twice = whole["id"] + ".0"
        for (name, _), ids in zip(places, columns, strict=True) if len(twice) else ():
            rows = ids.filter(pl.col("id").is_in(twice.implode())).sort("row").head(1).collect()
            for row, written in rows.iter_rows():
                raise UserError(
                    f"{' or '.join(map(str, files[name]))}: row {row}: the {kind} id {written!r} may be "
                    f"{written.removesuffix('.0')!r}, which occurs as well; write every id in one form"
                )
    return frames["items"], frames["events"]


def _any_float(ids: pl.LazyFrame) -> bool:
    return bool(ids.select(pl.col("id").str.ends_with(".0").any()).collect(engine="streaming").item())

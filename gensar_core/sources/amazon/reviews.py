"""Read the reviews of the Amazon 2014 release: one JSON object per line, of which four fields are read."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from gensar_core.sources.shared.lines import LineBlock, Tally, blocks
from gensar_core.sources.shared.normalization import END_OF_TIME

_FIELDS = {"reviewerID": pl.String(), "asin": pl.String(), "unixReviewTime": pl.Int64(), "overall": pl.Float64()}
# Excludes infinity, NaN, and integers too large for a float.
_LARGEST_RATING = 1e300
_COLUMNS = ("user", "item", "time", "rating")
_SCHEMA = dict(zip(_COLUMNS, _FIELDS.values(), strict=True))
# A block with a broken line is read in pieces of this size, so that few sound lines take the slow path.
_PIECE_BYTES = 1 << 18

_IDS = (b'"reviewerID"', b'"asin"')
# Matches nearly all sound lines, and few broken ones.
_PLAIN_TIME = re.compile(rb'"unixReviewTime": ?[0-9]{1,10}[,}]')


def read_reviews(path: Path) -> tuple[pl.DataFrame, Tally]:
    """Return the reviews in file order, and the tally.

    Columns are user, item (raw ids), time (unix seconds) and rating (null where absent). A line is broken, and skipped,
    when it is not a JSON object in UTF-8, lacks reviewerID, asin or unixReviewTime, holds a value of the wrong type
    there or in overall, or has a time outside 1970 to 2100. Raises UserError when the file cannot be read or most of it
    is broken.
    """
    tally = Tally(path, "reviews")
    frames: list[pl.DataFrame] = []
    for block in blocks(path):
        frames.extend(_parse(block, tally))
    tally.check("a line should be a JSON object with reviewerID, asin and unixReviewTime")
    return pl.concat(frames) if frames else pl.DataFrame(schema=_SCHEMA), tally


def _parse(block: LineBlock, tally: Tally) -> Iterator[pl.DataFrame]:
    """Yield the reviews of a block: in one frame if it is sound, else piece by piece."""
    frame = _parse_whole(block)
    for piece in block.pieces(_PIECE_BYTES) if frame is None else ():
        part = _parse_whole(piece)
        tally.lines += 0 if part is None else len(part)
        yield _parse_mixed(piece, tally) if part is None else part
    if frame is not None:
        tally.lines += len(frame)
        yield frame


def _parse_mixed(block: LineBlock, tally: Tally) -> pl.DataFrame:
    """Return the reviews of a block with broken lines: parse sound-looking lines at once, the others one by one."""
    plain = [(number, line) for number, line in block.lines() if _looks_sound(line)]
    frame = _parse_whole(LineBlock(block.first, b"".join(line + b"\n" for _, line in plain))) if plain else None
    if frame is None:
        return _parse_lines(block.lines(), tally).drop("line")
    tally.lines += len(frame)
    numbers = [number for number, _ in plain]
    parsed = frozenset(numbers)
    others = _parse_lines((entry for entry in block.lines() if entry[0] not in parsed), tally)
    lines = frame.with_columns(line=pl.Series(numbers, dtype=pl.Int64()))
    return pl.concat([lines, others]).sort("line").drop("line")


def _looks_sound(line: bytes) -> bool:
    return (
        line.startswith(b"{")
        and line.endswith(b"}")
        and line.isascii()
        and all(line.count(key) == 1 for key in _IDS)
        and _PLAIN_TIME.search(line) is not None
    )


def _parse_whole(block: LineBlock) -> pl.DataFrame | None:
    """Return all reviews of a block, or None if ``_parse_line`` might reject a line or read it differently."""
    try:
        frame = pl.read_ndjson(io.BytesIO(block.data), schema=_FIELDS)
    except pl.exceptions.PolarsError:
        return None
    rows = len(frame)
    # The reader converts numbers and lists to text: check that each line holds each id once, as text.
    if rows != block.count or not all(_texts(block.data, key) == rows == block.data.count(key) for key in _IDS):
        return None
    frame = frame.rename(dict(zip(_FIELDS, _COLUMNS, strict=True)))
    ids = pl.col("user", "item")
    sound = frame.select(
        (ids.is_not_null() & (ids != "") & ~ids.str.contains("\0", literal=True)).all(),
        pl.col("time").is_between(1, END_OF_TIME - 1).fill_null(False).all(),
        (pl.col("rating").abs() < _LARGEST_RATING).fill_null(True).all(),
    )
    return frame if all(sound.row(0)) else None


def _texts(data: bytes, key: bytes) -> int:
    """Count how often ``key`` precedes a text value."""
    return data.count(key + b': "') + data.count(key + b':"')


def _parse_lines(lines: Iterable[tuple[int, bytes]], tally: Tally) -> pl.DataFrame:
    """Return the reviews of numbered lines, with the numbers as `line`."""
    rows = []
    for number, line in lines:
        if not line.strip():
            continue
        tally.lines += 1
        row = _parse_line(line)
        if isinstance(row, str):
            tally.reject(number, row)
        else:
            rows.append((*row, number))
    return pl.DataFrame(rows, schema={**_SCHEMA, "line": pl.Int64()}, orient="row")


def _parse_line(line: bytes) -> tuple[str, str, int, float | None] | str:
    """Return the review of a line, or the reason why it is broken."""
    try:
        review = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):
        return "not JSON"
    if not isinstance(review, dict):
        return "not a JSON object"
    user, item, time, rating = (review.get(name) for name in _FIELDS)
    if user is None or item is None or time is None:
        return "field missing"
    if not (_is_id(user) and _is_id(item) and type(time) is int):
        return "field of a wrong type"
    if not (rating is None or (type(rating) in (int, float) and abs(rating) < _LARGEST_RATING)):
        return "field of a wrong type"
    if not 0 < time < END_OF_TIME:
        return "absurd time"
    return user, item, time, None if rating is None else float(rating)


def _is_id(value: Any) -> bool:
    """Return whether a value is a non-empty text that UTF-8 can encode."""
    return isinstance(value, str) and value != "" and not any("\ud800" <= letter <= "\udfff" for letter in value)

"""Read the reviews of any Amazon release: one JSON object per line, of which four fields are read."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterable, Iterator

import polars as pl

from gensar_core.sources.amazon.json_lines import is_id, json_object
from gensar_core.sources.amazon.releases import RELEASES, ReviewKeys
from gensar_core.sources.shared.lines import LineBlock, Tally, blocks
from gensar_core.sources.shared.normalization import END_OF_TIME

_SCHEMA = {"user": pl.String(), "item": pl.String(), "time": pl.Int64(), "rating": pl.Float64()}
# Excludes infinity, NaN, and integers too large for a float.
_LARGEST_RATING = 1e300
# A block with a broken line is read in pieces of this size, so that few sound lines take the slow path.
_PIECE_BYTES = 1 << 18


def read_reviews(tally: Tally, keys: ReviewKeys = RELEASES[2014].review_keys) -> Iterator[pl.DataFrame]:
    """Yield the reviews of the tally's file in file order, about ten thousand at a time; count its lines.

    Columns are user, item (raw ids), time (unix seconds, milliseconds cut off) and rating (null where absent). A line
    is broken, and skipped, when it is not a JSON object in UTF-8, lacks user, item or time under the release's
    ``keys``, holds a value of the wrong type there or in the rating, or has a time outside 1970 to 2100. Raises
    UserError when the file cannot be read or most of it is broken.
    """
    for block in blocks(tally.path):
        yield pl.concat(_parse(block, tally, keys))
    tally.check(f"a line should be a JSON object with {keys.user}, {keys.item} and {keys.time}")


def _parse(block: LineBlock, tally: Tally, keys: ReviewKeys) -> Iterator[pl.DataFrame]:
    """Yield the reviews of a block: in one frame if it is sound, else piece by piece."""
    frame = _parse_whole(block, keys)
    for piece in block.pieces(_PIECE_BYTES) if frame is None else ():
        part = _parse_whole(piece, keys)
        tally.lines += 0 if part is None else len(part)
        yield _parse_mixed(piece, tally, keys) if part is None else part
    if frame is not None:
        tally.lines += len(frame)
        yield frame


def _parse_mixed(block: LineBlock, tally: Tally, keys: ReviewKeys) -> pl.DataFrame:
    """Return the reviews of a block with broken lines: parse sound-looking lines at once, the others one by one."""
    plain = [(number, line) for number, line in block.lines() if _looks_sound(line, keys)]
    lines = LineBlock(block.first, b"".join(line + b"\n" for _, line in plain))
    frame = _parse_whole(lines, keys) if plain else None
    if frame is None:
        return _parse_lines(block.lines(), tally, keys).drop("line")
    tally.lines += len(frame)
    numbers = [number for number, _ in plain]
    parsed = frozenset(numbers)
    others = _parse_lines((entry for entry in block.lines() if entry[0] not in parsed), tally, keys)
    whole = frame.with_columns(line=pl.Series(numbers, dtype=pl.Int64()))
    return pl.concat([whole, others]).sort("line").drop("line")


@functools.cache
def _id_keys(keys: ReviewKeys) -> tuple[bytes, bytes]:
    return f'"{keys.user}"'.encode(), f'"{keys.item}"'.encode()


@functools.cache
def _plain_time(keys: ReviewKeys) -> re.Pattern[bytes]:
    """Return a pattern that matches nearly all sound lines, and few broken ones."""
    digits = 13 if keys.milliseconds else 10
    return re.compile(rf'"{keys.time}": ?[0-9]{{1,{digits}}}[,}}]'.encode())


def _looks_sound(line: bytes, keys: ReviewKeys) -> bool:
    return (
        line.startswith(b"{")
        and line.endswith(b"}")
        and line.isascii()
        and all(line.count(key) == 1 for key in _id_keys(keys))
        and _plain_time(keys).search(line) is not None
    )


def _parse_whole(block: LineBlock, keys: ReviewKeys) -> pl.DataFrame | None:
    """Return all reviews of a block, or None if ``_parse_line`` might reject a line or read it differently."""
    names = (keys.user, keys.item, keys.time, keys.rating)
    try:
        frame = pl.read_ndjson(io.BytesIO(block.data), schema=dict(zip(names, _SCHEMA.values(), strict=True)))
    except pl.exceptions.PolarsError:
        return None
    rows = len(frame)
    # The reader converts numbers and lists to text: check that each line holds each id once, as text.
    counts = (_texts(block.data, key) == rows == block.data.count(key) for key in _id_keys(keys))
    if rows != block.count or not all(counts):
        return None
    frame = frame.rename(dict(zip(names, _SCHEMA, strict=True)))
    if keys.milliseconds:
        frame = frame.with_columns(pl.col("time") // 1000)
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


def _parse_lines(lines: Iterable[tuple[int, bytes]], tally: Tally, keys: ReviewKeys) -> pl.DataFrame:
    """Return the reviews of numbered lines, with the numbers as `line`."""
    rows = []
    for number, line in lines:
        if not line.strip():
            continue
        tally.lines += 1
        row = _parse_line(line, keys)
        if isinstance(row, str):
            tally.reject(number, row)
        else:
            rows.append((*row, number))
    return pl.DataFrame(rows, schema={**_SCHEMA, "line": pl.Int64()}, orient="row")


def _parse_line(line: bytes, keys: ReviewKeys) -> tuple[str, str, int, float | None] | str:
    """Return the review of a line, or the reason why it is broken."""
    review = json_object(line)
    if isinstance(review, str):
        return review
    user, item, time, rating = (review.get(name) for name in (keys.user, keys.item, keys.time, keys.rating))
    if user is None or item is None or time is None:
        return "field missing"
    if not (is_id(user) and is_id(item) and type(time) is int):
        return "field of a wrong type"
    if not (rating is None or (type(rating) in (int, float) and abs(rating) < _LARGEST_RATING)):
        return "field of a wrong type"
    seconds = time // 1000 if keys.milliseconds else time
    if not 0 < seconds < END_OF_TIME:
        return "absurd time"
    return user, item, seconds, None if rating is None else float(rating)

"""Text, ids and times of any source in one form, as expressions over whole columns; no language is assumed."""

from __future__ import annotations

from typing import Final

import polars as pl

#: Unix seconds from which on a time is absurd: 2100-01-01. Milliseconds of this century lie far above.
END_OF_TIME: Final = 4_102_444_800

_ISO: Final = r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(?::(\d{2})(?:[.,]\d+)?)?)? ?(?:(Z)|([+-]\d{2}):?(\d{2}))?$"


def normalized(text: pl.Expr) -> pl.Expr:
    """Text in one line: control characters removed, white space collapsed, Unicode form NFC; null becomes empty."""
    # Single blanks, which are most of all white space, match neither pattern: only texts that change are written anew.
    return (
        text.str.replace_all(r"[\p{Cc}&&\S]+", "")
        .str.replace_all(r"[^\S ]\s*| \s+", " ")
        .str.strip_chars()
        .str.normalize("NFC")
        .fill_null("")
    )


def identity(raw: pl.Expr) -> pl.Expr:
    """A raw id: its text without white space around it; an empty one becomes null."""
    stripped = raw.str.strip_chars()
    return pl.when(stripped != "").then(stripped)


def plausible(seconds: pl.Expr) -> pl.Expr:
    """Unix seconds, whole and between 1970 and 2100; anything else becomes null. Takes floats or whole numbers."""
    return pl.when((seconds > 0) & (seconds < END_OF_TIME)).then(seconds.floor().cast(pl.Int64(), strict=False))


def unix_seconds(raw: pl.Expr) -> pl.Expr:
    """A time as text -> unix seconds: a number of seconds, or an ISO date or date-time.

    A date-time without an offset is UTC, a date alone its midnight, a fraction of a second cut off. What is neither,
    or does not lie between 1970 and 2100, becomes null.
    """
    text = raw.str.strip_chars()
    number = text.cast(pl.Float64(), strict=False)
    # Taking dates apart is the slow part, and most logs hold numbers.
    return pl.coalesce(plausible(number), plausible(_iso_seconds(pl.when(number.is_null()).then(text))))


def _iso_seconds(text: pl.Expr) -> pl.Expr:
    part = text.str.extract_groups(_ISO).struct
    moment = pl.concat_str(
        part.field("1"), pl.lit("T"), part.field("2").fill_null("00:00"), pl.lit(":"), part.field("3").fill_null("00")
    )
    # "+08:00" is ahead of UTC: its sign goes for the minutes as well.
    hours = part.field("5").cast(pl.Int64()).fill_null(0)
    minutes = part.field("6").cast(pl.Int64()).fill_null(0)
    behind = part.field("5").str.starts_with("-").fill_null(False)
    offset = hours * 3600 + pl.when(behind).then(-minutes).otherwise(minutes) * 60
    return moment.str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="ms", strict=False).dt.epoch("s") - offset

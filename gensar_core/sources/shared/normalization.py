"""Normalize texts, ids and times of any source, as expressions over whole columns; no language is assumed."""

from __future__ import annotations

import itertools
import re
from typing import Final

import polars as pl

#: Exclusive upper bound of plausible times in unix seconds: 2100-01-01. Milliseconds of this century lie far above.
END_OF_TIME: Final = 4_102_444_800
#: Ideographs, kana and Hangul, as a character class.
CJK: Final = (
    "[\u1100-\u11ff\u3005-\u3007\u3040-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_RUN: Final = re.compile(f"{CJK}+")

_ISO: Final = r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(?::(\d{2})(?:[.,]\d+)?)?)? ?(?:(Z)|([+-]\d{2}):?(\d{2}))?$"


def normalized(text: pl.Expr) -> pl.Expr:
    """Put text on one line: remove control characters, collapse white space, apply Unicode NFC; null becomes empty."""
    # Single blanks, the most common white space, match neither pattern: only texts that change are rewritten.
    return (
        text.str.replace_all(r"[\p{Cc}&&\S]+", "")
        .str.replace_all(r"[^\S ]\s*| \s+", " ")
        .str.strip_chars()
        .str.normalize("NFC")
        .fill_null("")
    )


def spaced(text: str) -> str:
    """Write each run of Chinese, Japanese or Korean characters as its overlapping pairs, with blanks around each.

    A run of one character stays as it is. Texts of other scripts do not change.
    """
    return _RUN.sub(_pairs, text)


def _pairs(run: re.Match[str]) -> str:
    letters = run.group()
    return f" {' '.join(map(''.join, itertools.pairwise(letters))) or letters} "


def identity(raw: pl.Expr) -> pl.Expr:
    """Strip white space around a raw id; an empty one becomes null."""
    stripped = raw.str.strip_chars()
    return pl.when(stripped != "").then(stripped)


def plausible(seconds: pl.Expr) -> pl.Expr:
    """Return whole unix seconds between 1970 and 2100; anything else becomes null. Takes floats or whole numbers."""
    return pl.when((seconds > 0) & (seconds < END_OF_TIME)).then(seconds.floor().cast(pl.Int64(), strict=False))


def unix_seconds(raw: pl.Expr, per_second: int = 1) -> pl.Expr:
    """Convert times written as text to unix seconds: a number, ``per_second`` to a second, or an ISO date or date-time.

    A date-time without an offset is UTC, and a date alone is its midnight; fractions of a second are cut off. Any other
    text, and any time outside 1970 to 2100, becomes null.
    """
    text = raw.str.strip_chars()
    number = text.cast(pl.Float64(), strict=False)
    # Parsing dates is slow, and most logs hold numbers.
    return pl.coalesce(plausible(number / per_second), plausible(_iso_seconds(pl.when(number.is_null()).then(text))))


def _iso_seconds(text: pl.Expr) -> pl.Expr:
    part = text.str.extract_groups(_ISO).struct
    moment = pl.concat_str(
        part.field("1"), pl.lit("T"), part.field("2").fill_null("00:00"), pl.lit(":"), part.field("3").fill_null("00")
    )
    # The sign of an offset applies to its minutes as well; "+08:00" is ahead of UTC.
    hours = part.field("5").cast(pl.Int64()).fill_null(0)
    minutes = part.field("6").cast(pl.Int64()).fill_null(0)
    behind = part.field("5").str.starts_with("-").fill_null(False)
    offset = hours * 3600 + pl.when(behind).then(-minutes).otherwise(minutes) * 60
    return moment.str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="ms", strict=False).dt.epoch("s") - offset

"""Metadata of the Amazon 2014 release: one Python literal a line, read as data and never run."""

from __future__ import annotations

import ast
import functools
import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from gensar_core.sources.shared.cleaning import clean_text
from gensar_core.sources.shared.lines import Tally, blocks

SCHEMA = {
    "item": pl.String(),
    "title": pl.String(),
    "description": pl.String(),
    "brand": pl.String(),
    "categories": pl.List(pl.List(pl.String())),
}
_TEXTS = ("title", "description", "brand")
# A longer line is no item; parsing it could take all memory.
_LONGEST_LITERAL = 1 << 22


@dataclass
class Metadata:
    """What ``read_metadata`` found: the wanted items, one row an asin, and the account of all lines."""

    items: pl.DataFrame
    tally: Tally
    #: Lines that hold an item.
    cleaned: int
    #: Lines among them whose asin stood on an earlier line already.
    duplicates: int


def read_metadata(path: Path, wanted: Collection[str]) -> Metadata:
    """Read every line's item, and clean the items whose asin is ``wanted``, in file order.

    A line is broken, and skipped, when it is no literal of a dict in UTF-8, lacks asin, or holds a value of another
    type in a field that is read. Of several lines with one asin the first stays. Raises UserError when the file cannot
    be read or most of it is broken.
    """
    tally = Tally(path, "metadata")
    seen: set[str] = set()
    rows = []
    cleaned = 0
    with warnings.catch_warnings():
        # Old literals hold escapes that today's Python warns about.
        warnings.simplefilter("ignore", (SyntaxWarning, DeprecationWarning))
        for block in blocks(path):
            for number, line in block.lines():
                if not line.strip():
                    continue
                tally.lines += 1
                item = _parse_line(line, wanted)
                if isinstance(item, str):
                    tally.reject(number, item)
                    continue
                cleaned += 1
                asin = item["asin"]
                if asin not in seen and asin in wanted:
                    rows.append(_clean(item))
                seen.add(asin)
    tally.check("a line should be a Python literal such as {'asin': '...', 'title': '...'}")
    return Metadata(_table(rows), tally, cleaned, duplicates=cleaned - len(seen))


def _parse_line(line: bytes, wanted: Collection[str]) -> dict[str, Any] | str:
    """The item of one line, or the reason why it is broken. Of an unwanted item, asin alone may be returned."""
    if len(line) > _LONGEST_LITERAL:
        return "longer than an item can be"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    plain = _PLAIN_ITEM.fullmatch(text)
    if plain and plain["asin"] is not None and plain["asin"] not in wanted:
        return {"asin": plain["asin"]}
    if plain and plain["related"] is not None:
        # Long lists of other items, of which nothing is read.
        start, end = plain.span("related")
        text = f"{text[:start]}None{text[end:]}"
    try:
        item = ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError):
        return "not a Python literal"
    if not isinstance(item, dict):
        return "not a dict"
    asin = item.get("asin")
    if asin is None:
        return "field missing"
    if not isinstance(asin, str) or not asin or any("\ud800" <= letter <= "\udfff" for letter in asin):
        return "field of a wrong type"
    if not all(item.get(name) is None or isinstance(item[name], str) for name in _TEXTS):
        return "field of a wrong type"
    if not _are_paths(item.get("categories")):
        return "field of a wrong type"
    return item


def _are_paths(value: Any) -> bool:
    """Whether a value is a list of lists of texts, or absent."""
    return value is None or (
        isinstance(value, list)
        and all(isinstance(path, list) and all(isinstance(name, str) for name in path) for path in value)
    )


def _clean(item: dict[str, Any]) -> tuple[Any, ...]:
    """A row of the items: asin, cleaned texts, cleaned category paths (each once, without empty names)."""
    texts = (clean_text(item.get(name) or "") for name in _TEXTS)
    paths = (tuple(filter(None, map(_clean_name, path))) for path in item.get("categories") or [])
    return item["asin"], *texts, [list(path) for path in dict.fromkeys(paths) if path]


def _table(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    # Arrow takes nested lists far faster than polars does.
    columns = zip(*rows, strict=True) if rows else [[]] * len(SCHEMA)
    types = [pa.string()] * len(_TEXTS) + [pa.string(), pa.list_(pa.list_(pa.string()))]
    arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
    return pl.DataFrame({name: pl.from_arrow(array) for name, array in zip(SCHEMA, arrays, strict=True)}, schema=SCHEMA)


_clean_name = functools.lru_cache(maxsize=1 << 16)(clean_text)


# What follows is a shortcut, not another grammar: a line that matches surely is an item that `_parse_line` accepts, so
# the literals of items that nobody reviewed (most of a file) need no parsing. All other lines are parsed.


def _sequence(element: str, brackets: str) -> str:
    opening, closing = (re.escape(bracket) for bracket in brackets)
    return rf"{opening}(?:{element}(?:, |(?={closing})))*+{closing}"


def _quoted(quote: str) -> str:
    plain = rf"[^{quote}\\\r\n\x00]*+"
    escape = r"""\\(?:[\\'"abfnrtv]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})"""
    return f"{quote}{plain}(?:{escape}{plain})*+{quote}"


def _plain_item() -> str:
    text = f"""(?:{_quoted("'")}|{_quoted('"')})"""
    number = r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?"
    atom = f"(?:{text}|{number}|True|False|None)"
    flat = f"(?:{atom}|{_sequence(atom, '[]')})"
    value = f"(?:{flat}|{_sequence(f'{text}: {flat}', '{}')}|{_sequence(flat, '[]')})"
    paths = _sequence(_sequence(text, "[]"), "[]")
    texts = "|".join(_TEXTS)
    fields = (
        r"'asin': '(?P<asin>[^'\\\r\n\x00]++)'",
        f"'(?:{texts})': {text}",
        f"'categories': {paths}",
        f"'related': (?P<related>{value})",
        rf"'(?!(?:asin|{texts}|categories|related)')\w++': {value}",
    )
    return _sequence(f"(?:{'|'.join(fields)})", "{}")


_PLAIN_ITEM = re.compile(_plain_item())

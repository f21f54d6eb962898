"""Read the metadata of any Amazon release: one JSON object or, in 2014, one Python literal per line, never executed."""

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

from gensar_core.sources.amazon.json_lines import is_id, parse_product
from gensar_core.sources.amazon.releases import ProductKeys
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
# No item has a longer line, and parsing one could exhaust the memory.
_LONGEST_LITERAL = 1 << 22
_TOO_LONG = "longer than an item can be"


@dataclass
class Metadata:
    """Hold the result of ``read_metadata``: the wanted items, one row per asin, and the tally of all lines."""

    items: pl.DataFrame
    tally: Tally
    #: Number of lines that hold an item.
    cleaned: int
    #: Number of these lines whose asin occurred on an earlier line.
    duplicates: int


def read_metadata(path: Path, wanted: Collection[str], keys: ProductKeys | None = None) -> Metadata:
    """Read the item of every line, and clean the items whose asin is ``wanted``, in file order.

    A line is a Python literal or, given its ``keys``, a JSON object. It is broken, and skipped, when it is not the
    literal of a dict, or such an object, in UTF-8, lacks the asin, or holds a value of the wrong type in a field that
    is read. Of several lines with one asin, the first is kept. Raises UserError when the file cannot be read or most of
    it is broken.
    """
    tally = Tally(path, "metadata")
    seen: set[str] = set()
    rows = []
    cleaned = 0
    with warnings.catch_warnings():
        # Old literals contain escapes that today's Python warns about.
        warnings.simplefilter("ignore", (SyntaxWarning, DeprecationWarning))
        for block in blocks(path):
            for number, line in block.lines():
                if not line.strip():
                    continue
                tally.lines += 1
                item = _parse_json(line, keys) if keys else _parse_line(line, wanted)
                if isinstance(item, str):
                    tally.reject(number, item)
                    continue
                cleaned += 1
                asin = item["asin"]
                if asin not in seen and asin in wanted:
                    rows.append(_clean(item))
                seen.add(asin)
    kind = (
        f"JSON object with {keys.item} and title" if keys else "Python literal such as {'asin': '...', 'title': '...'}"
    )
    tally.check(f"a line should be a {kind}")
    return Metadata(_table(rows), tally, cleaned, duplicates=cleaned - len(seen))


def _parse_json(line: bytes, keys: ProductKeys) -> dict[str, Any] | str:
    return parse_product(line, keys) if len(line) <= _LONGEST_LITERAL else _TOO_LONG


def _parse_line(line: bytes, wanted: Collection[str]) -> dict[str, Any] | str:
    """Return the item of a line, or the reason why it is broken. An unwanted item may hold its asin alone."""
    if len(line) > _LONGEST_LITERAL:
        return _TOO_LONG
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    plain = _PLAIN_ITEM.fullmatch(text)
    if plain and plain["asin"] is not None and plain["asin"] not in wanted:
        return {"asin": plain["asin"]}
    if plain and plain["related"] is not None:
        # Drop the long list of related items, which nothing reads.
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
    if not is_id(asin):
        return "field of a wrong type"
    if not all(item.get(name) is None or isinstance(item[name], str) for name in _TEXTS):
        return "field of a wrong type"
    if not _are_paths(item.get("categories")):
        return "field of a wrong type"
    return item


def _are_paths(value: Any) -> bool:
    """Return whether a value is a list of lists of texts, or absent."""
    return value is None or (
        isinstance(value, list)
        and all(isinstance(path, list) and all(isinstance(name, str) for name in path) for path in value)
    )


def _clean(item: dict[str, Any]) -> tuple[Any, ...]:
    """Return a row of the items: asin, cleaned texts, cleaned category paths (distinct, without empty names)."""
    texts = (clean_text(item.get(name) or "") for name in _TEXTS)
    paths = (tuple(filter(None, map(_clean_name, path))) for path in item.get("categories") or [])
    return item["asin"], *texts, [list(path) for path in dict.fromkeys(paths) if path]


def _table(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    # Arrow converts nested lists far faster than polars does.
    columns = zip(*rows, strict=True) if rows else [[]] * len(SCHEMA)
    types = [pa.string()] * len(_TEXTS) + [pa.string(), pa.list_(pa.list_(pa.string()))]
    arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
    return pl.DataFrame({name: pl.from_arrow(array) for name, array in zip(SCHEMA, arrays, strict=True)}, schema=SCHEMA)


_clean_name = functools.lru_cache(maxsize=1 << 16)(clean_text)


# The pattern below is a shortcut, not a second grammar: a line that matches is always an item that `_parse_line`
# accepts, so the literals of items without reviews (most of a file) need no parsing. All other lines are parsed.


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

"""Parse category paths of the user's own item table: a text or a list becomes a list of paths from root to leaf."""

from __future__ import annotations

import json
from typing import Final

import polars as pl

PATHS: Final = pl.List(pl.List(pl.String()))


def category_paths(raw: str) -> list[list[str]]:
    """Parse the category paths that a text holds.

    ``Root > Child > Leaf`` is one path. A JSON list of texts is one path, its levels in order, unless a text contains
    ``>``: then each text is a path. A JSON list of lists holds one path per list. Empty levels and paths are left out.
    """
    entries = _json_list(raw)
    if entries is None:
        paths = [raw.split(">")]
    elif any(isinstance(entry, list) for entry in entries):
        paths = [[str(level) for level in (entry if isinstance(entry, list) else [entry])] for entry in entries]
    elif any(">" in str(entry) for entry in entries):
        paths = [str(entry).split(">") for entry in entries]
    else:
        paths = [[str(entry) for entry in entries]]
    trimmed = [[level.strip() for level in path if level.strip()] for path in paths]
    return [path for path in trimmed if path]


def category_column(raw: pl.Series) -> pl.Series:
    """Apply ``category_paths`` to a column of texts or nulls, parsing each distinct text once."""
    distinct = raw.drop_nulls().unique(maintain_order=True)
    paths = pl.Series([category_paths(text) for text in distinct], dtype=PATHS)
    table = pl.DataFrame({"raw": distinct, "paths": paths})
    joined = pl.DataFrame({"raw": raw}).join(table, on="raw", how="left", maintain_order="left")
    return joined.get_column("paths").fill_null(pl.Series([[]], dtype=PATHS)).alias(raw.name)


def _json_list(raw: str) -> list[object] | None:
    if not raw.startswith("["):
        return None
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return [entry for entry in value if entry is not None] if isinstance(value, list) else None

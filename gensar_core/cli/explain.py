"""Show an item's identifiers and the items that they place beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.identifiers.table import IdentifierTable, shared_codes

_TITLE_WIDTH = 72


def explain(item: str, identifiers: Path, canonical: Path, neighbors: int) -> Iterator[str]:
    """Yield lines with an item's identifiers and, for each side, its ``neighbors`` nearest items by shared prefix.

    ``item`` is the id in the source or, where no item has that id, the item's number (#17). ``identifiers`` is the
    folder of an identifier set and ``canonical`` holds items.parquet. Items that share equally many first codes are
    ordered by number. Raises UserError when there is no such item, or when the files do not belong together.
    """
    table = IdentifierTable.load(identifiers)
    items = schema.ITEMS.read(canonical / "items.parquet").sort("item_id")
    if len(items) != len(table):
        raise UserError(
            f"{identifiers}: has identifiers of {len(table)} items, but {canonical / 'items.parquet'} has {len(items)};"
            " build the identifiers again"
        )
    number = find_item(items, item, canonical / "items.parquet")
    moved = schema.IDENTIFIERS.read(identifiers / "identifiers.parquet").sort("item_id")
    yield f"item {number}  {_shown(items, number)}"
    for side in schema.SIDES:
        how = "  (moved: another item had the nearest codes)" if moved.get_column(f"{side}_moved")[number] else ""
        yield ""
        yield f"{side:14} {table.text(side, number)}{how}"
        parts, unit = table.parts(side), "word" if side in table.texts else "code"
        shared = shared_codes(parts, number)
        length = int(parts.lengths[number])
        nearest = np.argsort(-shared, kind="stable")[: neighbors + 1]
        for other in nearest[nearest != number][:neighbors].tolist():
            if not shared[other]:
                yield f"{'':4}no other item shares a {unit}"
                break
            yield f"{'':4}{shared[other]} of {length} {unit}s  {table.text(side, other)}  {_shown(items, other)}"
        counts = ", ".join(f"{depth}: {int((shared >= depth).sum()) - 1:,}" for depth in range(1, length + 1))
        yield f"{'':4}other items by shared {unit}s: {counts}"


def find_item(items: pl.DataFrame, item: str, where: Path) -> int:
    """Return the number of the item with this id in the source or, if no item has it, with this number (#17, or 17)."""
    matching_items = items.filter(pl.col("raw_id") == item).get_column("item_id")
    if len(matching_items):
        return int(matching_items[0])
    number = item.removeprefix("#")
    if number.isdecimal() and int(number) < len(items):
        return int(number)
    raise UserError(
        f"{where}: no item {item!r}; give an id of the source, such as {items.get_column('raw_id')[0]!r}, or #0 to "
        f"#{len(items) - 1} for its number"
    )


def _shown(items: pl.DataFrame, number: int) -> str:
    raw_id, title = items.select("raw_id", "title").row(number)
    return f"{raw_id}  {title if len(title) <= _TITLE_WIDTH else title[: _TITLE_WIDTH - 1] + '…'}".rstrip()

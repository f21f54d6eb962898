"""Report identifier quality and what prefixes reveal about categories and clicks: the stage `identifier_quality`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.identifiers.table import IdentifierTable
from gensar_core.runtime.arrays import Ragged, stretches
from gensar_core.runtime.mapped_arrays import MappedArray
from gensar_core.runtime.reading import table_parts
from gensar_core.runtime.sorting import Groups
from gensar_core.runtime.stage import Stage, read_record, write_json


def quality_report(identifiers: Path, canonical: Path, output: Path) -> None:
    """Write quality.json for the identifiers in a folder, to the folder ``output``.

    For each side, it holds the metrics in the identifiers' stage record (collisions, usage, perplexity, unexplained
    variance) and, for each prefix length, how much likelier than by chance two items with the same prefix are to share
    a category, or to be clicked one after the other by the same user. A prefix of a text is its first words; each digit
    counts as one. ``canonical`` holds items.parquet and events.parquet. Raises UserError when these belong to another
    data set than the identifiers.
    """
    files = [identifiers / "identifiers.parquet", identifiers / "vocabulary.json"]
    tables = [canonical / "items.parquet", canonical / "events.parquet"]
    with Stage(
        "identifier_quality", output, inputs=[*files, *tables], code=__name__, record_name="quality.stage.json"
    ) as stage:
        table = IdentifierTable.load(identifiers)
        items = schema.ITEMS.read(tables[0]).sort("item_id")
        if len(items) != len(table):
            raise UserError(
                f"{files[0]}: has {len(table)} items, but {tables[0]} has {len(items)}; build the identifiers again"
            )
        counts = read_record(identifiers / "stage.json")["counts"]
        category, pairs = categories(items), click_pairs(tables[1])
        report: dict[str, Any] = {"items": len(table), "sides": [side for side in schema.SIDES if side in counts]}
        for side in report["sides"]:
            report[side] = {**counts[side], "prefixes": prefix_counts(table.parts(side), category, pairs)}
        write_json(stage.path("quality.json"), report)


def categories(items: pl.DataFrame) -> np.ndarray:
    """Assign a number to each item's first category path [n]; -1 to an item without one."""
    paths = items.get_column("categories").list.first().list.join("\0")
    return (paths.rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()


def click_pairs(events: Path) -> np.ndarray:
    """Find the distinct pairs of different items that some user clicked in succession in a file of events.

    Clicks of both tasks count; repeated clicks on one item count as one. Returns int32 [pairs, 2], the lower item
    first, mapped from the disk.
    """
    codes, _ = Groups.of(_successions(events), events.parent).distinct(events.parent)
    pairs = MappedArray(events.parent, np.int32)
    for some in stretches(len(codes)):
        pairs.append(np.stack([codes[some] >> 32, codes[some] & 0xFFFFFFFF], axis=1))
    return pairs.read_only().reshape(-1, 2)


def _successions(events: Path) -> Iterator[np.ndarray]:
    """Yield the items of every two clicks that follow each other, part by part, as one number: lower item, higher."""
    last: tuple[int, int] = (-1, -1)
    for part in table_parts(events, schema.EVENTS, columns=("user_id", "item_id")):
        # The first click of a part may follow the last one of the part before.
        users, items = (
            np.insert(part.get_column(name).to_numpy().astype(np.int64), 0, before)
            for name, before in zip(part.columns, last, strict=True)
        )
        different = (users[1:] == users[:-1]) & (items[1:] != items[:-1])
        lower, higher = np.sort(np.stack([items[:-1], items[1:]])[:, different], axis=0)
        yield lower << 32 | higher
        last = int(users[-1]), int(items[-1])


def prefix_counts(rows: Ragged, category: np.ndarray, pairs: np.ndarray) -> list[dict[str, Any]]:
    """Measure, for each prefix length that some two items share, how many pairs share it and what it reveals.

    ``rows`` are identifiers, ``category`` [n] numbers (-1 for none), ``pairs`` [m, 2] items clicked one after the
    other. Shares are of the pairs of items with the same prefix; the chance level is the share of all pairs.
    """
    codes, pairs_in_all = rows.padded(int(rows.lengths.max(initial=0)), -1), math.comb(len(rows), 2)
    counts = []
    for length in range(1, codes.shape[1] + 1):
        _, node = np.unique(codes[:, :length], axis=0, return_inverse=True)
        # An identifier that ends before this length has a node to itself.
        node = np.where(rows.lengths >= length, node.ravel(), len(codes) + np.arange(len(codes)))
        if sharing := _pairs_within(node):
            clicked = sum(int((node[pairs[some, 0]] == node[pairs[some, 1]]).sum()) for some in stretches(len(pairs)))
            counts.append(
                {
                    "length": length,
                    "pairs": sharing,
                    "same_category": _same_category(node, category),
                    "clicked_in_turn": _shares(clicked, sharing, len(pairs), pairs_in_all),
                }
            )
    return counts


def _same_category(node: np.ndarray, category: np.ndarray) -> Mapping[str, float]:
    node, category = node[category >= 0], category[category >= 0]
    both = _pairs_within(node * (int(category.max(initial=0)) + 1) + category)
    return _shares(both, _pairs_within(node), _pairs_within(category), math.comb(len(category), 2))


def _shares(hits: int, pairs: int, all_hits: int, all_pairs: int) -> Mapping[str, float]:
    share, chance = hits / max(1, pairs), all_hits / max(1, all_pairs)
    return {"share": share, "chance": chance, "lift": share / chance if chance else 0.0}


def _pairs_within(group: np.ndarray) -> int:
    """Count the pairs of items with equal numbers."""
    _, counts = np.unique(group, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())

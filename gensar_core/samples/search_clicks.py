"""Count the search clicks of each item after each query, on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.runtime.arrays import stretches
from gensar_core.runtime.mapped_arrays import MappedArray
from gensar_core.runtime.reading import table_parts
from gensar_core.runtime.sorting import Groups

#: A pair is one number with the item in its upper half.
_QUERY_BITS = 32


@dataclass(frozen=True)
class SearchClicks:
    """Hold the distinct pairs of an item and a query that it was clicked after, by item, then query, mapped.

    ``items`` int32 [pairs], ``queries`` int32 [pairs], and ``clicks`` int64 [pairs], how often each occurs.
    """

    items: np.ndarray
    queries: np.ndarray
    clicks: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def read(cls, training_events: Path) -> SearchClicks:
        """Count the search clicks in a file of training events (table `events`)."""
        folder = training_events.parent
        codes, clicks = Groups.of(_codes(training_events), folder).distinct(folder)
        items, queries = MappedArray(folder, np.int32), MappedArray(folder, np.int32)
        for pairs in stretches(len(codes)):
            items.append(codes[pairs] >> _QUERY_BITS)
            queries.append(codes[pairs] & ((1 << _QUERY_BITS) - 1))
        return cls(items.read_only(), queries.read_only(), clicks)


def _codes(training_events: Path) -> Iterator[np.ndarray]:
    """Yield the pair of each search click, part by part."""
    for part in table_parts(training_events, schema.EVENTS, columns=("task", "item_id", "query_id")):
        searches = part.filter(pl.col("task") == "search").drop_nulls("query_id")
        items, queries = (searches.get_column(name).to_numpy().astype(np.int64) for name in ("item_id", "query_id"))
        yield items << _QUERY_BITS | queries

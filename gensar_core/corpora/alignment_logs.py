"""Write alignment and ad-hoc searches as rows of two entries, as a causal model reads them (table `user_logs`).

The first entry is what is given and the second what is asked: an item's description and its identifier (Desc2ID), the
identifier and the description (ID2Desc), or a query and an item (doc2query). So alignment teaches the very tokens that
logs hold, and no instruction is needed. The rows belong to no user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from gensar_core.corpora.token_pieces import beside
from gensar_core.corpora.user_logs import NO_TARGET
from gensar_core.runtime.arrays import Ragged

#: Owner of a row that belongs to no user, and the number of a query that no user typed.
NO_USER: Final = -1
NO_QUERY: Final = -1


@dataclass(frozen=True)
class EntryColumn:
    """Hold one entry of each row: its behavior (a code as in table `user_logs`), object [rows] and tokens [rows]."""

    behavior: int
    object: np.ndarray
    tokens: Ragged


def alignment_rows(given: EntryColumn, asked: EntryColumn, ids: np.ndarray) -> pl.DataFrame:
    """Return one row of table `user_logs` for each of ``ids`` [rows], which name the targets."""
    count = len(ids)
    lengths = np.stack([given.tokens.lengths, asked.tokens.lengths], 1)

    def column(name: str, first: np.ndarray | int, second: np.ndarray | int, dtype: pl.DataType) -> pl.Series:
        values = np.stack([np.broadcast_to(first, count), np.broadcast_to(second, count)], 1)
        return Ragged.from_lengths(np.full(count, 2), values.ravel()).to_series(name, dtype)

    return pl.DataFrame(
        [
            pl.Series("user_id", np.full(count, NO_USER), pl.Int32()),
            beside(given.tokens, asked.tokens).to_series("token_ids", pl.Int32()),
            column("lengths", lengths[:, 0], lengths[:, 1], pl.Int32()),
            column("behavior", given.behavior, asked.behavior, pl.UInt8()),
            column("object", given.object, asked.object, pl.Int32()),
            # The second entry sees the first, as a click sees its query.
            column("position", 0, lengths[:, 0], pl.Int32()),
            column("opens", 0, 0, pl.Int32()),
            column("closes", 0, 0, pl.Int32()),
            column("query", 0, 0, pl.Int32()),
            column("target", NO_TARGET, ids, pl.Int64()),
        ]
    )

"""Draw random numbers tied to raw ids: the same draws in any order of rows, chunks or threads."""

from __future__ import annotations

import numpy as np
import polars as pl

from gensar_core.runtime.hashing import row_keys, scramble

_WORD = 8
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def row_numbers(seed: int, *columns: pl.Series) -> pl.Series:
    """Return one random number per row, uint64, from the seed and the row's values (texts or whole numbers)."""
    parts = [
        text_hashes(column).view(np.int64) if column.dtype == pl.String() else column.to_numpy() for column in columns
    ]
    return pl.Series("number", row_keys(seed, *parts))


def text_hashes(texts: pl.Series) -> np.ndarray:
    """Hash the UTF-8 bytes of each text to 64 bits, uint64 [rows]; the same on every machine and version.

    A text is hashed as its length and its bytes in little-endian words of eight, the last one padded with zeros; the
    words are folded in one after the other with SplitMix64's finalizer.
    """
    distinct = texts.unique(maintain_order=True)
    hashes = _hash_distinct(distinct)
    if len(distinct) == len(texts):
        return hashes
    table = pl.DataFrame({"text": distinct, "hash": hashes})
    joined = texts.alias("text").to_frame().join(table, on="text", how="left", maintain_order="left")
    repeated: np.ndarray = joined["hash"].to_numpy()
    return repeated


def _hash_distinct(texts: pl.Series) -> np.ndarray:
    lengths = texts.str.len_bytes().to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    # The padding lets a whole word be read at the very end.
    data = np.frombuffer("".join(texts.to_list()).encode() + bytes(_WORD), dtype=np.uint8)
    hashes = scramble(lengths.astype(np.uint64) + _GAMMA)
    byte = np.arange(_WORD)
    shifts = byte.astype(np.uint64) * np.uint64(8)
    active = np.flatnonzero(lengths > 0)
    position = 0
    while len(active):
        words = data[(starts[active] + position)[:, None] + byte].astype(np.uint64) << shifts
        words[byte >= (lengths[active] - position)[:, None]] = 0
        hashes[active] = scramble((hashes[active] ^ np.bitwise_or.reduce(words, axis=1)) + _GAMMA)
        position += _WORD
        active = active[lengths[active] > position]
    return hashes

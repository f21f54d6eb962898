"""Draw random numbers that belong to a row's ids, not to its position in a table.

A generator called row by row draws other numbers for a row when the rows before it change. Here each row has a key,
hashed from the seed and the row's ids, and its j-th number is a function of the key and j alone (SplitMix64 as a
counter-based generator; Steele, Lea and Flood, 2014). So draws do not depend on row order, chunking or threads.
"""

from __future__ import annotations

import numpy as np

_GAMMA = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF


def scramble(values: np.ndarray) -> np.ndarray:
    """Apply SplitMix64's finalizer: a bijection of uint64 that spreads every input bit over all output bits."""
    mixed = values.astype(np.uint64)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def row_keys(seed: int, *columns: np.ndarray) -> np.ndarray:
    """Hash the seed and integer columns [rows] to one key per row, uint64 [rows]; column order matters."""
    keys: np.ndarray = np.full(len(columns[0]), seed & _MASK, dtype=np.uint64)
    for column in columns:
        keys = scramble(keys + np.uint64(_GAMMA)) ^ column.astype(np.int64).view(np.uint64)
    return scramble(keys + np.uint64(_GAMMA))


def draws(keys: np.ndarray, count: int) -> np.ndarray:
    """Draw the first ``count`` numbers of each key's stream, uint64 [rows, count]: a prefix of any longer draw."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA)
    return scramble(keys[:, None] + steps)


def uniform(numbers: np.ndarray) -> np.ndarray:
    """Map draws to float64 strictly between 0 and 1."""
    # 52 bits plus one half: one more bit would round the highest value up to 1.
    return ((numbers >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52

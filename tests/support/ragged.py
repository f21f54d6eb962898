"""Ragged rows of tests, from lists."""

import itertools
from collections.abc import Sequence

import numpy as np

from gensar_core.runtime.arrays import Ragged


def ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    """Store lists of numbers as rows."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return Ragged.from_lengths(lengths, np.array([*itertools.chain(*rows)], dtype=np.int32))

"""Make what is processed part by part take parts of a few rows, so that a small table has many."""

import contextlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

from gensar_core.runtime import arrays, reading, sorting


@contextlib.contextmanager
def small_parts(size: int, *modules: ModuleType) -> Iterator[None]:
    """Read tables in parts of ``size`` rows, sort as many at once, and cut the stretches of ``modules`` to them."""

    def stretches(count: int, most: int = size) -> Iterator[np.ndarray]:
        return arrays.stretches(count, min(most, size))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PART_ROWS", size)
        patch.setattr(sorting, "_ROWS", size)
        patch.setattr(sorting, "_SAMPLE", 8)
        for module in modules:
            patch.setattr(module, "stretches", stretches)
        yield

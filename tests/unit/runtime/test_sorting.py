"""Sorting on disk against NumPy in memory, with buckets of a few rows."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensar_core.runtime import sorting
from gensar_core.runtime.sorting import Groups

#: A few codes that occur often, and some of the whole range.
CODES = st.lists(st.integers(-3, 3) | st.integers(-(2**62), 2**62), max_size=60)


@given(CODES, st.integers(1, 20), st.integers(1, 7))
def test_rows_are_those_of_a_stable_sort_for_any_size_of_bucket(values, rows, part):
    codes = np.array(values, dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(sorting, "_ROWS", rows)
        patch.setattr(sorting, "_SAMPLE", 8)
        parts = (codes[start : start + part] for start in range(0, len(codes), part))
        groups = Groups.of(parts, Path(folder))
        distinct, begins = np.unique(np.sort(codes), return_index=True)
        assert groups.rows.tolist() == np.argsort(codes, kind="stable").tolist()
        assert groups.codes.tolist() == np.sort(codes).tolist()
        assert groups.begins(Path(folder)).tolist() == [*begins.tolist(), len(codes)]
        found, counts = groups.distinct(Path(folder))
        assert found.tolist() == distinct.tolist()
        assert counts.tolist() == [values.count(code) for code in distinct.tolist()]
        asked = np.array([*distinct.tolist(), 5])
        starts, counts = groups.spans(asked)
        assert counts.tolist() == [values.count(code) for code in asked.tolist()]
        assert (starts[:-1] == begins).all()
        assert not list(Path(folder).iterdir())

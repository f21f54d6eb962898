"""Ragged arrays, seeds, vectors on disk, checks of tables, logs and progress."""

import re
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.progress import progress
from gensar_core.runtime.seeds import derive_seed, generator
from gensar_core.runtime.tensors import load_vectors, save_vectors

rows = st.lists(st.lists(st.integers(0, 1000), max_size=6), max_size=8)


def ragged(values):
    return Ragged.from_series(pl.Series("x", values, dtype=pl.List(pl.Int32)))


def lists(array):
    return [array.values[array.offsets[i] : array.offsets[i + 1]].tolist() for i in range(len(array))]


@given(rows, st.integers(1, 7), st.randoms(use_true_random=False))
def test_ragged_equals_plain_lists(values, width, random):
    array = ragged(values)
    assert lists(array) == values
    assert lists(array.tail(width)) == [row[-width:] for row in values]
    assert lists(array.filter(array.values % 2 == 0)) == [[x for x in row if x % 2 == 0] for row in values]
    order = [random.randrange(len(values)) for _ in range(5)] if values else []
    assert lists(array.take(np.array(order, dtype=np.int64))) == [values[i] for i in order]
    right = [(row[-width:] + [-1] * width)[:width] for row in values]
    left = [([-1] * width + row)[-width:] for row in values]
    assert array.padded(width, -1).tolist() == right
    assert array.padded(width, -1, left=True).tolist() == left
    assert array.to_series("x", pl.Int32()).to_list() == values


def test_seeds_repeat_and_differ_by_purpose():
    assert derive_seed(1, "a", 2) == derive_seed(1, "a", 2)
    assert len({derive_seed(1, "a", 2), derive_seed(2, "a", 2), derive_seed(1, "a", 3), derive_seed(1, "a2")}) == 4
    assert generator(5, "x").integers(10**9) == generator(5, "x").integers(10**9)


def test_vectors_are_read_as_written_and_missing_ones_named(tmp_path):
    path = tmp_path / "vectors.safetensors"
    save_vectors({"items": np.eye(3)}, path)
    np.testing.assert_array_equal(load_vectors(path), np.eye(3, dtype=np.float32), strict=True)
    with pytest.raises(UserError, match=r"holds no matrix 'queries' \(there: items\)"):
        load_vectors(path, "queries")
    with pytest.raises(UserError, match="no such file"):
        load_vectors(tmp_path / "other.safetensors")
    path.write_bytes(b"broken")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_vectors(path)


def test_a_tables_errors_name_the_column_or_the_file(tmp_path):
    good = pl.DataFrame({"query_id": [0, 1], "text": ["a", "b"]})
    path = tmp_path / "queries.parquet"
    schema.QUERIES.write(good, path)
    assert schema.QUERIES.read(path).schema == schema.QUERIES.schema
    for bad, message in [
        (good.drop("text"), "lacks the column 'text'"),
        (good.with_columns(query_id=pl.lit(0)), "not unique in query_id"),
        (good.with_columns(text=pl.lit(None, pl.String)), "column 'text' holds 2 nulls"),
        (good.with_columns(query_id=pl.lit("x")), "wrong type"),
    ]:
        with pytest.raises(UserError, match=message):
            schema.QUERIES.check(bad)
    with pytest.raises(UserError, match="no such file"):
        schema.QUERIES.read(tmp_path / "none.parquet")
    path.write_bytes(b"PAR1 truncated")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        schema.QUERIES.read(path)


SCRIPT = """
import sys, logging
from gensar_core.errors import UserError
from gensar_core.runtime.logs import ScriptLog
with ScriptLog(sys.argv[1]):
    print("plain")
    logging.getLogger("x").info("logged")
    if sys.argv[2] == "user":
        raise UserError("meta.json.gz: line 3: broken; cut it out")
    if sys.argv[2] == "warning":
        from pathlib import Path
        from gensar_core.runtime.stage import Stage
        with Stage("example", Path(sys.argv[1]).parent / "out") as stage:
            stage.warn("odd")
    if sys.argv[2] == "defect":
        raise ValueError("a defect")
"""


@pytest.mark.parametrize("kind", ["fine", "user", "defect", "warning"])
def test_a_script_log_holds_all_output_and_the_terminal_errors_and_warnings(tmp_path, kind):
    log = tmp_path / "logs" / "rule.log"
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(log), kind], capture_output=True, text=True, check=False)
    text = log.read_text()
    assert "plain" in text
    assert "logged" in text
    assert done.returncode == (0 if kind in ("fine", "warning") else 1)
    shown = {
        "fine": "",
        "user": "error: meta.json.gz: line 3: broken; cut it out\n",
        "warning": f"warning: {log.parent / 'out'}: odd\n",
    }
    assert done.stderr in text
    if kind == "defect":
        assert re.match("Traceback.*ValueError: a defect", done.stderr, re.DOTALL)
    else:
        assert done.stderr == shown[kind]
        assert "Traceback" not in text


def test_progress_yields_all_items_and_writes_plain_lines(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    assert list(progress(range(4), "loop", unit="row", initial=6)) == [0, 1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    # The clock moves ten seconds at each look: a line at every second row, and the last one.
    assert lines[0] == "loop: 8 of 10 row, 0.1 row/s, 20 s left"
    assert lines[-1].endswith("done")
    assert not any("\r" in line or "%" in line for line in lines)

"""Outputs appear whole or not at all, with a record beside them."""

import contextlib
import json
import os

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet as pq
from safetensors.numpy import save_file

from gensar_core.config.base import Settings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage, digest
from tests.disks import small_disk


class Example(Settings):
    size: int = 3


def test_outputs_and_record_appear_together(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("abc")
    out = tmp_path / "out"
    with Stage("example", out, settings=Example(), inputs=[source], seed=7, code="gensar_core.runtime.seeds") as stage:
        stage.path("a.txt").write_text("A")
        stage.path("folder/b.txt").write_text("B")
        stage.record(rows=2)
        stage.warn("odd")
        assert not (out / "a.txt").exists()
    assert (out / "a.txt").read_text() == "A"
    assert (out / "folder" / "b.txt").read_text() == "B"
    record = json.loads((out / "stage.json").read_text())
    # sha256 of "abc", FIPS 180-2 appendix B.1.
    assert record["inputs"][str(source)] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (record["settings"], record["seed"], record["counts"]) == ({"size": 3}, 7, {"rows": 2})
    # sha256 of "A" and "B", by sha256sum.
    assert record["outputs"] == {
        "a.txt": {"bytes": 1, "sha256": "559aead08264d5795d3909718cdd05abd49572e84fe55590eef31a88a08fdffd"},
        "folder/b.txt": {"bytes": 1, "sha256": "df7e70e5021544f4834bbee64a9e3789febc4be81470df629cad6ddb03320a5c"},
    }
    assert record["warnings"] == ["odd"]
    assert {"code", "device", "seconds", "peak_memory_gb", "versions"} <= record.keys()
    assert sorted(path.name for path in out.iterdir()) == ["a.txt", "folder", "stage.json"]


def test_the_record_tells_how_many_threads_computed(tmp_path):
    before = torch.get_num_threads()
    try:
        for threads, told in ((1, "1 thread)"), (2, "2 threads)")):
            torch.set_num_threads(threads)
            with Stage("example", tmp_path, settings=Example(), inputs=[], code="gensar_core.runtime.seeds") as stage:
                stage.path("a.txt").touch()
            assert json.loads((tmp_path / "stage.json").read_text())["device"].endswith(told)
    finally:
        torch.set_num_threads(before)


def test_all_files_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        with Stage("example", tmp_path, settings=Example(), inputs=[], code="gensar_core.runtime.seeds") as stage:
            save_file({"numbers": np.zeros(3)}, stage.path("numbers.safetensors"))
            save_file({"numbers": np.zeros(3)}, stage.path("folder/numbers.safetensors"))
    finally:
        os.umask(before)
    for name in ("numbers.safetensors", "folder/numbers.safetensors", "stage.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_an_error_leaves_nothing_new_and_the_old_untouched(tmp_path):
    with Stage("example", tmp_path) as stage:
        stage.path("a.txt").write_text("old")
    with pytest.raises(RuntimeError), Stage("example", tmp_path) as stage:
        stage.path("a.txt").write_text("new")
        stage.path("b.txt").write_text("new")
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "stage.json"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_stage_alone_in_its_folder_leaves_nothing_of_an_earlier_one(tmp_path):
    for alone, name in ((False, "a.txt"), (False, "b.txt"), (True, "c.txt")):
        with pytest.raises(RuntimeError), Stage("example", tmp_path, alone=alone):
            raise RuntimeError
        with Stage("example", tmp_path, alone=alone) as stage:
            stage.path(name).write_text("text")
            stage.path(f"folder/{name}").write_text("text")
        left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
        kept = ["a.txt", "b.txt"] if name == "b.txt" else [name]
        assert left == [*kept, "folder", f"folder/{name}", "stage.json"]


def test_what_a_killed_run_left_is_cleared(tmp_path):
    leftover = tmp_path / ".stage.partial"
    leftover.mkdir()
    (leftover / "half.txt").write_text("half")
    with Stage("example", tmp_path) as stage:
        stage.path("a.txt").write_text("A")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "stage.json"]


def test_a_full_disk_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="disk is full"), Stage("example", tmp_path):
        raise OSError(28, "No space left on device")


def test_the_key_changes_with_settings_inputs_seed_and_nothing_else(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("abc")

    def key(size=3, seed=1, content="abc", where="out"):
        source.write_text(content)
        with Stage("example", tmp_path / where, settings=Example(size=size), inputs=[source], seed=seed) as stage:
            return stage.key

    same = key()
    assert key() == same
    assert key(where="elsewhere") == same
    assert len({same, key(size=4), key(seed=2), key(content="abd")}) == 4


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.txt: no such file"):
        digest(tmp_path / "nothing.txt")


def _with_polars(path, data):
    pl.DataFrame({"x": data}).write_parquet(path, compression="uncompressed")


def _with_pyarrow(path, data):
    pq.write_table(pa.table({"x": data}), path, compression="none")


def _with_safetensors(path, data):
    save_file({"x": data}, path)


def _with_torch(path, data):
    torch.save({"x": torch.from_numpy(data)}, path)


def _with_numpy(path, data):
    np.save(path, data)


@pytest.mark.parametrize("write", [_with_polars, _with_pyarrow, _with_safetensors, _with_torch, _with_numpy])
def test_a_full_disk_is_told_whichever_library_met_it(tmp_path, write):
    with (
        small_disk(tmp_path / "disk", room_kb=512) as disk,
        pytest.raises(UserError, match="the disk is full; free some space and run again"),
        Stage("full", disk / "out") as stage,
    ):
        write(stage.path("file"), np.random.default_rng(0).random(200_000))
    assert list(tmp_path.rglob("file")) == []


def test_a_disk_too_full_for_the_record_keeps_no_output(tmp_path):
    with small_disk(tmp_path / "disk", room_kb=64) as disk:
        with (
            pytest.raises(UserError, match="disk is full"),
            Stage("full", disk / "out") as stage,
            open(stage.path("file"), "wb", buffering=0) as file,
            contextlib.suppress(OSError),
        ):
            while True:
                file.write(b"\0" * 4096)
        assert list((disk / "out").iterdir()) == []

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


def run(folder, *outputs, **options):
    """Run a stage that writes each output's name into it."""
    with Stage("example", folder, **options) as stage:
        for name in outputs:
            stage.path(name).write_text(name)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


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
    assert names(out) == ["a.txt", "folder", "folder/b.txt", "stage.json"]


@pytest.mark.parametrize(("threads", "device"), [(1, "1 thread)"), (2, "2 threads)")])
def test_the_record_names_the_number_of_threads(tmp_path, threads, device):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run(tmp_path)
    finally:
        torch.set_num_threads(before)
    assert json.loads((tmp_path / "stage.json").read_text())["device"].endswith(device)


def test_the_umask_decides_who_may_read_outputs(tmp_path):
    before = os.umask(0o027)
    try:
        with Stage("example", tmp_path) as stage:
            for name in ("numbers.safetensors", "folder/numbers.safetensors"):
                save_file({"numbers": np.zeros(3)}, stage.path(name))
    finally:
        os.umask(before)
    for name in ("numbers.safetensors", "folder/numbers.safetensors", "stage.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_an_error_removes_new_outputs_and_keeps_old_ones(tmp_path):
    run(tmp_path, "a.txt")
    with pytest.raises(RuntimeError), Stage("example", tmp_path) as stage:
        stage.path("a.txt").write_text("new")
        stage.path("b.txt").write_text("new")
        raise RuntimeError
    assert names(tmp_path) == ["a.txt", "stage.json"]
    assert (tmp_path / "a.txt").read_text() == "a.txt"


def test_a_stage_alone_in_its_folder_removes_outputs_of_an_earlier_one(tmp_path):
    for alone, name, files in (
        (False, "a.txt", ["a.txt"]),
        (False, "b.txt", ["a.txt", "b.txt"]),
        (True, "c.txt", ["c.txt"]),
    ):
        with pytest.raises(RuntimeError), Stage("example", tmp_path, alone=alone):
            raise RuntimeError
        run(tmp_path, name, f"folder/{name}", alone=alone)
        assert names(tmp_path) == [*files, "folder", f"folder/{name}", "stage.json"]


def test_unfinished_outputs_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / ".stage.partial").mkdir()
    (tmp_path / ".stage.partial" / "half.txt").touch()
    run(tmp_path, "a.txt")
    assert names(tmp_path) == ["a.txt", "stage.json"]


def test_an_error_of_a_full_disk_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="disk is full"), Stage("example", tmp_path):
        raise OSError(28, "No space left on device")


def test_the_key_changes_with_settings_inputs_seed_and_nothing_else(tmp_path):
    source = tmp_path / "in.txt"

    def key(size=3, seed=1, content="abc", folder="out"):
        source.write_text(content)
        with Stage("example", tmp_path / folder, settings=Example(size=size), inputs=[source], seed=seed) as stage:
            return stage.key

    same = key()
    assert key() == same
    assert key(folder="elsewhere") == same
    assert len({same, key(size=4), key(seed=2), key(content="abd")}) == 4


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.txt: no such file"):
        digest(tmp_path / "nothing.txt")


WRITERS = {
    "polars": lambda path, data: pl.DataFrame({"x": data}).write_parquet(path, compression="uncompressed"),
    "pyarrow": lambda path, data: pq.write_table(pa.table({"x": data}), path, compression="none"),
    "safetensors": lambda path, data: save_file({"x": data}, path),
    "torch": lambda path, data: torch.save({"x": torch.from_numpy(data)}, path),
    "numpy": lambda path, data: np.save(path, data),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_one_clear_error_from_any_library(tmp_path, write):
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

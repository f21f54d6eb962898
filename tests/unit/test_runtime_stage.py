"""Outputs appear whole or not at all, with a record beside them."""

import json

import pytest

from gensar_core.config.base import Settings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage, digest


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
    assert (record["settings"], record["seed"], record["figures"]) == ({"size": 3}, 7, {"rows": 2})
    assert record["outputs"] == ["a.txt", "folder"]
    assert record["warnings"] == ["odd"]
    assert {"code", "device", "seconds", "peak_memory_gb", "versions"} <= record.keys()
    assert sorted(path.name for path in out.iterdir()) == ["a.txt", "folder", "stage.json"]


def test_an_error_leaves_nothing_new_and_the_old_untouched(tmp_path):
    with Stage("example", tmp_path) as stage:
        stage.path("a.txt").write_text("old")
    with pytest.raises(RuntimeError), Stage("example", tmp_path) as stage:
        stage.path("a.txt").write_text("new")
        stage.path("b.txt").write_text("new")
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "stage.json"]
    assert (tmp_path / "a.txt").read_text() == "old"


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

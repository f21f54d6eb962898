"""The stage: files in, files out, refused inputs, and the table that corpora read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.config.identifiers import RQVAESettings
from gensar_core.errors import UserError
from gensar_core.identifiers.build import build_identifiers
from gensar_core.identifiers.rqvae import load_model
from gensar_core.identifiers.table import IdentifierTable
from gensar_core.runtime.stage import write_json
from gensar_core.runtime.tensors import save_vectors

SETTINGS = RQVAESettings(
    latent_size=4,
    hidden_sizes=[16, 8],
    codebook_size=16,
    shared_levels=1,
    specific_levels=2,
    epochs=4,
    batch_size=64,
    evaluate_every=2,
)


@pytest.fixture
def vectors(tmp_path: Path) -> dict[str, Path]:
    """150 items; items 100 to 149 are copies of one item on both sides."""
    source = np.random.default_rng(0)
    paths = {}
    for side, size in (("semantic", 12), ("collaborative", 6)):
        matrix = source.standard_normal((150, size)).astype(np.float32)
        matrix[100:] = matrix[0]
        paths[side] = tmp_path / f"{side}.safetensors"
        save_vectors({"items": matrix}, paths[side])
    return paths


def build(paths: dict[str, Path], output: Path, settings: RQVAESettings = SETTINGS, **more: Path) -> pl.DataFrame:
    checkpoints = more.get("checkpoints")
    build_identifiers(paths.get("semantic"), paths.get("collaborative"), output, settings, 7, checkpoints)
    return schema.IDENTIFIERS.read(output / "identifiers.parquet")


def test_both_identifiers_are_unique_and_share_their_first_code(vectors: dict[str, Path], tmp_path: Path) -> None:
    frame = build(vectors, tmp_path / "out", checkpoints=tmp_path / "checkpoints")
    assert frame.get_column("item_id").to_list() == list(range(150))
    for side in ("semantic", "collaborative"):
        assert frame.get_column(side).n_unique() == 150
        assert frame.get_column(side).list.len().unique().to_list() == [3]
    shared = frame.select(pl.col("semantic", "collaborative").list.first())
    assert shared.get_column("semantic").equals(shared.get_column("collaborative"))
    assert json.loads((tmp_path / "out" / "vocabulary.json").read_text()) == {
        "semantic": {"levels": ["M1", "S1", "S2"], "sizes": [16, 16, 16]},
        "collaborative": {"levels": ["M1", "R1", "R2"], "sizes": [16, 16, 16]},
    }
    assert not (tmp_path / "checkpoints").exists()


def test_the_record_tells_what_the_assignment_did(vectors: dict[str, Path], tmp_path: Path) -> None:
    frame = build(vectors, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "stage.json").read_text())
    curve = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert record["figures"]["items"] == 150
    assert [entry["step"] for entry in curve] == [6.0, 12.0]
    for side in ("semantic", "collaborative"):
        figures = record["figures"][side]
        # 51 items have the same vectors, so at least 50 must move, and each collision is one move.
        assert figures["moved_items"] >= 50
        assert figures["raw_collision_rate"] == pytest.approx(figures["moved_items"] / 150)
        assert figures["collision_rate"] == 0.0
        assert figures["moved_items"] == frame.get_column(f"{side}_moved").sum()
        assert figures["added_distortion"] > 0.0
        assert 0.0 < figures["raw_unexplained_variance"] <= figures["unexplained_variance"] + 0.05
        assert len(figures["usage"]) == len(figures["perplexity"]) == 3


def test_items_that_did_not_move_have_the_nearest_codes(vectors: dict[str, Path], tmp_path: Path) -> None:
    from gensar_core.identifiers.build import read_sides

    frame = build(vectors, tmp_path / "out")
    model = load_model(tmp_path / "out" / "model.safetensors")
    raw = model.encode_latents(model.all_latents(model.scale(read_sides(vectors))))
    for side in ("semantic", "collaborative"):
        same = (raw.identifier(side).numpy() == np.array(frame.get_column(side).to_list())).all(axis=1)
        np.testing.assert_array_equal(same, ~frame.get_column(f"{side}_moved").to_numpy())


@pytest.mark.parametrize(("side", "letter"), [("semantic", "S"), ("collaborative", "R")])
def test_one_embedding_alone_gives_both_sides_the_same_identifiers(
    vectors: dict[str, Path], tmp_path: Path, side: str, letter: str
) -> None:
    frame = build({side: vectors[side]}, tmp_path / "out")
    assert frame.get_column("semantic").equals(frame.get_column("collaborative").alias("semantic"))
    assert frame.get_column("semantic").n_unique() == 150
    scheme = {"levels": [f"{letter}{level}" for level in (1, 2, 3)], "sizes": [16] * 3}
    assert json.loads((tmp_path / "out" / "vocabulary.json").read_text()) == {
        "semantic": scheme,
        "collaborative": scheme,
    }
    assert load_model(tmp_path / "out" / "model.safetensors").shared.shape == (1, 16, 4)


def test_the_same_seed_writes_the_same_bytes(vectors: dict[str, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(vectors, tmp_path / name)
    for file in ("identifiers.parquet", "vocabulary.json", "model.safetensors", "curve.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("levels", [(0, 3), (3, 0)])
def test_levels_may_be_all_shared_or_all_specific(
    vectors: dict[str, Path], tmp_path: Path, levels: tuple[int, int]
) -> None:
    settings = RQVAESettings.model_validate(
        {**SETTINGS.model_dump(), "shared_levels": levels[0], "specific_levels": levels[1]}
    )
    frame = build(vectors, tmp_path / "out", settings)
    for side in ("semantic", "collaborative"):
        assert frame.get_column(side).n_unique() == 150
    same = frame.get_column("semantic").equals(frame.get_column("collaborative").alias("semantic"))
    assert same == (levels[1] == 0)


def test_vectors_that_are_not_finite_are_refused(vectors: dict[str, Path], tmp_path: Path) -> None:
    matrix = np.ones((150, 6), dtype=np.float32)
    matrix[[17, 90], 2] = [np.nan, np.inf]
    save_vectors({"items": matrix}, vectors["collaborative"])
    with pytest.raises(UserError, match=r"collaborative.safetensors.*item 17 .*2 items"):
        build(vectors, tmp_path / "out")
    assert not (tmp_path / "out" / "identifiers.parquet").exists()


def test_embeddings_of_different_catalogues_are_refused(vectors: dict[str, Path], tmp_path: Path) -> None:
    save_vectors({"items": np.ones((149, 6), dtype=np.float32)}, vectors["collaborative"])
    with pytest.raises(UserError, match=r"semantic.safetensors has 150 items.*collaborative.safetensors has 149 items"):
        build(vectors, tmp_path / "out")


def test_an_empty_catalogue_and_no_embedding_are_refused(vectors: dict[str, Path], tmp_path: Path) -> None:
    save_vectors({"items": np.ones((0, 6), dtype=np.float32)}, vectors["semantic"])
    with pytest.raises(UserError, match=r"semantic.safetensors: 'items' has shape \(0, 6\)"):
        build(vectors, tmp_path / "out")
    with pytest.raises(UserError, match="give a semantic embedding"):
        build({}, tmp_path / "out")


def test_too_few_identifiers_are_refused_before_training(vectors: dict[str, Path], tmp_path: Path) -> None:
    settings = RQVAESettings.model_validate({**SETTINGS.model_dump(), "codebook_size": 5})
    with pytest.raises(UserError, match="125 identifiers for 150 items"):
        build(vectors, tmp_path / "out", settings)


# --------------------------------------------------------------------------------------------------------------- table


def test_the_table_names_the_token_of_every_code(vectors: dict[str, Path], tmp_path: Path) -> None:
    frame = build(vectors, tmp_path / "out")
    table = IdentifierTable.load(tmp_path / "out")
    assert len(table) == 150
    # M1, S1, S2, R1, R2 with 16 codes each, those without an item included.
    assert len(table.tokens) == len(set(table.tokens)) == 5 * 16
    for item in (0, 77, 149):
        shared, first, second = frame.row(item, named=True)["collaborative"]
        assert table.text("collaborative", item) == f"<M1_{shared}><R1_{first}><R2_{second}>"
        assert table.text("semantic", item).startswith(f"<M1_{shared}><S1_")


def write_table(folder: Path, semantic: list[list[int]], levels: list[str], sizes: list[int]) -> None:
    folder.mkdir(exist_ok=True)
    columns = {
        "item_id": range(len(semantic)),
        "semantic": semantic,
        "collaborative": semantic,
        "semantic_moved": [False] * len(semantic),
        "collaborative_moved": [False] * len(semantic),
    }
    schema.IDENTIFIERS.write(pl.DataFrame(columns), folder / "identifiers.parquet")
    scheme = {"levels": levels, "sizes": sizes}
    write_json(folder / "vocabulary.json", {"semantic": scheme, "collaborative": scheme})


def test_identifiers_of_different_length_may_repeat_a_level(tmp_path: Path) -> None:
    write_table(tmp_path, [[1], [1, 0], [2, 0, 4]], ["C", "C", "L"], [3, 4, 5])
    table = IdentifierTable.load(tmp_path)
    assert [table.text("semantic", item) for item in range(3)] == ["<C_1>", "<C_1><C_0>", "<C_2><C_0><L_4>"]
    assert len(table.tokens) == 4 + 5


@pytest.mark.parametrize(
    ("codes", "message"),
    [([[0, 9]], "item 0 has code 9 at level B"), ([[0, 0], [0, 1, 2]], "an identifier has 3 codes")],
)
def test_codes_without_a_token_are_refused(tmp_path: Path, codes: list[list[int]], message: str) -> None:
    write_table(tmp_path, codes, ["A", "B"], [4, 4])
    with pytest.raises(UserError, match=message):
        IdentifierTable.load(tmp_path)


def test_a_broken_vocabulary_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path, [[0]], ["A", "B"], [4])
    with pytest.raises(UserError, match="2 levels but 1 sizes"):
        IdentifierTable.load(tmp_path)
    (tmp_path / "vocabulary.json").write_text("{")
    with pytest.raises(UserError, match="not readable JSON"):
        IdentifierTable.load(tmp_path)
    (tmp_path / "vocabulary.json").unlink()
    with pytest.raises(UserError, match="no such file"):
        IdentifierTable.load(tmp_path)

"""The stage: files in, files out, refused inputs, and the table that corpora read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.config.identifiers import QuantizerSettings
from gensar_core.errors import UserError
from gensar_core.identifiers.build import build_identifiers
from gensar_core.identifiers.rqvae import load_rqvae
from gensar_core.identifiers.table import IdentifierTable
from gensar_core.runtime.stage import write_json
from gensar_core.runtime.tensors import load_vectors, save_vectors

SETTINGS = QuantizerSettings(
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


def build(paths: dict[str, Path], output: Path, settings: QuantizerSettings = SETTINGS, **more: Path) -> pl.DataFrame:
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
    assert record["counts"]["items"] == 150
    assert [entry["step"] for entry in curve] == [6.0, 12.0]
    for side in ("semantic", "collaborative"):
        counts = record["counts"][side]
        # 51 items have the same vectors, so at least 50 must move, and each collision is one move.
        assert counts["moved_items"] >= 50
        assert counts["raw_collision_rate"] == pytest.approx(counts["moved_items"] / 150)
        assert counts["collision_rate"] == 0.0
        assert counts["moved_items"] == frame.get_column(f"{side}_moved").sum()
        assert counts["added_distortion"] > 0.0
        assert 0.0 < counts["raw_unexplained_variance"] <= counts["unexplained_variance"] + 0.05
        assert len(counts["usage"]) == len(counts["perplexity"]) == 3


def test_items_that_did_not_move_have_the_nearest_codes(vectors: dict[str, Path], tmp_path: Path) -> None:
    from gensar_core.identifiers.build import read_sides

    frame = build(vectors, tmp_path / "out")
    model = load_rqvae(tmp_path / "out" / "model.safetensors")
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
    assert load_rqvae(tmp_path / "out" / "model.safetensors").shared[0].shape == (16, 4)


def test_the_same_seed_writes_the_same_bytes(vectors: dict[str, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(vectors, tmp_path / name)
    for file in ("identifiers.parquet", "vocabulary.json", "model.safetensors", "curve.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("levels", [(0, 3), (3, 0)])
def test_levels_may_be_all_shared_or_all_specific(
    vectors: dict[str, Path], tmp_path: Path, levels: tuple[int, int]
) -> None:
    settings = QuantizerSettings.model_validate(
        {**SETTINGS.model_dump(), "shared_levels": levels[0], "specific_levels": levels[1]}
    )
    frame = build(vectors, tmp_path / "out", settings)
    for side in ("semantic", "collaborative"):
        assert frame.get_column(side).n_unique() == 150
    same = frame.get_column("semantic").equals(frame.get_column("collaborative").alias("semantic"))
    assert same == (levels[1] == 0)


def changed(**changes: object) -> QuantizerSettings:
    return QuantizerSettings.model_validate({**SETTINGS.model_dump(), **changes})


def test_every_level_may_have_a_size_of_its_own(vectors: dict[str, Path], tmp_path: Path) -> None:
    frame = build(vectors, tmp_path / "out", changed(codebook_size=[4, 8, 12]))
    for side in ("semantic", "collaborative"):
        assert frame.get_column(side).n_unique() == 150
        largest = np.array(frame.get_column(side).to_list()).max(axis=0)
        assert (largest < [4, 8, 12]).all()
        assert (largest >= [3, 6, 9]).all()
    vocabulary = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    assert vocabulary["collaborative"] == {"levels": ["M1", "R1", "R2"], "sizes": [4, 8, 12]}
    assert len(IdentifierTable.load(tmp_path / "out").tokens) == 4 + 2 * (8 + 12)
    assert [len(codebook) for codebook in load_rqvae(tmp_path / "out" / "model.safetensors").specific_codebooks("semantic")] == [8, 12]


def test_residual_kmeans_needs_no_training_and_quantizes_the_vectors_themselves(
    vectors: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        frame = build(vectors, tmp_path / name, changed(quantizer="rq-kmeans", separation_share=0.0))
    files = ("identifiers.parquet", "vocabulary.json", "model.safetensors", "curve.json")
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    for side in ("semantic", "collaborative"):
        assert frame.get_column(side).n_unique() == 150
    record = json.loads((tmp_path / "one" / "stage.json").read_text())
    assert record["counts"]["steps"] == 0
    # One level of k-means on both sides' vectors, scaled and side by side: each code is the mean of its items.
    model = load_rqvae(tmp_path / "one" / "model.safetensors")
    matrices = {side: load_vectors(path) for side, path in vectors.items()}
    scaled = []
    for matrix in matrices.values():
        centered = matrix - matrix.mean(axis=0)
        scaled.append(centered / np.sqrt((centered**2).sum(axis=1).mean()))
    together = np.concatenate(scaled, axis=1)
    codebook = model.shared[0].detach().numpy()
    nearest = ((together[:, None] - codebook[None]) ** 2).sum(axis=2).argmin(axis=1)
    for code in np.unique(nearest):
        np.testing.assert_allclose(codebook[code], together[nearest == code].mean(axis=0), atol=1e-4)
    moved = frame.get_column("semantic_moved").to_numpy() | frame.get_column("collaborative_moved").to_numpy()
    shared = np.array(frame.get_column("semantic").to_list())[:, 0]
    np.testing.assert_array_equal(shared[~moved], nearest[~moved])


# ---------------------------------------------------------------------------------------------------------- collisions


def raw_codes(vectors: dict[str, Path], folder: Path) -> dict[str, np.ndarray]:
    frame = build(vectors, folder, changed(collisions="none"))
    assert not frame.get_column("semantic_moved").any()
    return {side: np.array(frame.get_column(side).to_list()) for side in ("semantic", "collaborative")}


def test_an_extra_digit_numbers_the_items_of_one_identifier(vectors: dict[str, Path], tmp_path: Path) -> None:
    raw = raw_codes(vectors, tmp_path / "none")
    frame = build(vectors, tmp_path / "out", changed(collisions="extra_digit"))
    vocabulary = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    for side, letter in (("semantic", "S"), ("collaborative", "R")):
        seen: dict[tuple[int, ...], int] = {}
        expected = []
        for codes in raw[side].tolist():
            expected.append([*codes, seen.get(tuple(codes), 0)])
            seen[tuple(codes)] = expected[-1][-1] + 1
        assert frame.get_column(side).to_list() == expected
        assert frame.get_column(side).n_unique() == 150
        assert vocabulary[side] == {
            "levels": ["M1", f"{letter}1", f"{letter}2", f"{letter}3"],
            "sizes": [16, 16, 16, max(seen.values())],
        }
    assert len(IdentifierTable.load(tmp_path / "out")) == 150
    counts = json.loads((tmp_path / "out" / "stage.json").read_text())["counts"]["semantic"]
    assert counts["collision_rate"] == counts["moved_items"] == counts["added_distortion"] == 0


def test_colliding_items_may_be_left_as_they_are_and_are_counted(vectors: dict[str, Path], tmp_path: Path) -> None:
    raw = raw_codes(vectors, tmp_path / "out")
    counts = json.loads((tmp_path / "out" / "stage.json").read_text())["counts"]
    for side, codes in raw.items():
        _, repeats = np.unique(codes, axis=0, return_counts=True)
        assert counts[side]["collision_rate"] == counts[side]["raw_collision_rate"] == 1 - len(repeats) / 150
        assert counts[side]["colliding_items"] == repeats[repeats > 1].sum() >= 51


def test_the_authors_repair_changes_last_codes_alone_and_leaves_copies_colliding(
    vectors: dict[str, Path], tmp_path: Path
) -> None:
    settings = {"separation_share": 0.0, "codebook_size": [4, 4, 8]}
    none = build(vectors, tmp_path / "none", changed(collisions="none", **settings))
    frame = build(vectors, tmp_path / "out", changed(collisions="sinkhorn_repair", **settings))
    counts = json.loads((tmp_path / "out" / "stage.json").read_text())["counts"]
    for side in ("semantic", "collaborative"):
        before, after = (np.array(table.get_column(side).to_list()) for table in (none, frame))
        np.testing.assert_array_equal(before[:, :2], after[:, :2])
        np.testing.assert_array_equal((before != after).any(axis=1), frame.get_column(f"{side}_moved").to_numpy())
        assert 0 < counts[side]["collision_rate"] < counts[side]["raw_collision_rate"]
        # Items with the same vector have the same distances, so no plan tells them apart.
        assert len(np.unique(after[[0, *range(100, 150)]], axis=0)) == 1


def test_fewer_identifiers_than_items_are_refused_only_where_they_are_to_be_unique(
    vectors: dict[str, Path], tmp_path: Path
) -> None:
    frame = build(vectors, tmp_path / "out", changed(codebook_size=5, collisions="extra_digit"))
    assert frame.get_column("semantic").n_unique() == 150


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
    settings = QuantizerSettings.model_validate({**SETTINGS.model_dump(), "codebook_size": 5})
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

"""The stage `identifiers`: files in and out, collisions resolved in every way, and the table that corpora read."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.identifiers.build import build_identifiers
from gensar_core.identifiers.collisions import occurrence
from gensar_core.identifiers.interface import KindData
from gensar_core.identifiers.quantizer import read_sides
from gensar_core.identifiers.rqvae import load_rqvae
from gensar_core.identifiers.table import IdentifierTable
from gensar_core.runtime.stage import write_json
from gensar_core.runtime.tensors import save_vectors
from tests.support.shop import write_corpus_inputs
from tests.support.small_quantizer import small_settings

SIDES = ("semantic", "collaborative")
OUTPUTS = ("identifiers.parquet", "vocabulary.json", "model.safetensors", "curve.json")
MIXED = (["M1", "S1", "S2"], ["M1", "R1", "R2"])


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Vectors of 150 items; items 100 to 149 are copies of item 0 on both sides."""
    rng = np.random.default_rng(0)
    folder, paths = tmp_path_factory.mktemp("vectors"), {}
    for side, size in zip(SIDES, (12, 6), strict=True):
        matrix = rng.standard_normal((150, size)).astype(np.float32)
        matrix[100:] = matrix[0]
        paths[side] = folder / f"{side}.safetensors"
        save_vectors({"items": matrix}, paths[side])
    return paths


def build(
    paths: dict[str, Path], output: Path, checkpoints: Path | None = None, seed: int = 7, **changes: Any
) -> pl.DataFrame:
    changed = small_settings(**{"codebook_size": 16, "epochs": 4, **changes})
    build_identifiers(KindData(paths), output, changed, seed, checkpoints)
    return schema.IDENTIFIERS.read(output / "identifiers.parquet")


@pytest.fixture(scope="module")
def built(vectors: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a build with unique identifiers."""
    folder = tmp_path_factory.mktemp("built")
    build(vectors, folder)
    return folder


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def matrix(frame: pl.DataFrame, side: str) -> np.ndarray:
    """The codes of a side [items, levels]."""
    return np.array(frame.get_column(side).to_list())


@pytest.mark.parametrize(
    ("sides", "changes", "levels"),
    [
        (SIDES, {}, MIXED),
        (SIDES, {"codebook_size": [4, 8, 12]}, MIXED),
        (SIDES, {"shared_levels": 0, "specific_levels": 3}, (["S1", "S2", "S3"], ["R1", "R2", "R3"])),
        (SIDES, {"shared_levels": 3, "specific_levels": 0}, (["M1", "M2", "M3"],) * 2),
        (["semantic"], {}, (["S1", "S2", "S3"],) * 2),
        (["collaborative"], {}, (["R1", "R2", "R3"],) * 2),
    ],
)
def test_identifiers_are_unique_with_any_levels_and_sides(
    vectors: dict[str, Path], tmp_path: Path, sides: list[str], changes: dict[str, Any], levels: tuple[list[str], ...]
) -> None:
    output, checkpoints = tmp_path / "out", tmp_path / "checkpoints"
    frame = build({side: vectors[side] for side in sides}, output, checkpoints, **changes)
    assert not checkpoints.exists()
    assert frame.get_column("item_id").to_list() == list(range(150))
    sizes = changes.get("codebook_size", [16] * 3)
    schemes = {
        side: {"levels": names, "sizes": sizes, "rows": "codes"} for side, names in zip(SIDES, levels, strict=True)
    }
    assert read_json(output / "vocabulary.json") == schemes
    for side in SIDES:
        assert frame.get_column(side).n_unique() == 150
        largest = matrix(frame, side).max(axis=0)
        assert (largest < sizes).all()
        assert (largest >= 0.75 * np.array(sizes)).all()
    # Both sides have the same codes at exactly the levels that they share.
    same = (matrix(frame, "semantic") == matrix(frame, "collaborative")).all(axis=0)
    assert same.tolist() == [first == second for first, second in zip(*levels, strict=True)]
    distinct = {name: size for names in levels for name, size in zip(names, sizes, strict=True)}
    assert len(IdentifierTable.load(output).tokens) == sum(distinct.values())
    shared = changes.get("shared_levels", 1)
    shapes = {"shared": [(size, 4 * len(sides)) for size in sizes[:shared]]}
    shapes |= {side: [(size, 4) for size in sizes[shared:]] for side in sides}
    chains = load_rqvae(output / "model.safetensors").chains()
    assert {chain: [codebook.shape for codebook in codebooks] for chain, codebooks in chains.items()} == shapes


def test_the_record_counts_what_the_assignment_moved(built: Path) -> None:
    frame = schema.IDENTIFIERS.read(built / "identifiers.parquet")
    record = read_json(built / "stage.json")["counts"]
    assert record["items"] == 150
    assert [entry["step"] for entry in read_json(built / "curve.json")] == [6.0, 12.0]
    for side in SIDES:
        counts = record[side]
        # 51 items have the same vectors, so at least 50 must move, and each collision is one move.
        assert counts["moved_items"] == frame.get_column(f"{side}_moved").sum() >= 50
        assert counts["raw_collision_rate"] == pytest.approx(counts["moved_items"] / 150)
        assert counts["collision_rate"] == 0.0
        assert counts["added_distortion"] > 0.0
        assert 0.0 < counts["raw_unexplained_variance"] <= counts["unexplained_variance"] + 0.05
        assert len(counts["usage"]) == len(counts["perplexity"]) == 3


@pytest.mark.parametrize("kind", ["rqvae", "rq_kmeans"])
def test_the_same_seed_writes_the_same_bytes(vectors: dict[str, Path], tmp_path: Path, kind: str) -> None:
    for name, seed in (("one", 7), ("two", 7), ("other", 8)):
        build(vectors, tmp_path / name, seed=seed, kind=kind)
    for file in OUTPUTS:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    one, other = (load_rqvae(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert not torch.equal(one.shared[0], other.shared[0])


@pytest.mark.parametrize("kind", ["rqvae", "rq_kmeans"])
def test_items_that_did_not_move_have_the_nearest_codes(vectors: dict[str, Path], tmp_path: Path, kind: str) -> None:
    frame = build(vectors, tmp_path, kind=kind)
    model = load_rqvae(tmp_path / "model.safetensors")
    raw = model.encode_latents(model.all_latents(model.scale(read_sides(vectors))))
    for side in SIDES:
        nearest = (raw.identifier(side).numpy() == matrix(frame, side)).all(axis=1)
        np.testing.assert_array_equal(nearest, ~frame.get_column(f"{side}_moved").to_numpy())


def test_codes_of_residual_kmeans_are_means_of_the_scaled_vectors(vectors: dict[str, Path], tmp_path: Path) -> None:
    build(vectors, tmp_path, kind="rq_kmeans", separation_share=0.0)
    assert read_json(tmp_path / "stage.json")["counts"]["steps"] == 0
    model = load_rqvae(tmp_path / "model.safetensors")
    together = torch.cat(list(model.scale(read_sides(vectors)).values()), dim=1)
    shared = model.encode_latents(together).shared[:, 0]
    for code in shared.unique():
        torch.testing.assert_close(
            model.shared[0][code].detach(), together[shared == code].mean(dim=0), atol=1e-4, rtol=0
        )


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=1, max_size=40))
def test_occurrence_counts_the_earlier_items_with_the_same_identifier(identifiers: list[list[int]]) -> None:
    earlier: Counter[tuple[int, ...]] = Counter()
    expected = []
    for codes in map(tuple, identifiers):
        expected.append(earlier[codes])
        earlier[codes] += 1
    assert occurrence(torch.tensor(identifiers)).tolist() == expected


def test_collisions_may_stay_and_are_counted(vectors: dict[str, Path], tmp_path: Path) -> None:
    frame = build(vectors, tmp_path, collisions="none")
    counts = read_json(tmp_path / "stage.json")["counts"]
    for side in SIDES:
        assert not frame.get_column(f"{side}_moved").any()
        _, repeats = np.unique(matrix(frame, side), axis=0, return_counts=True)
        assert counts[side]["collision_rate"] == counts[side]["raw_collision_rate"] == 1 - len(repeats) / 150
        assert counts[side]["colliding_items"] == repeats[repeats > 1].sum() >= 51


def test_an_extra_digit_numbers_the_items_of_each_identifier(vectors: dict[str, Path], tmp_path: Path) -> None:
    raw = build(vectors, tmp_path / "none", collisions="none")
    frame = build(vectors, tmp_path / "digit", collisions="extra_digit")
    counts = read_json(tmp_path / "digit" / "stage.json")["counts"]
    for side, names in zip(SIDES, MIXED, strict=True):
        digits = occurrence(torch.from_numpy(matrix(raw, side))).numpy()
        np.testing.assert_array_equal(matrix(frame, side), np.column_stack([matrix(raw, side), digits]))
        scheme = {"levels": [*names, f"{names[-1][0]}3"], "sizes": [16, 16, 16, digits.max() + 1], "rows": "codes"}
        assert read_json(tmp_path / "digit" / "vocabulary.json")[side] == scheme
        assert counts[side]["collision_rate"] == counts[side]["moved_items"] == counts[side]["added_distortion"] == 0
    assert len(IdentifierTable.load(tmp_path / "digit")) == 150


def test_the_authors_repair_changes_last_codes_alone_and_leaves_copies_colliding(
    vectors: dict[str, Path], tmp_path: Path
) -> None:
    changes = {"separation_share": 0.0, "codebook_size": [4, 4, 8]}
    raw = build(vectors, tmp_path / "none", collisions="none", **changes)
    frame = build(vectors, tmp_path / "repair", collisions="sinkhorn_repair", **changes)
    counts = read_json(tmp_path / "repair" / "stage.json")["counts"]
    for side in SIDES:
        before, after = matrix(raw, side), matrix(frame, side)
        np.testing.assert_array_equal(before[:, :2], after[:, :2])
        np.testing.assert_array_equal((before != after).any(axis=1), frame.get_column(f"{side}_moved").to_numpy())
        assert 0 < counts[side]["collision_rate"] < counts[side]["raw_collision_rate"]
        # Items with the same vector have the same distances, so no plan separates them.
        assert len(np.unique(after[[0, *range(100, 150)]], axis=0)) == 1


def test_too_few_identifiers_are_refused_before_training_where_they_must_be_unique(
    vectors: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="125 identifiers for 150 items"):
        build(vectors, tmp_path, codebook_size=5, epochs=10**9)
    assert build(vectors, tmp_path, codebook_size=5, collisions="extra_digit").get_column("semantic").n_unique() == 150


NOT_FINITE = np.ones((150, 6), dtype=np.float32)
NOT_FINITE[[17, 90], 2] = [np.nan, np.inf]


@pytest.mark.parametrize(
    ("side", "items", "message"),
    [
        ("collaborative", NOT_FINITE, r"collaborative.safetensors.*item 17 .*2 items"),
        ("collaborative", NOT_FINITE[:17], r"semantic.safetensors has 150 items.*tive.safetensors has 17 items"),
        ("semantic", NOT_FINITE[:0], r"semantic.safetensors: 'items' has shape \(0, 6\)"),
    ],
)
def test_unusable_vectors_are_refused(
    vectors: dict[str, Path], tmp_path: Path, side: str, items: np.ndarray, message: str
) -> None:
    path = tmp_path / f"{side}.safetensors"
    save_vectors({"items": items}, path)
    with pytest.raises(UserError, match=message):
        build(vectors | {side: path}, tmp_path / "out")
    assert not (tmp_path / "out" / "identifiers.parquet").exists()


def test_the_table_names_the_token_of_every_code(built: Path) -> None:
    table = IdentifierTable.load(built)
    assert len(table) == 150
    # M1, S1, S2, R1 and R2 have 16 codes each, those without an item included.
    assert len(table.tokens) == len(set(table.tokens)) == 5 * 16
    for item, codes in enumerate(matrix(schema.IDENTIFIERS.read(built / "identifiers.parquet"), "collaborative")):
        shared, first, second = codes
        assert table.text("collaborative", item) == f"<M1_{shared}><R1_{first}><R2_{second}>"
        assert table.text("semantic", item).startswith(f"<M1_{shared}><S1_")


def write_table(folder: Path, codes: list[list[int]], levels: list[str], sizes: list[int]) -> None:
    write_corpus_inputs(folder, texts=[""] * len(codes), semantic=codes, collaborative=codes)
    write_json(folder / "vocabulary.json", {side: {"levels": levels, "sizes": sizes} for side in SIDES})


def test_identifiers_of_different_length_may_repeat_a_level(tmp_path: Path) -> None:
    write_table(tmp_path, [[1], [1, 0], [2, 0, 4]], ["C", "C", "L"], [3, 4, 5])
    table = IdentifierTable.load(tmp_path)
    assert [table.text("semantic", item) for item in range(3)] == ["<C_1>", "<C_1><C_0>", "<C_2><C_0><L_4>"]
    assert len(table.tokens) == 4 + 5


@pytest.mark.parametrize(
    ("codes", "sizes", "message"),
    [
        ([[0, 9]], [4, 4], "item 0 has code 9 at level B"),
        ([[0, 0], [0, 1, 2]], [4, 4], "an identifier has 3 codes"),
        ([[0]], [4], "2 levels but 1 sizes"),
    ],
)
def test_codes_without_a_token_are_refused(
    tmp_path: Path, codes: list[list[int]], sizes: list[int], message: str
) -> None:
    write_table(tmp_path, codes, ["A", "B"], sizes)
    with pytest.raises(UserError, match=message):
        IdentifierTable.load(tmp_path)


def test_an_unreadable_or_missing_vocabulary_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path, [[0]], ["A"], [4])
    (tmp_path / "vocabulary.json").write_text("{")
    with pytest.raises(UserError, match="not readable JSON"):
        IdentifierTable.load(tmp_path)
    (tmp_path / "vocabulary.json").unlink()
    with pytest.raises(UserError, match="no such file"):
        IdentifierTable.load(tmp_path)

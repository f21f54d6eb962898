"""Kinds of identifiers against known answers: residual k-means, product quantization, random numbers, titles."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.config.identifiers import (
    ClusterSettings,
    NumberSettings,
    ProductSettings,
    QuantizerSettings,
    TitleSettings,
)
from gensar_core.errors import UserError
from gensar_core.identifiers.build import build_identifiers
from gensar_core.identifiers.collisions import occurrence
from gensar_core.identifiers.interface import INPUTS, KindData, find_kind, identifier_kinds, read_settings
from gensar_core.identifiers.kinds.numbers import random_numbers
from gensar_core.identifiers.kinds.product import nearest_parts, product_codebooks, rotation
from gensar_core.identifiers.kinds.titles import title_texts, told_apart
from gensar_core.identifiers.table import IdentifierTable
from gensar_core.runtime.stage import read_record
from gensar_core.runtime.tensors import load_vectors, save_vectors
from tests.support.shop import write_items

ITEMS = 120


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of 120 items [120, 12], of which the last 20 are copies of the first; dimensions differ in variance."""
    rng = np.random.default_rng(0)
    matrix = (rng.standard_normal((ITEMS, 12)) * np.geomspace(4.0, 0.1, 12)).astype(np.float32)
    matrix[100:] = matrix[0]
    path = tmp_path_factory.mktemp("vectors") / "vectors.safetensors"
    save_vectors({"items": matrix}, path)
    return path


def write_titles(folder: Path, titles: list[str]) -> Path:
    """Write items of these titles, and return their path."""
    write_items(folder, titles)
    return folder / "items.parquet"


def test_each_kind_names_its_settings_and_declares_known_inputs() -> None:
    assert set(identifier_kinds()) >= {"rqvae", "rq_kmeans", "clusters", "numbers", "titles", "product"}
    for name in identifier_kinds():
        kind = find_kind(name)
        assert kind.paper
        assert set(kind.settings.inputs) <= INPUTS.keys()
        given = kind.settings.model_validate({"kind": name})
        assert read_settings(given.canonical()) == given


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"no kind 'letters' .*numbers"):
        find_kind("letters")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (NumberSettings(kind="numbers"), "the table items.parquet"),
        (ClusterSettings(kind="clusters"), "built from clicks: give it the table training_events"),
        (ProductSettings(kind="product"), "give a semantic embedding, a collaborative one"),
        (QuantizerSettings(kind="rq_kmeans"), "give a semantic embedding, a collaborative one"),
    ],
)
def test_missing_data_is_told(settings: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        build_identifiers(KindData(), tmp_path, settings, 1, None)


def test_a_kind_sees_the_data_alone_that_it_declares() -> None:
    given = KindData({"semantic": Path("v")}, Path("e"), Path("q"), Path("i"))
    assert given.declared(("items",)) == KindData(item_texts=Path("i"))
    assert given.declared(("searches",)) == KindData(training_events=Path("e"), queries=Path("q"))
    assert KindData.of_files({"collaborative": Path("c"), "item_texts": Path("i")}) == KindData(
        {"collaborative": Path("c")}, item_texts=Path("i")
    )


def test_files_of_another_kind_are_removed(vectors: Path, tmp_path: Path) -> None:
    small = QuantizerSettings(kind="rq_kmeans", codebook_size=8)
    build_identifiers(KindData({"semantic": vectors}), tmp_path / "out", small, 1, None)
    assert (tmp_path / "out/curve.json").exists()
    items = write_titles(tmp_path, ["x"] * 5)
    build_identifiers(KindData(item_texts=items), tmp_path / "out", NumberSettings(kind="numbers"), 1, None)
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"identifiers.parquet", "vocabulary.json", "stage.json"}


def test_codes_of_product_quantization_are_those_of_faiss_and_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((300, 8)).astype(np.float32)
    codebooks = product_codebooks(matrix, 4, 16, seed=2)
    codes = nearest_parts(matrix, codebooks)
    peer = faiss.ProductQuantizer(8, 4, 4)
    faiss.copy_array_to_vector(codebooks.ravel(), peer.centroids)
    packed = peer.compute_codes(matrix)
    np.testing.assert_array_equal(codes, np.stack([packed & 15, packed >> 4], axis=2).reshape(300, 4))
    for row, given_codes in zip(matrix[:50], codes, strict=False):
        for part in range(4):
            distances = [np.square(row[2 * part : 2 * part + 2] - center).sum() for center in codebooks[part]]
            assert given_codes[part] == np.argmin(distances)


def test_a_rotation_is_orthogonal_and_loses_less_than_none() -> None:
    """All variance is in the first part, which has no more codes than the others."""
    rng = np.random.default_rng(1)
    matrix = (rng.standard_normal((200, 8)) * np.array([3, 3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])).astype(np.float32)

    def error(rotated: np.ndarray) -> float:
        codebooks = product_codebooks(rotated, 4, 8, seed=2)
        codes = nearest_parts(rotated, codebooks)
        near = np.concatenate([codebooks[part][codes[:, part]] for part in range(4)], axis=1)
        return float(np.square(rotated - near).sum())

    found = rotation(matrix, 4, 8, seed=2)
    np.testing.assert_allclose(found.T @ found, np.eye(8), atol=1e-5)
    assert error(matrix @ found) < 0.5 * error(matrix)
    np.testing.assert_array_equal(found, rotation(matrix, 4, 8, seed=2))


@pytest.mark.parametrize("rotate", [False, True])
def test_product_codes_are_made_unique_as_the_setting_says(vectors: Path, tmp_path: Path, rotate: bool) -> None:
    tables, counts = {}, {}
    for collisions in ("none", "unique", "extra_digit"):
        settings = ProductSettings(kind="product", subspaces=3, codebook_size=16, collisions=collisions, rotate=rotate)
        build_identifiers(KindData({"collaborative": vectors}), tmp_path / collisions, settings, 1, None)
        tables[collisions] = schema.IDENTIFIERS.read(tmp_path / collisions / "identifiers.parquet")
        counts[collisions] = read_record(tmp_path / collisions / "stage.json")["counts"]["collaborative"]
    codes = {name: np.array(table.get_column("semantic").to_list()) for name, table in tables.items()}
    raw = codes["none"]
    matrix = load_vectors(vectors, "items")
    matrix = matrix - matrix.mean(axis=0)
    if rotate:
        matrix = matrix @ load_vectors(tmp_path / "none/model.safetensors", "rotation")
    codebooks = load_vectors(tmp_path / "none/model.safetensors", "codebooks").reshape(3, 16, 4)
    np.testing.assert_array_equal(raw, nearest_parts(matrix, codebooks))
    rate = 1 - len(np.unique(raw, axis=0)) / ITEMS
    assert counts["none"]["collision_rate"] == rate >= 20 / ITEMS
    assert [one["raw_collision_rate"] for one in counts.values()] == [rate] * 3

    digits = occurrence(torch.from_numpy(raw)).numpy()
    np.testing.assert_array_equal(codes["extra_digit"], np.column_stack([raw, digits]))
    # One item of each group keeps its codes; the others are moved to free ones.
    moved = tables["unique"].get_column("collaborative_moved").to_numpy()
    np.testing.assert_array_equal((codes["unique"] != raw).any(axis=1), moved)
    assert moved.sum() == counts["unique"]["moved_items"] == round(rate * ITEMS)
    assert len(np.unique(codes["unique"], axis=0)) == ITEMS
    assert counts["unique"]["unexplained_variance"] > counts["none"]["unexplained_variance"] > 0
    assert IdentifierTable.load(tmp_path / "unique").text("semantic", 0).startswith("<R1_")


def test_product_quantization_refuses_what_it_cannot_divide(vectors: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"12 dimensions have no 5 equal parts; write, for example, subspaces: [46]"):
        build_identifiers(
            KindData({"semantic": vectors}), tmp_path, ProductSettings(kind="product", subspaces=5), 1, None
        )
    few = ProductSettings(kind="product", subspaces=2, codebook_size=8)
    with pytest.raises(UserError, match="2 levels of 8 codes give 64 identifiers for 120 items"):
        build_identifiers(KindData({"semantic": vectors}), tmp_path, few, 1, None)
    with pytest.raises(UserError, match="takes one embedding"):
        build_identifiers(KindData({"semantic": vectors, "collaborative": vectors}), tmp_path, few, 1, None)


@given(st.integers(1, 50), st.integers(0, 30), st.integers(0, 5))
def test_random_numbers_differ_lie_in_range_and_come_from_the_seed(items: int, more: int, seed: int) -> None:
    numbers = random_numbers(items, items + more, seed).tolist()
    assert len(set(numbers)) == items
    assert all(0 <= number < items + more for number in numbers)
    assert numbers == random_numbers(items, items + more, seed).tolist()


def test_numbers_are_texts_in_random_order(tmp_path: Path) -> None:
    items = write_titles(tmp_path, ["same title"] * 200)
    build_identifiers(KindData(item_texts=items), tmp_path / "out", NumberSettings(kind="numbers"), 1, None)
    table = IdentifierTable.load(tmp_path / "out")
    assert sorted(map(int, table.texts["semantic"])) == list(range(200))
    assert table.texts["semantic"] == table.texts["collaborative"]
    assert table.tokens == []
    assert len(table) == 200
    # In the order of items, a number follows its predecessor about once in 200 draws.
    steps = np.diff(np.array(table.texts["semantic"], dtype=np.int64))
    assert (steps == 1).sum() < 10


def test_too_few_numbers_are_refused(tmp_path: Path) -> None:
    items = write_titles(tmp_path, ["a", "b", "c"])
    with pytest.raises(UserError, match="2 numbers for 3 items; raise 'below'"):
        build_identifiers(
            KindData(item_texts=items), tmp_path / "out", NumberSettings(kind="numbers", below=2), 1, None
        )


def test_titles_lose_case_digits_and_punctuation_and_short_ones_get_the_brand() -> None:
    titles = ["Apple iPod nano 32GB, Pink!", "Red 5", "", "--- 7", "Ünïted naïve_words are-kept 3rd"]
    brands = ["Apple", "OPI 2", "Brand", "12", ""]
    assert title_texts(titles, brands, 4) == [
        "apple ipod nano gb", "red opi", "brand", "item", "ünïted naïve words are",
    ]  # fmt: skip


@given(st.lists(st.text("ab ", max_size=3), max_size=20))
def test_equal_titles_are_told_apart_by_a_number_that_no_title_has(titles: list[str]) -> None:
    texts = told_apart(title_texts(titles, [""] * len(titles), 16))
    assert len(set(texts)) == len(texts)
    seen: dict[str, int] = {}
    for title, text in zip(titles, texts, strict=True):
        words = " ".join(title.split()) or "item"
        seen[words] = seen.get(words, 0) + 1
        assert text == words + (f" {seen[words]}" if seen[words] > 1 else "")


def test_titles_are_counted_before_and_after_they_are_told_apart(tmp_path: Path) -> None:
    items = write_titles(tmp_path, ["Lip balm 1", "Lip balm 2", "nail polish remover", "lip balm"])
    build_identifiers(KindData(item_texts=items), tmp_path / "out", TitleSettings(kind="titles"), 1, None)
    table = IdentifierTable.load(tmp_path / "out")
    assert table.texts["collaborative"] == ["lip balm", "lip balm 2", "nail polish remover", "lip balm 3"]
    counts = read_record(tmp_path / "out/stage.json")["counts"]["semantic"]
    assert (counts["raw_collision_rate"], counts["collision_rate"]) == (0.5, 0.0)
    # Words and digits are compared one by one.
    rows = table.parts("semantic")
    assert rows.lengths.tolist() == [2, 3, 3, 3]
    assert rows.values[:2].tolist() == rows.values[2:4].tolist() == rows.values[8:10].tolist()


def test_an_item_without_text_is_refused(tmp_path: Path) -> None:
    items = write_titles(tmp_path, ["one", "two"])
    build_identifiers(KindData(item_texts=items), tmp_path / "out", TitleSettings(kind="titles"), 1, None)
    path = tmp_path / "out/identifiers.parquet"
    frame = schema.IDENTIFIERS.read(path).with_columns(collaborative_text=pl.Series(["one", None]))
    schema.IDENTIFIERS.write(frame, path)
    with pytest.raises(UserError, match="item 1 has no text in column 'collaborative_text'"):
        IdentifierTable.load(tmp_path / "out")

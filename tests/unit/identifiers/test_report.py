"""The quality report against pairs counted one by one, and the figure of collision rates."""

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gensar_core import schema
from gensar_core.cli.main import app
from gensar_core.errors import UserError
from gensar_core.evaluation.collision_figure import collision_figure
from gensar_core.identifiers import report as quality
from gensar_core.identifiers.build import build_identifiers
from gensar_core.identifiers.interface import KindData, find_kind, identifier_kinds
from gensar_core.identifiers.report import click_pairs, prefix_counts, quality_report
from gensar_core.identifiers.table import IdentifierTable
from gensar_core.runtime.stage import write_json
from gensar_core.runtime.tensors import save_vectors
from tests.support.ragged import ragged
from tests.support.samples_logs import event, write_canonical
from tests.support.shop import write_corpus_inputs, write_events, write_items, write_queries
from tests.support.small_parts import small_parts
from tests.support.small_quantizer import small_settings

ITEMS = 24


def write_identifiers(folder: Path, codes: list[list[int]]) -> None:
    levels = {"semantic": ["A", "B", "C"], "collaborative": ["C", "B", "A"]}
    backward = [row[::-1] for row in codes]
    write_corpus_inputs(
        folder, texts=[""] * len(codes), semantic=codes, collaborative=backward, levels=levels, codes=ITEMS
    )
    counts = {side: {"raw_collision_rate": 0.25, "usage": [1.0, 1.0, 0.5]} for side in levels}
    write_json(folder / "stage.json", {"counts": {"items": len(codes), **counts}})


def write_clicks(folder: Path, categories: list[list[list[str]]], clicks: list[tuple[int, int]]) -> None:
    log = [event(user, time, item) for time, (user, item) in enumerate(clicks)]
    write_canonical(folder, log, items=len(categories))
    items = schema.ITEMS.read(folder / "items.parquet").with_columns(categories=pl.Series(categories))
    schema.ITEMS.write(items, folder / "items.parquet")


def test_prefix_counts_match_pairs_counted_one_by_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    # Some identifiers end after two codes.
    codes = [[i % 3, i % 2, i][: 2 + (i % 5 > 0)] for i in range(ITEMS)]
    categories: list[list[list[str]]] = [[["root", f"c{rng.integers(4)}"], ["root", "other"]] for _ in range(ITEMS)]
    categories[7] = []
    clicks = [(user, int(item)) for user in range(6) for item in rng.integers(ITEMS, size=8)]
    write_identifiers(tmp_path / "identifiers", codes)
    write_clicks(tmp_path / "canonical", categories, clicks)
    quality_report(tmp_path / "identifiers", tmp_path / "canonical", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert report["sides"] == ["semantic", "collaborative"]
    assert report["semantic"]["raw_collision_rate"] == 0.25

    pairs = list(itertools.combinations(range(ITEMS), 2))
    in_turn = {
        (min(item, next_item), max(item, next_item))
        for (user, item), (next_user, next_item) in itertools.pairwise(clicks)
        if user == next_user and item != next_item
    }
    categorized = [pair for pair in pairs if 7 not in pair]
    same = {(a, b) for a, b in categorized if categories[a][0] == categories[b][0]}
    prefixes = report["semantic"]["prefixes"]
    assert [counts["length"] for counts in prefixes] == [1, 2]
    for counts in prefixes:
        length = counts["length"]
        sharing = [(a, b) for a, b in pairs if codes[a][:length] == codes[b][:length]]
        assert counts["pairs"] == len(sharing)
        for name, hits, of_all in (("clicked_in_turn", in_turn, pairs), ("same_category", same, categorized)):
            share = len(hits.intersection(sharing)) / len(set(sharing).intersection(of_all))
            chance = len(hits) / len(of_all)
            assert counts[name] == pytest.approx({"share": share, "chance": chance, "lift": share / chance})


def test_prefixes_of_texts_are_their_first_words(tmp_path: Path) -> None:
    texts = ["red lip balm", "red lip balm 2", "red nail polish", "nail polish", "10", "12"]
    write_identifiers(tmp_path / "identifiers", [[item] for item in range(len(texts))])
    path = tmp_path / "identifiers/identifiers.parquet"
    schema.IDENTIFIERS.write(schema.IDENTIFIERS.read(path).with_columns(semantic_text=pl.Series(texts)), path)
    vocabulary = json.loads((tmp_path / "identifiers/vocabulary.json").read_text())
    write_json(tmp_path / "identifiers/vocabulary.json", {**vocabulary, "semantic": {"rows": "text"}})
    write_clicks(tmp_path / "canonical", [[["c"]]] * len(texts), [(0, 0), (0, 1)])
    quality_report(tmp_path / "identifiers", tmp_path / "canonical", tmp_path / "out")
    prefixes = json.loads((tmp_path / "out/quality.json").read_text())["semantic"]["prefixes"]
    # Three begin with red and two with the digit 1; two of the former go on with lip balm.
    assert [(one["length"], one["pairs"]) for one in prefixes] == [(1, 4), (2, 1), (3, 1)]


def test_repeated_clicks_and_changes_of_user_make_no_pair(tmp_path: Path) -> None:
    clicks = [(0, 5), (0, 5), (0, 2), (1, 2), (1, 5), (1, 2)]
    write_clicks(tmp_path, [[["c"]]] * 6, clicks)
    assert click_pairs(tmp_path / "events.parquet").tolist() == [[2, 5]]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, 2**31 - 1]))), st.integers(1, 7))
def test_pairs_do_not_depend_on_the_parts_that_are_read(clicks: list[tuple[int, int]], size: int) -> None:
    clicks = sorted(clicks, key=lambda click: click[0])
    expected = {
        tuple(sorted((item, next_item)))
        for (user, item), (next_user, next_item) in itertools.pairwise(clicks)
        if user == next_user and item != next_item
    }
    with tempfile.TemporaryDirectory() as name, small_parts(size, quality):
        write_events(Path(name), [(user, 0, "rec", item, None, None) for user, item in clicks], "events")
        pairs = click_pairs(Path(name) / "events.parquet")
        assert pairs.shape == (len(expected), 2)
        assert list(map(tuple, pairs.tolist())) == sorted(expected)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_shares_do_not_depend_on_how_many_pairs_are_counted_at_once(size: int) -> None:
    rows, pairs = ragged([[0, 0], [0, 0], [0, 1], [1, 0]]), np.array([[0, 1], [0, 2], [0, 3], [1, 3], [2, 3]])
    whole = prefix_counts(rows, np.zeros(4, dtype=np.int64), pairs)
    # Of 3 pairs with the same first code 2 were clicked in turn, as 5 of all 6.
    assert whole[0]["clicked_in_turn"] == {"share": 2 / 3, "chance": 5 / 6, "lift": 2 / 3 / (5 / 6)}
    with small_parts(size, quality):
        assert prefix_counts(rows, np.zeros(4, dtype=np.int64), pairs) == whole


def test_a_report_of_another_data_set_is_refused(tmp_path: Path) -> None:
    write_identifiers(tmp_path / "identifiers", [[0, 0, 0], [0, 0, 1]])
    write_clicks(tmp_path / "canonical", [[["c"]]], [(0, 0)])
    with pytest.raises(UserError, match=r"has 2 items, but .*items.parquet has 1"):
        quality_report(tmp_path / "identifiers", tmp_path / "canonical", tmp_path / "out")


def test_the_figure_shows_each_sides_rate(tmp_path: Path) -> None:
    rates = {"joint": {"semantic": 0.0012, "collaborative": 0.0345}, "only_semantic": {"semantic": 0.0678}}
    for name, sides in rates.items():
        report = {side: {"raw_collision_rate": rate} for side, rate in sides.items()}
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "quality.json", {"sides": list(sides), **report})
    for figure in ("one", "two"):
        collision_figure(list(rates), [tmp_path / name / "quality.json" for name in rates], tmp_path / figure)
    drawn = (tmp_path / "one.svg").read_text()
    for shown in ("0.12 %", "3.45 %", "6.78 %", "joint, semantic", "joint, collaborative", "only_semantic, semantic"):
        assert shown in drawn
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    record = json.loads((tmp_path / "one.stage.json").read_text())
    assert record["counts"] == {"raw_collision_rate": rates}


#: Settings of every kind for the shop below.
KINDS: dict[str, dict[str, Any]] = {
    "rqvae": small_settings().model_dump(),
    "rq_kmeans": {"codebook_size": 8, "shared_levels": 1, "specific_levels": 2},
    "clusters": {"parts": 2, "leaf_size": 6},
    "numbers": {},
    "titles": {},
    "product": {"subspaces": 2, "codebook_size": 4},
    "genret": {
        "levels": 1, "codebook_size": 4, "backbone": "scratch", "tokenizer": "trained", "vocabulary_size": 400,
        "size": {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1},
        "epochs": 1,
    },
}  # fmt: skip


def test_each_kind_is_tried() -> None:
    assert KINDS.keys() == set(identifier_kinds())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_reported_drawn_and_explained(kind: str, tmp_path: Path) -> None:
    """Twelve items of two colors; users click and search within a color."""
    canonical, folder = tmp_path / "shop/canonical", tmp_path / "shop/identifiers/one"
    color = [item % 2 for item in range(12)]
    write_items(canonical, [f"{('red', 'blue')[c]} lamp {chr(97 + item)}" for item, c in enumerate(color)], [["lamps"]])
    write_queries(canonical, ["red lamp", "blue lamp"])
    clicks = [(user, time, item) for user in range(6) for time, item in enumerate(range(user % 2, 12, 2))]
    rows = [(user, time, "rec", item, None, None) for user, time, item in clicks]
    rows += [(user, 10 + time, "search", item, item % 2, 10 * user + time) for user, time, item in clicks]
    for name in ("events", "training_events"):
        write_events(canonical, sorted(rows), name)
    vectors = np.random.default_rng(0).standard_normal((12, 4)) + 4 * np.array(color)[:, None]
    save_vectors({"items": vectors.astype(np.float32)}, tmp_path / "vectors.safetensors")
    given = find_kind(kind).settings.model_validate({**KINDS[kind], "kind": kind})
    data = KindData(
        {"semantic": tmp_path / "vectors.safetensors"},
        canonical / "training_events.parquet",
        canonical / "queries.parquet",
        canonical / "items.parquet",
    )
    build_identifiers(data, folder, given, 1, None)

    quality_report(folder, canonical, folder)
    report = json.loads((folder / "quality.json").read_text())
    assert report["items"] == 12
    for side in report["sides"]:
        assert report[side]["collision_rate"] == 0.0
        assert all(0 < one["pairs"] <= 66 for one in report[side]["prefixes"])

    collision_figure([kind], [folder / "quality.json"], tmp_path / "figure")
    rates = {side: report[side]["raw_collision_rate"] for side in report["sides"]}
    assert json.loads((tmp_path / "figure.stage.json").read_text())["counts"] == {"raw_collision_rate": {kind: rates}}

    done = CliRunner().invoke(app, ["explain", "i0", str(folder)], catch_exceptions=False)
    table = IdentifierTable.load(folder)
    assert done.output.splitlines()[0] == "item 0  i0  red lamp a"
    assert all(table.text(side, 0) in done.output for side in schema.SIDES)

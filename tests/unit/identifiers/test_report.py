"""The quality report against pairs counted one by one, and the figure of collision rates."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.evaluation.collision_figure import collision_figure
from gensar_core.identifiers.report import click_pairs, quality_report
from gensar_core.runtime.stage import write_json

ITEMS = 24


def write_identifiers(folder: Path, rows: list[list[int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    moved = [False] * len(rows)
    columns = {"item_id": range(len(rows)), "semantic": rows, "collaborative": [row[::-1] for row in rows]}
    frame = pl.DataFrame({**columns, "semantic_moved": moved, "collaborative_moved": moved})
    schema.IDENTIFIERS.write(frame, folder / "identifiers.parquet")
    scheme = {"levels": ["A", "B", "C"], "sizes": [3, 3, 24]}
    back = {"levels": ["C", "B", "A"], "sizes": [24, 24, 24]}
    write_json(folder / "vocabulary.json", {"semantic": scheme, "collaborative": back})
    counts = {side: {"raw_collision_rate": 0.25, "usage": [1.0, 1.0, 0.5]} for side in ("semantic", "collaborative")}
    write_json(folder / "stage.json", {"counts": {"items": len(rows), **counts}})


def write_canonical(folder: Path, paths: list[list[list[str]]], clicks: list[tuple[int, int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    n = len(paths)
    text = {name: [""] * n for name in ("title", "description", "brand", "text")}
    items = pl.DataFrame({"item_id": range(n), "raw_id": [str(i) for i in range(n)], "categories": paths, **text})
    schema.ITEMS.write(items, folder / "items.parquet")
    users, clicked = zip(*clicks, strict=True)
    events = pl.DataFrame(
        {
            "event_id": range(len(clicks)),
            "user_id": users,
            "time": range(len(clicks)),
            "task": ["rec"] * len(clicks),
            "item_id": clicked,
            "query_id": [None] * len(clicks),
            "session_id": [None] * len(clicks),
        }
    )
    schema.EVENTS.write(events, folder / "events.parquet")


@pytest.fixture
def shop(tmp_path: Path) -> tuple[list[list[int]], list[list[list[str]]], list[tuple[int, int]]]:
    source = np.random.default_rng(2)
    # Some identifiers end after two codes.
    rows = [[i % 3, i % 2, i][: 2 + (i % 5 > 0)] for i in range(ITEMS)]
    paths: list[list[list[str]]] = [[["root", f"c{int(source.integers(4))}"], ["root", "other"]] for _ in range(ITEMS)]
    paths[7] = []
    clicks = [(user, int(item)) for user in range(6) for item in source.integers(ITEMS, size=8)]
    write_identifiers(tmp_path / "identifiers", rows)
    write_canonical(tmp_path / "canonical", paths, clicks)
    return rows, paths, clicks


def clicked_in_turn(clicks: list[tuple[int, int]]) -> set[tuple[int, int]]:
    found = set()
    for (user, item), (next_user, next_item) in itertools.pairwise(clicks):
        if user == next_user and item != next_item:
            found.add((min(item, next_item), max(item, next_item)))
    return found


def test_prefixes_tell_of_category_and_clicks_what_pairs_counted_one_by_one_tell(
    shop: tuple[list[list[int]], list[list[list[str]]], list[tuple[int, int]]], tmp_path: Path
) -> None:
    rows, paths, clicks = shop
    quality_report(tmp_path / "identifiers", tmp_path / "canonical", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert report["sides"] == ["semantic", "collaborative"]
    assert report["semantic"]["raw_collision_rate"] == 0.25
    everything = list(itertools.combinations(range(ITEMS), 2))
    turns = clicked_in_turn(clicks)
    prefixes = report["semantic"]["prefixes"]
    assert [counts["length"] for counts in prefixes] == [1, 2]
    for counts in prefixes:
        length = counts["length"]
        sharing = [(a, b) for a, b in everything if rows[a][:length] == rows[b][:length]]
        assert counts["pairs"] == len(sharing)
        found = counts["clicked_in_turn"]
        assert found["share"] == pytest.approx(sum(pair in turns for pair in sharing) / len(sharing))
        assert found["chance"] == pytest.approx(len(turns) / len(everything))
        assert found["lift"] == pytest.approx(found["share"] / found["chance"])
        known = [(a, b) for a, b in everything if paths[a] and paths[b]]
        together = [pair for pair in sharing if pair in set(known)]
        found = counts["same_category"]
        assert found["share"] == pytest.approx(sum(paths[a][0] == paths[b][0] for a, b in together) / len(together))
        assert found["chance"] == pytest.approx(sum(paths[a][0] == paths[b][0] for a, b in known) / len(known))


def test_identifiers_that_are_the_category_predict_it_surely(tmp_path: Path) -> None:
    write_identifiers(tmp_path / "identifiers", [[i % 3, 0, i] for i in range(ITEMS)])
    write_canonical(tmp_path / "canonical", [[["root", f"c{i % 3}"]] for i in range(ITEMS)], [(0, 1), (0, 4), (1, 2)])
    quality_report(tmp_path / "identifiers", tmp_path / "canonical", tmp_path / "out")
    first = json.loads((tmp_path / "out" / "quality.json").read_text())["semantic"]["prefixes"][0]
    assert first["same_category"]["share"] == 1.0
    # 3 groups of 8 items: 3 * 28 of 276 pairs.
    assert first["same_category"]["chance"] == pytest.approx(84 / 276)
    # The one pair clicked in turn, 1 and 4, shares its first code.
    assert first["clicked_in_turn"]["share"] == pytest.approx(1 / 84)
    assert first["clicked_in_turn"]["chance"] == pytest.approx(1 / 276)


def test_repeated_clicks_and_changes_of_user_make_no_pair() -> None:
    events = pl.DataFrame({"user_id": [0, 0, 0, 1, 1, 1], "item_id": [5, 5, 2, 2, 5, 2]})
    assert click_pairs(events).tolist() == [[2, 5]]


def test_a_report_of_another_data_set_is_refused(tmp_path: Path) -> None:
    write_identifiers(tmp_path / "identifiers", [[0, 0, 0], [0, 0, 1]])
    write_canonical(tmp_path / "canonical", [[["c"]]], [(0, 0)])
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

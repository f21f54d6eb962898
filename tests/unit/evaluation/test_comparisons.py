"""Figures of rows side by side: the numbers drawn, the bytes repeatable, and what cannot be drawn refused."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.config.experiments import read_experiments
from gensar_core.config.tables import FigureSettings
from gensar_core.errors import UserError
from gensar_core.evaluation.comparison_figures import comparison_figure, points
from tests.unit.evaluation.test_tables import ranks_file


def both_tasks(folder, name, rec, search):
    parts = [ranks_file(folder, name, rec), ranks_file(folder, f"{name}_s", search, "search", first_sample=100)]
    schema.RANKS.write(pl.concat([schema.RANKS.read(part) for part in parts]), parts[0])
    return parts[0]


def test_the_numbers_drawn_are_means_with_their_intervals(tmp_path):
    ranks = {"a": ranks_file(tmp_path, "a", [1, 1, 9, 9])}
    row = points(ranks, FigureSettings(series=[{"label": "A", "rows": ["a"]}], metrics=["hr@5"])).row(0, named=True)
    assert (row["series"], row["row"], row["task"], row["metric"], row["mean"]) == ("A", "a", "rec", "hr@5", 0.5)
    assert row["error"] == pytest.approx(1.96 * 0.5 / math.sqrt(4))


def test_bars_of_two_tasks(tmp_path):
    ranks = {name: both_tasks(tmp_path, name, [1, 7], [2, 30]) for name in ("a", "b")}
    settings = FigureSettings(series=[{"label": "first", "rows": ["a"]}, {"label": "second one", "rows": ["b"]}])
    for folder in ("one", "two"):
        comparison_figure(ranks, settings, tmp_path / folder / "kinds")
    svg = (tmp_path / "one/kinds.svg").read_text()
    for word in ("recommendation", "search", "first", "second one", "HR@5", "NDCG@5"):
        assert f">{word}<" in svg
    assert svg == (tmp_path / "two/kinds.svg").read_text()
    assert len(pl.read_csv(tmp_path / "one/kinds.csv")) == 8


def test_a_tradeoff_takes_rows_of_both_tasks_and_bars_one_row_a_task(tmp_path):
    ranks = {"joint": both_tasks(tmp_path, "joint", [1, 2], [3, 4]), "rec": ranks_file(tmp_path, "rec", [1, 2])}
    comparison_figure(
        ranks, FigureSettings(kind="tradeoff", series=[{"label": "J", "rows": ["joint"]}]), tmp_path / "out/t"
    )
    assert "recommendation, HR@5" in (tmp_path / "out/t.svg").read_text()
    with pytest.raises(UserError, match="series 'J': a trade-off takes rows that rank both tasks"):
        comparison_figure(
            ranks,
            FigureSettings(kind="tradeoff", series=[{"label": "J", "rows": ["joint", "rec"]}]),
            tmp_path / "out/u",
        )
    with pytest.raises(UserError, match="series 'J' has several rows that rank rec; keep one"):
        comparison_figure(ranks, FigureSettings(series=[{"label": "J", "rows": ["joint", "rec"]}]), tmp_path / "out/v")
    assert not (tmp_path / "out/u.svg").exists()


def test_rows_of_other_tasks_may_share_a_series(tmp_path):
    ranks = {
        "rec": ranks_file(tmp_path, "rec", [1]),
        "search": ranks_file(tmp_path, "search", np.array([2.0]), "search"),
    }
    comparison_figure(ranks, FigureSettings(series=[{"label": "ID", "rows": ["rec", "search"]}]), tmp_path / "out/ids")
    assert pl.read_csv(tmp_path / "out/ids.csv")["task"].unique().sort().to_list() == ["rec", "search"]


def test_figure_1b_sets_ids_against_texts_in_either_task(tmp_path):
    config = read_experiments(Path(__file__).parents[3] / "config.yaml")
    figure = config.figures["id_and_text"]
    # Ranks 1 and 6 give HR@5 of one half; the search of items by their texts finds both.
    ranks = {row: ranks_file(tmp_path, row, [1, 6]) for row in ("sasrec", "sasrec_text_only")}
    ranks["qem"] = ranks_file(tmp_path, "qem", [6, 6], "search")
    ranks["qem_text_only"] = ranks_file(tmp_path, "qem_text_only", [1, 2], "search")
    assert figure.rows == ["sasrec", "qem", "sasrec_text_only", "qem_text_only"]
    comparison_figure(ranks, figure, tmp_path / "out/id_and_text")
    drawn = pl.read_csv(tmp_path / "out/id_and_text.csv").filter(pl.col("metric") == "hr@5")
    assert dict(zip(zip(drawn["task"], drawn["series"], strict=True), drawn["mean"], strict=True)) == {
        ("rec", "ID"): 0.5, ("search", "ID"): 0.0, ("rec", "text"): 0.5, ("search", "text"): 1.0,
    }  # fmt: skip
    # By text, items have no vector of their own.
    for row in ("sasrec_text_only", "qem_text_only"):
        assert config.methods[row].own()["item_vectors"] == "text"
    assert "id_and_text" in config.datasets["amazon"].experiments


def test_rows_of_other_targets_are_not_drawn_together(tmp_path):
    ranks = {"a": ranks_file(tmp_path, "a", [1, 2]), "b": ranks_file(tmp_path, "b", [1, 2], first_sample=1)}
    settings = FigureSettings(series=[{"label": "A", "rows": ["a"]}, {"label": "B", "rows": ["b"]}])
    with pytest.raises(UserError, match=r"b\.parquet ranks other test targets than \S+a\.parquet"):
        comparison_figure(ranks, settings, tmp_path / "out" / "f")
    valid = ranks_file(tmp_path, "valid", [1], split="valid")
    with pytest.raises(UserError, match=r"valid\.parquet: holds no ranks of test targets"):
        points({"a": valid}, FigureSettings(series=[{"label": "A", "rows": ["a"]}]))

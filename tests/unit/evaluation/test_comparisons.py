"""Figures of rows side by side: the numbers drawn, equal bytes, and rows that cannot be drawn."""

import math
from pathlib import Path

import polars as pl
import pytest

from gensar_core.config.experiments import read_experiments
from gensar_core.config.tables import FigureSettings
from gensar_core.errors import UserError
from gensar_core.evaluation.comparison_figures import comparison_figure, points
from tests.unit.evaluation.test_tables import joined, ranks_file


def both_tasks(folder, name, rec, search):
    return joined(ranks_file(folder, name, rec), ranks_file(folder, f"{name}_s", search, "search", first_sample=100))


def figure(kind="bars", **series):
    """Return the settings of a figure whose series have these rows."""
    return FigureSettings(kind=kind, series=[{"label": label, "rows": rows} for label, rows in series.items()])


def test_the_numbers_drawn_are_means_with_their_intervals(tmp_path):
    table = points({"a": ranks_file(tmp_path, "a", [1, 1, 9, 9])}, figure(A=["a"]))
    assert table.row(0)[:5] == ("A", "a", "rec", "hr@5", 0.5)
    assert table["error"][0] == pytest.approx(1.96 * 0.5 / math.sqrt(4))


def test_bars_of_two_tasks_are_drawn_with_equal_bytes(tmp_path):
    ranks = {name: both_tasks(tmp_path, name, [1, 7], [2, 30]) for name in ("a", "b")}
    for folder in ("one", "two"):
        comparison_figure(ranks, figure(first=["a"], second=["b"]), tmp_path / folder / "kinds")
    svg = (tmp_path / "one/kinds.svg").read_text()
    for word in ("recommendation", "search", "first", "second", "HR@5", "NDCG@5"):
        assert f">{word}<" in svg
    assert svg == (tmp_path / "two/kinds.svg").read_text()
    assert len(pl.read_csv(tmp_path / "one/kinds.csv")) == 8


def test_a_tradeoff_draws_rows_of_both_tasks(tmp_path):
    ranks = {"joint": both_tasks(tmp_path, "joint", [1, 2], [3, 4])}
    comparison_figure(ranks, figure("tradeoff", J=["joint"]), tmp_path / "out/t")
    assert "recommendation, HR@5" in (tmp_path / "out/t.svg").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (figure("tradeoff", J=["joint", "rec"]), "series 'J': a trade-off takes rows that rank both tasks"),
        (figure(J=["joint", "rec"]), "series 'J' has several rows that rank rec; keep one"),
        (figure(A=["rec"], B=["other"]), r"other\.parquet ranks other test targets than \S+rec\.parquet"),
    ],
)
def test_rows_that_cannot_be_drawn_together_are_refused(tmp_path, settings, message):
    ranks = {"joint": both_tasks(tmp_path, "joint", [1, 2], [3, 4]), "rec": ranks_file(tmp_path, "rec", [1, 2])}
    ranks["other"] = ranks_file(tmp_path, "other", [1, 2], first_sample=1)
    with pytest.raises(UserError, match=message):
        comparison_figure({row: ranks[row] for row in settings.rows}, settings, tmp_path / "out/f")
    assert not (tmp_path / "out/f.svg").exists()


def test_figure_1b_compares_ids_with_texts_in_either_task(tmp_path):
    config = read_experiments(Path(__file__).parents[3] / "config.yaml")
    settings = config.figures["id_and_text"]
    # Ranks 1 and 6 give HR@5 of one half; the search of items by their texts finds both.
    ranks = {row: ranks_file(tmp_path, row, [1, 6]) for row in ("sasrec", "sasrec_text_only")}
    ranks["qem"] = ranks_file(tmp_path, "qem", [6, 6], "search")
    ranks["qem_text_only"] = ranks_file(tmp_path, "qem_text_only", [1, 2], "search")
    assert settings.rows == ["sasrec", "qem", "sasrec_text_only", "qem_text_only"]
    # A series joins rows of different tasks.
    comparison_figure(ranks, settings, tmp_path / "out/id_and_text")
    drawn = pl.read_csv(tmp_path / "out/id_and_text.csv").filter(pl.col("metric") == "hr@5")
    assert set(drawn.select("task", "series", "mean").rows()) == {
        ("rec", "ID", 0.5), ("search", "ID", 0.0), ("rec", "text", 0.5), ("search", "text", 1.0),
    }  # fmt: skip
    # By text, items have no learned vectors.
    for row in ("sasrec_text_only", "qem_text_only"):
        assert config.methods[row].own()["item_vectors"] == "text"
    assert "id_and_text" in config.datasets["amazon"].experiments

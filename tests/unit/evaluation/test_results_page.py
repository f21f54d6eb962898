"""`gensar results-page`: what stands on the page, how long whiskers are, and tables that cannot be shown."""

import math
import re

import polars as pl
import pytest
from typer.testing import CliRunner

from gensar_core.cli.main import app
from gensar_core.errors import UserError
from gensar_core.evaluation.results_page import BEGIN, END, finished_tables, results_page, whiskers
from gensar_core.evaluation.tables import metric_table
from tests.unit.evaluation.test_tables import joined, ranks_file


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Make the results of a shop: methods `a`, trained with two seeds, and `b`, their table, and its costs."""
    monkeypatch.chdir(tmp_path)
    ranks = tmp_path / "results/shop/ranks"
    ranks.mkdir(parents=True)
    for name, rec, search in (("a", [1, 9, 9, 9], [2, 30]), ("a-seed7", [1, 1, 9, 9], [2, 30]), ("b", [2] * 4, [9, 1])):
        joined(ranks_file(ranks, name, rec), ranks_file(ranks, f"{name}_s", search, "search", first_sample=100))
    files = [ranks.relative_to(tmp_path) / f"{name}.parquet" for name in ("a", "a-seed7", "b")]
    metric_table(files, ["a", "a", "b"], tmp_path / "results/tables/shop")
    costs = {"method": ["a", "b"], "tasks": ["rec+search"] * 2, "parameters": [10, 0], "training seconds": [12.5, 0.0]}
    pl.DataFrame(costs).write_csv("results/tables/shop_costs.csv")
    (tmp_path / "results/tables/shop_costs.md").write_text(
        "| method | training seconds |\n| --- | --- |\n| a | 12.5 |\n"
    )
    return tmp_path / "results"


def test_the_page_holds_the_tables_and_their_plots(results, tmp_path):
    done = CliRunner().invoke(app, ["results-page", "results", "--output", "docs/results.md"], catch_exceptions=False)
    assert done.stdout == "docs/results.md: 1 tables (shop)\n"
    text = (tmp_path / "docs/results.md").read_text()
    assert (results / "tables/shop.md").read_text() in text
    assert (results / "tables/shop_costs.md").read_text() in text
    assert "Whiskers are 95 % intervals over targets." in text
    plots = re.findall(r"\]\((\S+\.svg)\)", text)
    assert plots == ["results_plots/shop.svg", "results_plots/shop_costs.svg"]
    for plot in plots:
        svg = (tmp_path / "docs" / plot).read_text()
        assert all(f">{word}<" in svg for word in ("recommendation", "search", "NDCG@5", "a", "b"))
    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == ["results.md", "results_plots"]


def test_only_the_lines_between_the_marks_change(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Ours\n\nFindings.\n\n{BEGIN}\nold\n{END}\n\nMore.\n")
    results_page([results], page)
    text = page.read_text()
    assert text.startswith(f"# Ours\n\nFindings.\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\nMore.\n")
    assert "old" not in text
    results_page([results], page)
    assert page.read_text() == text


def test_a_page_without_marks_is_not_touched(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Ours\n")
    with pytest.raises(UserError, match=r"page\.md: has no lines .*begin.* and .*end.*; add both"):
        results_page([results], page)
    assert page.read_text() == "# Ours\n"
    assert not (tmp_path / "page_plots").exists()


def test_whiskers_over_targets_are_of_the_mean_over_seeds(results):
    kind, errors = whiskers(next(finished_tables(results)))
    # Gains of a's four targets over its two seeds: 1, 1/2, 0, 0.
    deviation = math.sqrt((1 + 0.25) / 4 - 0.375**2)
    assert kind == "targets"
    assert errors["rec", "a"] == pytest.approx(1.96 * deviation / 2)
    assert errors["rec", "b"] == pytest.approx(0.0)
    # Of two targets in search, one is hit at rank 2.
    assert errors["search", "a"] == pytest.approx(1.96 * (1 / math.log2(3) / 2) / math.sqrt(2))


def test_without_ranks_whiskers_are_deviations_over_seeds(results):
    (results / "shop/ranks/b.parquet").unlink()
    kind, errors = whiskers(next(finished_tables(results)))
    assert kind == "seeds"
    # Seeds reach 1/4 and 1/2 in recommendation and the same in search; `b` has one file.
    assert errors == pytest.approx({("rec", "a"): math.sqrt(2) / 8, ("search", "a"): 0.0}, abs=1e-6)


def test_ranks_newer_than_their_table_are_refused(results):
    ranks_file(results / "shop/ranks", "b", [1, 1, 1, 1])
    with pytest.raises(UserError, match=r"b\.parquet: has changed since .*shop\.csv was made; build the table again"):
        results_page([results], results / "page.md")
    assert not (results / "page.md").exists()


def test_two_tables_of_one_name_are_refused(results, tmp_path):
    (tmp_path / "other/tables").mkdir(parents=True)
    (tmp_path / "other/tables/shop.csv").write_bytes((results / "tables/shop.csv").read_bytes())
    with pytest.raises(UserError, match=r"other/tables/shop\.csv and \S+results/tables/shop\.csv have one name"):
        results_page([results, tmp_path / "other"], tmp_path / "page.md")


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no metric table in tables/; build one"):
        results_page([tmp_path], tmp_path / "page.md")

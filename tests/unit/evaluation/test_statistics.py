"""Statistics of a shop small enough to count by hand."""

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.evaluation.statistics import Counts, _by_rank, data_statistics
from gensar_core.evaluation.table_formats import markdown_table
from gensar_core.runtime import reading

NO_QUERY = [None, 0, None, None, None]
COLUMNS = {
    "events": {
        "event_id": range(5), "user_id": [0, 0, 0, 1, 1], "time": [1, 1, 2, 5, 6], "item_id": [0, 0, 1, 2, 2],
        "task": ["rec", "search", "rec", "rec", "rec"], "query_id": NO_QUERY, "session_id": NO_QUERY,
    },
    "items": {
        "item_id": range(4), "raw_id": ["a", "b", "c", "d"], "title": ["red lamp", "lamp", "", "blue lamp"],
        "description": ["it is red", "", "", ""], "brand": "", "categories": [[["Home", "Lamps"]], [], [], []],
        "text": ["red lamp it is red", "lamp", "", "blue lamp"],
    },
    "queries": {"query_id": [0], "text": ["home lamp"]},
    "samples": {
        "sample_id": [0], "task": ["rec"], "split": ["test"], "user_id": [0], "time": [2], "event_id": [2],
        "target_item": [1], "query_id": [None], "history_behavior": [[0, 1, 2]], "history_object": [[0, 0, 0]],
    },
}  # fmt: skip
TABLES = {name: schema.TABLES[name].check(pl.DataFrame(columns)) for name, columns in COLUMNS.items()}


@pytest.fixture
def shop(tmp_path):
    for name, table in TABLES.items():
        schema.TABLES[name].write(table, tmp_path / f"{name}.parquet")
    return tmp_path


@pytest.mark.parametrize("rows", [1, 2, 3, 99])
def test_counts_by_hand_however_many_rows_are_read_at_a_time(shop, monkeypatch, rows):
    monkeypatch.setattr(reading, "PART_ROWS", rows)
    counts = Counts.of(shop, shop).statistics()
    assert counts == counts | {
        "users": 2, "items": 4, "queries": 1, "events_rec": 4, "events_search": 1,
        "interactions_rec": 1, "interactions_search": 0,
        # Recommendation clicks touch the pairs (0, 0), (0, 1), (1, 2) of 2 x 4.
        "density_rec": 3 / 8, "density_search": 1 / 8,
        "mean_recommendations_before_rec": 1.0, "mean_searches_before_rec": 1.0,
        "items_with_text": 3, "items_with_description": 1, "mean_words_per_query": 2.0,
    }  # fmt: skip


def test_equal_clicks_are_drawn_by_their_first_and_last_rank():
    ranks, clicks = _by_rank(np.array([2, 0, 7, 2, 2, 1]))
    assert ranks.tolist() == [1, 1, 2, 4, 5, 5]
    assert clicks.tolist() == [7, 7, 2, 2, 1, 1]


def test_table_and_figure_are_written_with_equal_bytes(shop, tmp_path):
    written = []
    for run in ("first", "second"):
        table, figure = tmp_path / run / "shop_statistics", tmp_path / run / "shop_distributions"
        data_statistics("shop", shop, shop, table, figure)
        names = ("shop_statistics.csv", "shop_statistics.md", "shop_distributions.svg", "shop_distributions.png")
        written.append([(tmp_path / run / name).read_bytes() for name in names])
    assert written[0] == written[1]
    row = pl.read_csv(tmp_path / "first" / "shop_statistics.csv").row(0, named=True)
    assert (row["dataset"], row["users"], row["items"]) == ("shop", 2, 4)
    # Labels stay text, so that the figure can be searched.
    assert "rank of the item" in (tmp_path / "first" / "shop_distributions.svg").read_text()


def test_a_markdown_table_is_padded_and_escapes_bars():
    assert markdown_table(["a", "b"], [["x|y", 1]]) == "| a    | b   |\n| ---- | --- |\n| x\\|y | 1   |\n"

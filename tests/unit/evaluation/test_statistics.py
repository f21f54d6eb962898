"""Statistics of a shop small enough to count by hand."""

import polars as pl
import pytest

from gensar_core import schema
from gensar_core.evaluation.markdown import markdown_table
from gensar_core.evaluation.statistics import data_statistics, statistics


@pytest.fixture
def tables():
    events = pl.DataFrame(
        {
            "event_id": [0, 1, 2, 3, 4],
            "user_id": [0, 0, 0, 1, 1],
            "time": [1, 1, 2, 5, 6],
            "task": ["rec", "search", "rec", "rec", "rec"],
            "item_id": [0, 0, 1, 2, 2],
            "query_id": [None, 0, None, None, None],
            "session_id": [None, 0, None, None, None],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": [0, 1, 2, 3],
            "raw_id": ["a", "b", "c", "d"],
            "title": ["red lamp", "lamp", "", "blue lamp"],
            "description": ["it is red", "", "", ""],
            "brand": [""] * 4,
            "categories": [[["Home", "Lamps"]], [], [], []],
            "text": ["red lamp it is red", "lamp", "", "blue lamp"],
        }
    )
    queries = pl.DataFrame({"query_id": [0], "text": ["home lamp"]})
    samples = pl.DataFrame(
        {
            "sample_id": [0],
            "task": ["rec"],
            "split": ["test"],
            "user_id": [0],
            "time": [2],
            "event_id": [2],
            "target_item": [1],
            "query_id": [None],
            "history_behavior": [[0, 1, 2]],
            "history_object": [[0, 0, 0]],
        }
    )
    return (
        schema.EVENTS.check(events),
        schema.ITEMS.check(items),
        schema.QUERIES.check(queries),
        schema.SAMPLES.check(samples),
    )


def test_counts_by_hand(tables):
    found = statistics(*tables)
    assert (found["users"], found["items"], found["queries"]) == (2, 4, 1)
    assert (found["events_rec"], found["events_search"]) == (4, 1)
    assert (found["interactions_rec"], found["interactions_search"]) == (1, 0)
    # Recommendation clicks touch the pairs (0, 0), (0, 1), (1, 2) of 2 x 4.
    assert (found["density_rec"], found["density_search"]) == (3 / 8, 1 / 8)
    assert (found["mean_recommendations_before_rec"], found["mean_searches_before_rec"]) == (1.0, 1.0)
    assert (found["items_with_text"], found["items_with_description"]) == (3, 1)
    assert found["mean_words_per_query"] == 2.0


def test_table_and_figure_are_written_with_equal_bytes(tables, tmp_path):
    for name, table in zip(("events", "items", "queries", "samples"), tables, strict=True):
        schema.TABLES[name].write(table, tmp_path / f"{name}.parquet")
    written = []
    for run in ("first", "second"):
        table, figure = tmp_path / run / "shop_statistics", tmp_path / run / "shop_distributions"
        data_statistics("shop", tmp_path, tmp_path, table, figure)
        names = ("shop_statistics.csv", "shop_statistics.md", "shop_distributions.svg", "shop_distributions.png")
        written.append([(tmp_path / run / name).read_bytes() for name in names])
    assert written[0] == written[1]
    row = pl.read_csv(tmp_path / "first" / "shop_statistics.csv").row(0, named=True)
    assert (row["dataset"], row["users"], row["items"]) == ("shop", 2, 4)
    # Labels stay text, so that the figure can be searched.
    assert "rank of the item" in (tmp_path / "first" / "shop_distributions.svg").read_text()


def test_a_markdown_table_is_padded_and_escapes_bars():
    assert markdown_table(["a", "b"], [["x|y", 1]]) == "| a    | b   |\n| ---- | --- |\n| x\\|y | 1   |\n"

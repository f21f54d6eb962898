"""Metrics by the training clicks of a target, counted by hand."""

import json

import polars as pl
import pytest

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.evaluation.cold_items import cold_metrics, cold_table

#: Training clicks by item; item 4 has none.
CLICKS = {0: 5, 1: 6, 2: 20, 3: 21}


def events_file(folder):
    items = [item for item, count in CLICKS.items() for _ in range(count)]
    tasks = [schema.TASKS[number % 2] for number in range(len(items))]
    columns = {"user_id": 0, "time": 0, "task": tasks, "item_id": items, "query_id": None, "session_id": None}
    schema.EVENTS.write(pl.DataFrame({"event_id": range(len(items)), **columns}), folder / "events.parquet")
    return folder / "events.parquet"


def ranks_file(path, ranks, task="rec", last=0):
    """The test ranks of targets, each an item and its rank, with a record of how many cold items rank last."""
    samples = range(len(ranks)) if task == "rec" else range(100, 100 + len(ranks))
    columns = {"task": task, "split": "test", "sample_id": samples, "user_id": 0}
    items, places = zip(*ranks, strict=True)
    frame = pl.DataFrame({**columns, "target_item": items, "rank": [float(rank) for rank in places], "n_candidates": 9})
    schema.RANKS.write(frame, path)
    path.with_suffix(".stage.json").write_text(json.dumps({"counts": {"cold_items_last": last}}))
    return path


def test_targets_are_grouped_by_their_training_clicks_in_both_tasks(tmp_path):
    path = ranks_file(tmp_path / "a.parquet", [(4, 1), (0, 2), (1, 1), (2, 3), (3, 9), (3, 1)])
    table = cold_metrics([path], ["a"], events_file(tmp_path))
    assert table.select("task", "clicks", "method", "hr@1", "ndcg@5", "samples").rows() == [
        ("rec", "0", "a", 1.0, 1.0, 1),
        ("rec", "1-5", "a", 0.0, pytest.approx(1 / 1.5849625), 1),
        ("rec", "6-20", "a", 0.5, 0.75, 2),
        ("rec", "more", "a", 0.5, 0.5, 2),
    ]


def test_rows_of_seeds_are_means_and_groups_keep_the_order_of_rows(tmp_path):
    one = ranks_file(tmp_path / "one.parquet", [(0, 1), (3, 1)])
    other = ranks_file(tmp_path / "other.parquet", [(0, 9), (3, 1)])
    search = ranks_file(tmp_path / "search.parquet", [(0, 1)], "search")
    table = cold_metrics([one, other, search, one], ["b", "b", "c", "a"], events_file(tmp_path))
    assert table.select("task", "clicks", "method", "hr@1").rows() == [
        ("rec", "1-5", "b", 0.5),
        ("rec", "1-5", "a", 1.0),
        ("rec", "more", "b", 1.0),
        ("rec", "more", "a", 1.0),
        ("search", "1-5", "c", 1.0),
    ]


def test_table_and_figure_are_written_whole(tmp_path):
    path = ranks_file(tmp_path / "a.parquet", [(4, 1), (3, 2)])
    arguments = [path], ["a"], events_file(tmp_path), tmp_path / "shop_cold", tmp_path / "figures" / "shop_cold"
    cold_table(*arguments)
    assert pl.read_csv(tmp_path / "shop_cold.csv")["samples"].to_list() == [1, 1]
    assert "| more   | a      | 0.0000 |" in (tmp_path / "shop_cold.md").read_text()
    assert (tmp_path / "figures" / "shop_cold.png").stat().st_size > 1000
    ranks_file(path, [(4, 9), (3, 2)], last=1)
    cold_table(*arguments)
    assert pl.read_csv(tmp_path / "shop_cold.csv")["method"].to_list() == ["a (cold items last)"] * 2
    other = ranks_file(tmp_path / "b.parquet", [(4, 1), (2, 2)])
    with pytest.raises(UserError, match="ranks other test targets"):
        cold_table([path, other], ["a", "b"], *arguments[2:])

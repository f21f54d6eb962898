"""Metric tables against ranks small enough to score by hand, and against the loop's own metrics."""

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.evaluation.tables import METRICS, metric_table, metrics
from gensar_core.ranking.metrics import hit_rate, ndcg


def ranks_file(folder, name, values, task="rec", split="test", first_sample=0):
    frame = pl.DataFrame(
        {
            "task": [task] * len(values),
            "split": [split] * len(values),
            "sample_id": range(first_sample, first_sample + len(values)),
            "user_id": range(len(values)),
            "target_item": [7] * len(values),
            "rank": [float(value) for value in values],
            "n_candidates": [100] * len(values),
        }
    )
    schema.RANKS.write(schema.RANKS.check(frame), folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


def test_values_by_hand(tmp_path):
    # Ranks 1, 2, 6 and the tie 1.5: HR@1 1/4; HR@5 3/4; NDCG@5 (1 + 1/log2(3) + 1/log2(2.5)) / 4.
    path = ranks_file(tmp_path, "a", [1, 2, 6, 1.5])
    row = metrics([path], ["a"]).row(0, named=True)
    at5 = 1 + 1 / math.log2(3) + 1 / math.log2(2.5)
    assert (row["task"], row["method"], row["samples"]) == ("rec", "a", 4)
    assert [row["hr@1"], row["hr@5"], row["hr@10"]] == [0.25, 0.75, 1.0]
    assert row["ndcg@5"] == pytest.approx(at5 / 4)
    assert row["ndcg@10"] == pytest.approx((at5 + 1 / math.log2(7)) / 4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 60).map(lambda half: half / 2), min_size=1, max_size=30))
def test_the_query_agrees_with_the_loops_metrics(tmp_path_factory, values):
    path = ranks_file(tmp_path_factory.mktemp("ranks"), "a", values)
    row = metrics([path], ["a"]).row(0, named=True)
    for metric in METRICS:
        name, k = metric.split("@")
        expected = {"hr": hit_rate, "ndcg": ndcg}[name](np.array(values), int(k))
        assert row[metric] == pytest.approx(expected, abs=1e-12)


def test_rows_keep_their_order_and_only_test_counts(tmp_path):
    both = pl.concat(
        [
            schema.RANKS.read(ranks_file(tmp_path, "x", [1], "search", first_sample=50)),
            schema.RANKS.read(ranks_file(tmp_path, "y", [3], "rec")),
            schema.RANKS.read(ranks_file(tmp_path, "z", [99], "rec", "valid", first_sample=90)),
        ]
    )
    schema.RANKS.write(both, tmp_path / "joint.parquet")
    only = ranks_file(tmp_path, "only", [2], "rec")
    metric_table([tmp_path / "joint.parquet", only], ["joint", "only"], tmp_path / "out" / "shop")
    table = pl.read_csv(tmp_path / "out" / "shop.csv")
    assert table.columns == ["task", "method", *METRICS, "samples"]
    assert list(table.select("task", "method").iter_rows()) == [("rec", "joint"), ("rec", "only"), ("search", "joint")]
    assert table["samples"].to_list() == [1, 1, 1]
    assert table["hr@5"].to_list() == [1.0, 1.0, 1.0]
    markdown = (tmp_path / "out" / "shop.md").read_text().splitlines()
    assert "**0.6309**" in markdown[3]
    assert "<u>0.5000</u>" in markdown[2]


def test_what_cannot_be_compared_is_refused(tmp_path):
    one, other = ranks_file(tmp_path, "one", [1, 2]), ranks_file(tmp_path, "other", [1, 2], first_sample=1)
    with pytest.raises(UserError, match=r"task rec: b ranked other test targets \(2\) than a \(2\)"):
        metrics([one, other], ["a", "b"])
    fewer = schema.RANKS.read(one).with_columns(n_candidates=pl.lit(50))
    schema.RANKS.write(fewer, tmp_path / "fewer.parquet")
    with pytest.raises(UserError, match=r"task rec: b ranked other candidates \(2\) than a \(2\)"):
        metrics([one, tmp_path / "fewer.parquet"], ["a", "b"])
    valid = ranks_file(tmp_path, "valid", [1], split="valid")
    with pytest.raises(UserError, match=r"valid\.parquet: holds no ranks of test targets"):
        metrics([valid], ["a"])
    with pytest.raises(UserError, match="no such file"):
        metrics([tmp_path / "none.parquet"], ["a"])


def test_equal_values_are_marked_equal_and_a_lone_row_is_not_marked(tmp_path):
    best, same, second, last = (
        ranks_file(tmp_path, name, [rank]) for name, rank in (("best", 1), ("same", 1), ("second", 2), ("last", 4))
    )
    alone = ranks_file(tmp_path, "alone", [1], "search", first_sample=9)
    schema.RANKS.write(pl.concat([schema.RANKS.read(last), schema.RANKS.read(alone)]), last)
    metric_table([last, second, best, same], ["last", "second", "best", "same"], tmp_path / "t")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (tmp_path / "t.md").read_text().splitlines()]
    ndcg5 = {(row[0], row[1]): row[cells[0].index("ndcg@5")] for row in cells[2:]}
    assert ndcg5 == {
        ("rec", "last"): "0.4307",
        ("rec", "second"): "<u>0.6309</u>",
        ("rec", "best"): "**1.0000**",
        ("rec", "same"): "**1.0000**",
        ("search", "last"): "1.0000",
    }


def test_equal_ranks_give_equal_bytes(tmp_path):
    path = ranks_file(tmp_path, "a", np.random.default_rng(0).integers(1, 100, 5000))
    for folder in ("one", "two"):
        metric_table([path], ["a"], tmp_path / folder / "t")
    assert (tmp_path / "one" / "t.csv").read_bytes() == (tmp_path / "two" / "t.csv").read_bytes()
    assert all(len(value.split(".")[1]) == 6 for value in (tmp_path / "one/t.csv").read_text().split(",")[9:14])


def test_the_same_marks_in_every_format(tmp_path):
    # A difference that every pair of targets shows, and one that is chance.
    sure, weak = ranks_file(tmp_path, "sure_one", [1] * 40), ranks_file(tmp_path, "weak", [1, *[9] * 39])
    metric_table([sure, weak], ["sure_one", "weak"], tmp_path / "out" / "t")
    markdown, latex, page = ((tmp_path / "out" / f"t.{ending}").read_text() for ending in ("md", "tex", "html"))
    assert r"**1.0000**\*" in markdown
    assert r"rec & sure\_one & \textbf{1.0000}$^*$" in latex
    assert r"\underline{0.0250}" in latex
    assert latex.startswith("\\begin{tabular}{llrrrrrr}")
    assert "<b>1.0000</b><sup>*</sup>" in page
    assert "<u>0.0250</u>" in page
    tests = pl.read_csv(tmp_path / "out" / "t.significance.csv")
    assert tests.row(0, named=True)["best"] == "sure_one"
    sure = tests.filter(pl.col("metric") != "hr@10")
    assert sure["p_value"].max() < 0.05
    # HR@10 is 1 for both.
    assert tests.filter(pl.col("metric") == "hr@10").row(0, named=True)["p_value"] == 1.0


def test_a_difference_by_chance_has_no_star(tmp_path):
    one, two = ranks_file(tmp_path, "one", [1, 1, 9]), ranks_file(tmp_path, "two", [9, 1, 9])
    metric_table([one, two], ["one", "two"], tmp_path / "t")
    assert "**0.6667**" in (tmp_path / "t.md").read_text()
    assert "\\*" not in (tmp_path / "t.md").read_text()


def test_warnings_about_the_data_stand_below_its_table(tmp_path):
    path = ranks_file(tmp_path, "a", [1, 2, 6])
    for name, warnings in (("sound", []), ("odd", ["e.csv: holds no <search> events"])):
        record = tmp_path / f"{name}.json"
        record.write_text(json.dumps({"warnings": warnings}))
        metric_table([path], ["a"], tmp_path / name, canonical=record)
    metric_table([path], ["a"], tmp_path / "none")
    for ending, told in (
        ("md", "\nWarnings about the data:\n\n* e.csv: holds no <search> events\n"),
        ("html", "<p>Warnings about the data:</p>\n<ul>\n<li>e.csv: holds no &lt;search&gt; events</li>\n</ul>\n"),
    ):
        sound, odd = ((tmp_path / f"{name}.{ending}").read_text() for name in ("sound", "odd"))
        assert told in odd
        assert odd.replace(told, "").replace("odd", "sound") == sound
        assert "Warnings" not in (tmp_path / f"none.{ending}").read_text() + sound

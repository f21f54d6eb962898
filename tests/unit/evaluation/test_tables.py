"""Metric tables against ranks small enough to score by hand, and against the loop's own metrics."""

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.config.tables import ComparisonSettings
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
    # Both files are named, and the first target that only one has.
    told = r"task rec: \S+other\.parquet ranks other test targets than \S+one\.parquet \(sample 0 with item 7 "
    with pytest.raises(UserError, match=told):
        metrics([one, other], ["a", "b"])
    moved = schema.RANKS.read(one).with_columns(target_item=pl.Series([7, 8], dtype=pl.Int32))
    schema.RANKS.write(moved, tmp_path / "moved.parquet")
    with pytest.raises(UserError, match=r"moved\.parquet ranks other test targets .* \(sample 1 with item 7 "):
        metrics([one, tmp_path / "moved.parquet"], ["a", "b"])
    fewer = schema.RANKS.read(one).with_columns(n_candidates=pl.lit(50))
    schema.RANKS.write(fewer, tmp_path / "fewer.parquet")
    told = r"fewer\.parquet ranks among other numbers of candidates than \S+one\.parquet \(sample 0: 50 and 100\)"
    with pytest.raises(UserError, match=told):
        metrics([one, tmp_path / "fewer.parquet"], ["a", "b"])
    # The runs of one row as well.
    with pytest.raises(UserError, match=r"other\.parquet ranks other test targets"):
        metrics([one, other], ["a", "a"])
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


def shown(path):
    """The cells of the first table in Markdown: (task, method) -> column -> text."""
    lines = [line for line in path.read_text().split("\n\n")[0].splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in rows}


def test_a_lead_too_small_to_be_shown_has_no_star(tmp_path):
    # 20 of 8,000 targets stand at rank 9 and not at 10: significant, and 0.00003 of NDCG@10.
    common = [1] * 4002 + [50] * 3978
    one, two = ranks_file(tmp_path, "one", [*common, *[9] * 20]), ranks_file(tmp_path, "two", [*common, *[10] * 20])
    metric_table([two, one], ["two", "one"], tmp_path / "t")
    test = pl.read_csv(tmp_path / "t.significance.csv").filter(pl.col("metric") == "ndcg@10").row(0, named=True)
    assert (test["best"], test["p_value"] < 0.05) == ("one", True)
    assert [row["ndcg@10"] for row in shown(tmp_path / "t.md").values()] == ["**0.5010**", "**0.5010**"]


def test_one_row_has_a_star_at_most(tmp_path):
    same, twin, other = (
        ranks_file(tmp_path, name, values)
        for name, values in (("same", [1] * 40), ("twin", [1] * 40), ("other", [1, *[9] * 39]))
    )
    names = ["same", "twin", "other"]
    # The runner-up of two equal rows is the other of them.
    metric_table([same, twin, other], names, tmp_path / "t")
    assert [row["hr@1"] for row in shown(tmp_path / "t.md").values()] == ["**1.0000**", "**1.0000**", "<u>0.0250</u>"]
    # Proposed together, they are compared with the other one.
    metric_table([same, twin, other], names, tmp_path / "p", ComparisonSettings(proposed=["same", "twin"]))
    assert [row["hr@1"] for row in shown(tmp_path / "p.md").values()] == [
        "**1.0000**\\*", "**1.0000**", "<u>0.0250</u>",
    ]  # fmt: skip
    # A row that beats what is proposed has the star.
    metric_table([same, other], ["same", "other"], tmp_path / "o", ComparisonSettings(proposed=["other"]))
    assert [row["hr@1"] for row in shown(tmp_path / "o.md").values()] == ["**1.0000**\\*", "<u>0.0250</u>"]
    assert "of the best proposed row (other) and the best other one, the better" in (tmp_path / "o.html").read_text()


def test_every_proposed_row_is_set_against_every_other(tmp_path):
    files = [
        ranks_file(tmp_path, name, values) for name, values in (("ours", [1] * 40), ("a", [9] * 40), ("b", [1] * 40))
    ]
    metric_table(files, ["ours", "a", "b"], tmp_path / "t", ComparisonSettings(proposed=["ours"], compare="each"))
    _, told, more = (tmp_path / "t.md").read_text().split("\n\n")
    assert told.startswith("Differences, proposed minus other.")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in more.splitlines()]
    assert rows[0] == ["task", "proposed", "other", *METRICS]
    assert rows[2][:4] == ["rec", "ours", "b", "+0.0000"]
    assert rows[3][:4] == ["rec", "ours", "a", "+1.0000\\*"]
    assert "<td>+1.0000<sup>*</sup></td>" in (tmp_path / "t.html").read_text()
    assert len(pl.read_csv(tmp_path / "t.significance.csv")) == 2 * len(METRICS)


def test_over_seeds_means_stand_with_their_deviations(tmp_path):
    # hr@1 of the two runs of `a`: 1/2 and 1, so the deviation is 1/4 times the root of 2; `b` has one run.
    files = [ranks_file(tmp_path, name, values) for name, values in (("a1", [1, 6]), ("a2", [1, 1]), ("b", [6, 6]))]
    metric_table(files, ["a", "a", "b"], tmp_path / "t")
    table = pl.read_csv(tmp_path / "t.csv")
    assert table.columns == ["task", "method", *METRICS, *(f"{name}_std" for name in METRICS), "samples", "seeds"]
    a, b = table.iter_rows(named=True)
    assert (a["method"], a["hr@1"], a["samples"], a["seeds"]) == ("a", 0.75, 2, 2)
    assert a["hr@1_std"] == pytest.approx(math.sqrt(2) / 4, abs=1e-6)
    assert (b["method"], b["hr@1"], b["hr@1_std"], b["seeds"]) == ("b", 0.0, None, 1)
    cells = shown(tmp_path / "t.md")
    assert list(cells["rec", "a"]) == ["task", "method", *METRICS, "samples", "seeds"]
    assert cells["rec", "a"]["hr@1"] == "**0.7500 ± 0.3536**"
    assert cells["rec", "b"]["hr@1"] == "<u>0.0000</u>"
    assert r"\textbf{0.7500 $\pm$ 0.3536}" in (tmp_path / "t.tex").read_text()
    assert "standard deviation over seeds" in (tmp_path / "t.html").read_text()

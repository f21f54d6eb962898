"""Metric tables: their values, their marks in every format, and rows that cannot be compared."""

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
from gensar_core.runtime import reading


def ranks_file(folder, name, values, task="rec", split="test", first_sample=0):
    samples = range(first_sample, first_sample + len(values))
    columns = {"task": task, "split": split, "sample_id": samples, "user_id": samples, "target_item": 7}
    frame = pl.DataFrame({**columns, "rank": np.array(values, float), "n_candidates": 100})
    schema.RANKS.write(frame, folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


def joined(first, *others):
    """Add the rows of other ranks files to the first one."""
    schema.RANKS.write(pl.concat([schema.RANKS.read(path) for path in (first, *others)]), first)
    return first


def tabulate(folder, comparison=ComparisonSettings(), **rows):  # noqa: B008
    """Write the table of some rows, each given as the ranks of its targets; return its path without a suffix."""
    files = [ranks_file(folder, name, values) for name, values in rows.items()]
    metric_table(files, list(rows), folder / "table", comparison)
    return folder / "table"


def texts(path):
    """Return the contents of a table's files by format."""
    return {ending: path.with_suffix(f".{ending}").read_text() for ending in ("md", "tex", "html")}


def cells(markdown):
    """Return the rows of the first table in Markdown, each as column -> text."""
    lines = [line for line in markdown.split("\n\n")[0].splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


@settings(max_examples=25)
@given(st.lists(st.integers(2, 60).map(lambda half: half / 2), min_size=1, max_size=30))
def test_a_tables_metrics_are_those_of_validations(tmp_path_factory, values):
    row = metrics([ranks_file(tmp_path_factory.mktemp("ranks"), "a", values)], ["a"]).row(0, named=True)
    for metric in METRICS:
        name, k = metric.split("@")
        expected = {"hr": hit_rate, "ndcg": ndcg}[name](np.array(values), int(k))
        assert row[metric] == pytest.approx(expected, abs=1e-12)


def test_rows_keep_their_order_and_only_test_targets_count(tmp_path):
    joint = joined(
        ranks_file(tmp_path, "joint", [1], "search", first_sample=50),
        ranks_file(tmp_path, "rec", [3]),
        ranks_file(tmp_path, "valid", [99], split="valid", first_sample=90),
    )
    metric_table([joint, ranks_file(tmp_path, "only", [2])], ["joint", "only"], tmp_path / "table")
    table = pl.read_csv(tmp_path / "table.csv")
    assert table.columns == ["task", "method", *METRICS, "samples"]
    assert table.select("task", "method", "samples", "hr@5").rows() == [
        ("rec", "joint", 1, 1.0), ("rec", "only", 1, 1.0), ("search", "joint", 1, 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # The message names both files, and the first target that only one has.
        (
            {"sample_id": pl.Series([1, 2])},
            r"task rec: \S+b\.parquet ranks other test targets than \S+a\.parquet \(sample 0 with item 7 ",
        ),
        ({"target_item": pl.Series([7, 8])}, r"b\.parquet ranks other test targets .* \(sample 1 with item 7 "),
        (
            {"n_candidates": pl.lit(50)},
            r"b\.parquet ranks among other numbers of candidates than \S+a\.parquet \(sample 0: 50 and 100\)",
        ),
        ({"split": pl.lit("valid")}, r"b\.parquet: holds no ranks of test targets"),
    ],
)
def test_rows_of_other_targets_are_refused(tmp_path, change, message):
    one, other = ranks_file(tmp_path, "a", [1, 2]), ranks_file(tmp_path, "b", [1, 2])
    schema.RANKS.write(schema.RANKS.read(other).with_columns(**change), other)
    # Rows of a table are compared, and so are the runs of one row.
    for names in (["a", "b"], ["a", "a"]):
        with pytest.raises(UserError, match=message):
            metrics([one, other], names)


def test_rows_out_of_order_are_refused(tmp_path):
    path = ranks_file(tmp_path, "a", [1, 2])
    schema.RANKS.write(schema.RANKS.read(path).reverse(), path)
    with pytest.raises(UserError, match=r"a\.parquet: targets of rec are not in the order of samples"):
        metrics([path], ["a"])


@pytest.mark.parametrize("rows", [1, 7, 20])
def test_a_table_does_not_depend_on_the_rows_read_at_a_time(tmp_path, monkeypatch, rows):
    rng = np.random.default_rng(0)
    # Both tasks in one file, in which parts of rows end elsewhere than in a file of one task.
    ranks = {name: rng.integers(2, 40, 30) / 2 for name in ("a", "b", "c")}
    search = ranks_file(tmp_path, "search", rng.integers(1, 9, 13), "search", first_sample=100)
    files = [joined(ranks_file(tmp_path, "a", ranks["a"]), search)]
    files += [ranks_file(tmp_path, name, ranks[name]) for name in ("b", "c")]
    metric_table(files, ["a", "b", "b"], tmp_path / "whole")
    monkeypatch.setattr(reading, "PART_ROWS", rows)
    metric_table(files, ["a", "b", "b"], tmp_path / "parts")
    for ending in ("csv", "significance.csv", "md"):
        assert (tmp_path / f"parts.{ending}").read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()


EQUAL = {"same": [1] * 40, "twin": [1] * 40, "other": [1, *[9] * 39]}


@pytest.mark.parametrize(
    ("rows", "proposed", "metric", "marked"),
    [
        # Equal values are marked equal, and a lone row is not marked.
        (
            {"last": [4], "second": [2], "best": [1], "same": [1]}, [], "ndcg@5",
            ["0.4307", "<u>0.6309</u>", "**1.0000**", "**1.0000**"],
        ),
        ({"alone": [1]}, [], "ndcg@5", ["1.0000"]),
        # A difference by chance has no star.
        ({"one": [1, 1, 9], "two": [9, 1, 9]}, [], "hr@1", ["**0.6667**", "<u>0.3333</u>"]),
        # The runner-up of two equal rows is the other of them.
        (EQUAL, [], "hr@1", ["**1.0000**", "**1.0000**", "<u>0.0250</u>"]),
        # Proposed together, they are compared with the other row, and one of them has the star.
        (EQUAL, ["same", "twin"], "hr@1", ["**1.0000**\\*", "**1.0000**", "<u>0.0250</u>"]),
        # A row that beats the proposed ones has the star.
        (EQUAL, ["other"], "hr@1", ["**1.0000**\\*", "**1.0000**", "<u>0.0250</u>"]),
    ],
)  # fmt: skip
def test_the_best_values_are_marked_and_one_has_a_star_at_most(tmp_path, rows, proposed, metric, marked):
    table = tabulate(tmp_path, ComparisonSettings(proposed=proposed), **rows)
    assert [row[metric] for row in cells(texts(table)["md"])] == marked


def test_a_lead_too_small_to_be_shown_has_no_star(tmp_path):
    # 20 of 8,000 targets rank 9th and not 10th: significant, and 0.00003 of NDCG@10.
    common = [1] * 4002 + [50] * 3978
    table = tabulate(tmp_path, two=[*common, *[10] * 20], one=[*common, *[9] * 20])
    test = pl.read_csv(tmp_path / "table.significance.csv").row(-1, named=True)
    assert (test["metric"], test["best"], test["p_value"] < 0.05) == ("ndcg@10", "one", True)
    assert [row["ndcg@10"] for row in cells(texts(table)["md"])] == ["**0.5010**", "**0.5010**"]


def test_every_format_has_the_same_marks(tmp_path):
    table = tabulate(tmp_path, sure_one=[1] * 40, weak=[1, *[9] * 39])
    markdown, latex, page = texts(table).values()
    assert r"**1.0000**\*" in markdown
    assert r"rec & sure\_one & \textbf{1.0000}$^*$" in latex
    assert r"\underline{0.0250}" in latex
    assert latex.startswith("\\begin{tabular}{llrrrrrr}")
    assert "<b>1.0000</b><sup>*</sup>" in page
    assert "<u>0.0250</u>" in page
    tests = pl.read_csv(tmp_path / "table.significance.csv")
    assert set(tests["best"]) == {"sure_one"}
    # HR@10 is 1 for both.
    assert dict(zip(tests["metric"], tests["p_value"] < 0.05, strict=True)) == {
        metric: metric != "hr@10" for metric in METRICS
    }


def test_equal_ranks_give_equal_bytes_with_six_decimals(tmp_path):
    ranks = np.random.default_rng(0).integers(1, 100, 5000)
    first, second = (tabulate(tmp_path, a=ranks).with_suffix(".csv").read_text() for _ in range(2))
    assert first == second
    assert all(len(value.split(".")[1]) == 6 for value in first.split(",")[9:14])


def test_warnings_about_the_data_follow_its_table(tmp_path):
    path = ranks_file(tmp_path, "a", [1, 2, 6])
    pages = {}
    for name, warnings in (("sound", []), ("odd", ["e.csv: holds no <search> events"])):
        record = tmp_path / f"{name}.json"
        record.write_text(json.dumps({"warnings": warnings}))
        metric_table([path], ["a"], tmp_path / name, canonical=record)
        pages[name] = texts(tmp_path / name)
    for ending, warned in (
        ("md", "\nWarnings about the data:\n\n* e.csv: holds no <search> events\n"),
        ("html", "<p>Warnings about the data:</p>\n<ul>\n<li>e.csv: holds no &lt;search&gt; events</li>\n</ul>\n"),
    ):
        assert warned in pages["odd"][ending]
        assert pages["odd"][ending].replace(warned, "").replace("odd", "sound") == pages["sound"][ending]
    metric_table([path], ["a"], tmp_path / "none")
    assert "Warnings" not in "".join([*texts(tmp_path / "none").values(), *pages["sound"].values()])


def test_published_figures_follow_the_table_and_unknown_ones_are_refused(tmp_path):
    path = ranks_file(tmp_path, "a", [1, 2, 6])
    metric_table([path], ["a"], tmp_path / "table", published="amazon_beauty")
    shown = texts(tmp_path / "table")
    row = next(line for line in shown["md"].splitlines() if line.startswith("| RPG"))
    assert [cell.strip() for cell in row.split("|")[1:6]] == ["RPG", "-", "-", "-", "0.0464"]
    assert shown["html"].index("Published") < shown["html"].index("</section>")
    with pytest.raises(UserError, match=r"no figures of 'beauty' \(there: amazon_beauty"):
        metric_table([path], ["a"], tmp_path / "other", published="beauty")


def test_every_proposed_row_is_compared_with_every_other(tmp_path):
    comparison = ComparisonSettings(proposed=["ours"], compare="each")
    table = tabulate(tmp_path, comparison, ours=[1] * 40, a=[9] * 40, b=[1] * 40)
    markdown, _, page = texts(table).values()
    _, caption, differences = markdown.split("\n\n")
    assert caption.startswith("Differences, proposed minus other.")
    equal, ahead = cells(differences)
    assert list(equal) == ["task", "proposed", "other", *METRICS]
    assert list(equal.values())[:4] == ["rec", "ours", "b", "+0.0000"]
    assert list(ahead.values())[:4] == ["rec", "ours", "a", "+1.0000\\*"]
    assert "<td>+1.0000<sup>*</sup></td>" in page
    assert "of the best proposed row (ours) and the best other one, the better" in page
    assert len(pl.read_csv(tmp_path / "table.significance.csv")) == 2 * len(METRICS)


def test_a_row_over_seeds_shows_its_mean_and_deviation(tmp_path):
    # hr@1 of the two runs of `a`: 1/2 and 1, so the deviation is 1/4 times the root of 2; `b` has one run.
    files = [ranks_file(tmp_path, name, values) for name, values in (("a1", [1, 6]), ("a2", [1, 1]), ("b", [6, 6]))]
    metric_table(files, ["a", "a", "b"], tmp_path / "table")
    table = pl.read_csv(tmp_path / "table.csv")
    assert table.columns == ["task", "method", *METRICS, *(f"{name}_std" for name in METRICS), "samples", "seeds"]
    assert table.select("method", "hr@1", "samples", "seeds").rows() == [("a", 0.75, 2, 2), ("b", 0.0, 2, 1)]
    assert table["hr@1_std"].to_list() == [pytest.approx(math.sqrt(2) / 4, abs=1e-6), None]
    markdown, latex, page = texts(tmp_path / "table").values()
    rows = cells(markdown)
    assert list(rows[0]) == ["task", "method", *METRICS, "samples", "seeds"]
    assert [row["hr@1"] for row in rows] == ["**0.7500 ± 0.3536**", "<u>0.0000</u>"]
    assert r"\textbf{0.7500 $\pm$ 0.3536}" in latex
    assert "standard deviation over seeds" in page

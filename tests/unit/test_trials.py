"""docs/trials: every file is on its page, has the page's columns, and holds metrics."""

import re
from pathlib import Path

import polars as pl
import pytest

TRIALS = Path(__file__).parents[2] / "docs" / "trials"
PAGE = (TRIALS / "README.md").read_text(encoding="utf-8")
FILES, COLUMNS = PAGE.split("| column |")


def test_the_page_lists_every_file():
    assert sorted(re.findall(r"\((\w+\.csv)\)", FILES)) == sorted(path.name for path in TRIALS.glob("*.csv"))


@pytest.mark.parametrize("path", sorted(TRIALS.glob("*.csv")), ids=lambda path: path.stem)
def test_a_file_has_the_columns_of_the_page_and_metrics_between_0_and_1(path):
    table = pl.read_csv(path, infer_schema=False)
    described = re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in COLUMNS.splitlines() if "|" in line))
    assert table.columns == described
    metrics = table.select(pl.col("^(valid|test)_(rec|search|mean)$").cast(pl.Float64))
    assert all(0.0 <= value <= 1.0 for column in metrics for value in column.drop_nulls())
    assert set(table["data_set"]) <= {"Scientific", "Beauty"}
    assert table["setting"].null_count() == 0

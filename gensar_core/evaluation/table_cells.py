"""Format the cells of metric tables: rounded, with standard deviations over seeds, and marked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from gensar_core import schema

#: Suffix that turns a metric's name into that of its standard deviation over seeds.
DEVIATION: Final = "_std"
#: Differences with p below this are called significant, as in the paper.
_P_VALUE: Final = 0.05
#: The best and second best are also chosen by these decimals: values that look equal are marked equal.
_DECIMALS: Final = 4

MARKDOWN: Final = {"best": "**{}**", "star": "**{}**\\*", "second": "<u>{}</u>", "sure": "{}\\*"}
TEX: Final = {"best": r"\textbf{{{}}}", "star": r"\textbf{{{}}}$^*$", "second": r"\underline{{{}}}"}
HTML: Final = {"best": "<b>{}</b>", "star": "<b>{}</b><sup>*</sup>", "second": "<u>{}</u>", "sure": "{}<sup>*</sup>"}


@dataclass(frozen=True)
class Cell:
    """Hold a text and its mark: best, best by more than chance (star), second, or a difference beyond chance (sure)."""

    text: str
    mark: str = ""


def shown_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns of a metric table to show; deviations appear beside their means."""
    return [name for name in columns if not name.endswith(DEVIATION)]


def metric_cells(table: pl.DataFrame, tests: pl.DataFrame, metrics: Sequence[str]) -> list[list[Cell]]:
    """Format the rows of a metric table; mark the best and the second best of each task and metric.

    ``tests`` are those of ``significance``; of each task and metric, only the first counts. The better of its two rows
    gets a star when p < 0.05. So at most one row has a star, and none where the two look equal.
    """
    columns, values = shown_columns(table.columns), list(table.iter_rows(named=True))
    rows = [[Cell(_text(row, name)) for name in columns] for row in values]
    first: dict[tuple[str, str], tuple[Any, ...]] = {}
    for test in tests.iter_rows():
        first.setdefault(test[:2], test)
    for task, metric in itertools.product(schema.TASKS, metrics):
        places = [place for place, row in enumerate(values) if row["task"] == task]
        seen = {values[place]["method"]: _rounded(values[place][metric]) for place in places}
        marks = _marks(seen, first.get((task, metric)))
        column = columns.index(metric)
        for place in places if len(places) > 1 else ():
            rows[place][column] = Cell(rows[place][column].text, marks[values[place]["method"]])
    return rows


def difference_cells(tests: pl.DataFrame, metrics: Sequence[str]) -> list[list[Cell]]:
    """Format the differences of ``metrics``, one row per task and pair of methods, marked where Holm's p < 0.05.

    There are no rows where ``tests`` compare only the best rows.
    """
    if "p_holm" not in tests.columns:
        return []
    pairs: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for test in tests.iter_rows(named=True):
        mark = "sure" if test["p_holm"] < _P_VALUE else ""
        cells = pairs.setdefault((test["task"], test["proposed"], test["other"]), {})
        cells[test["metric"]] = Cell(f"{test['difference']:+.{_DECIMALS}f}", mark)
    return [[*map(Cell, names), *(cells[metric] for metric in metrics)] for names, cells in pairs.items()]


def dressed(rows: list[list[Cell]], marks: Mapping[str, str], escaped: Callable[[str], str] = str) -> list[list[str]]:
    """Render the rows as texts of a format that marks cells as ``marks`` says."""
    return [[marks.get(cell.mark, "{}").format(escaped(cell.text)) for cell in row] for row in rows]


def _marks(seen: Mapping[str, str], test: tuple[Any, ...] | None) -> dict[str, str]:
    """Return the mark of each method of a task, by its rounded value of a metric."""
    values = sorted(set(seen.values()), key=float, reverse=True)
    by_value = dict(zip(values, ("best", "second"), strict=False))
    marks = {name: by_value.get(value, "") for name, value in seen.items()}
    if test is not None:
        _, _, one, other, difference, _, p_value, *_ = test
        if p_value < _P_VALUE and seen[one] != seen[other]:
            marks[one if difference > 0 else other] = "star"
    return marks


def _text(row: Mapping[str, Any], name: str) -> str:
    deviation = row.get(name + DEVIATION)
    return _rounded(row[name]) + ("" if deviation is None else f" ± {_rounded(deviation)}")


def _rounded(value: object) -> str:
    return f"{value:.{_DECIMALS}f}" if isinstance(value, float) else str(value)

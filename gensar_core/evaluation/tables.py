"""Ranks tables -> the metric tables of the paper (Tables 3 and 4), in CSV, Markdown, LaTeX and HTML."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.evaluation.data_warnings import data_warnings
from gensar_core.evaluation.markdown import markdown_table
from gensar_core.evaluation.pages import html_table, latex_table, latex_text, page
from gensar_core.evaluation.significance import significance
from gensar_core.runtime.stage import Stage

METRICS: Final = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")
#: Of full rankings; with one target a sample, Recall@k is HR@k under the name that this protocol goes by.
FULL_METRICS: Final = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20")

_CSV_DECIMALS: Final = 6
#: Below this a difference is called significant, as in the paper.
_P_VALUE: Final = 0.05
_MARKDOWN: Final = {"best": "**{}**", "star": "**{}**\\*", "second": "<u>{}</u>"}
_TEX: Final = {"best": r"\textbf{{{}}}", "star": r"\textbf{{{}}}$^*$", "second": r"\underline{{{}}}"}
_HTML: Final = {"best": "<b>{}</b>", "star": "<b>{}</b><sup>*</sup>", "second": "<u>{}</u>"}
_NOTE: Final = (
    "<p>Bold: the best of a task. Underlined: the second best. *: better than the second best by more than chance "
    "(paired t-test over targets, p &lt; 0.05).</p>\n"
)
#: In Markdown. The best and the second best are told by these decimals too: what looks equal is marked equal.
_SHOWN_DECIMALS: Final = 4


def metric_table(ranks: Sequence[Path], names: Sequence[str], output: Path, canonical: Path | None = None) -> None:
    """Write {output}.csv, .md, .tex and .html: HR@k and NDCG@k of each method on the test targets of each task.

    ``ranks`` are ranks files and ``names`` their rows' names, in the order shown; recommendation comes first, then
    search. {output}.significance.csv compares the best method of each task and metric with the second best
    (`significance.significance`). In all but the CSV the best value is bold, with a star where a paired t-test tells it
    from the second best (p < 0.05), and the second best underlined. ``canonical`` is the record of the data set's stage
    `canonical`: .md and .html tell its warnings. Raises what ``metrics`` raises.
    """
    _write("metric_table", ranks, output, _tested(ranks, names, schema.RANKS), METRICS, canonical)


def full_table(ranks: Sequence[Path], names: Sequence[str], output: Path, canonical: Path | None = None) -> None:
    """Write the same files as `metric_table`, of Recall@k and NDCG@k among all items.

    ``ranks`` are files of the table `full_ranks`; a target without a rank counts as a miss at every k.
    """
    _write("full_table", ranks, output, _tested(ranks, names, schema.FULL_RANKS), FULL_METRICS, canonical)


def _write(
    stage_name: str,
    ranks: Sequence[Path],
    output: Path,
    tested: pl.DataFrame,
    columns: Sequence[str],
    canonical: Path | None,
) -> None:
    record_name = f"{output.name}.stage.json"
    inputs = [*ranks, *([canonical] if canonical else [])]
    with Stage(stage_name, output.parent, inputs=inputs, code=__name__, record_name=record_name) as stage:
        table, tests = _means(tested, columns), significance(tested, columns)
        shown = _shown(table, tests, columns)
        warned = data_warnings(canonical)
        table.write_csv(stage.path(f"{output.name}.csv"), float_precision=_CSV_DECIMALS)
        tests.write_csv(stage.path(f"{output.name}.significance.csv"))
        for ending, text in (
            ("md", markdown_table(table.columns, _dressed(shown, _MARKDOWN)) + warned.get("md", "")),
            ("tex", latex_table(table.columns, _dressed(shown, _TEX, latex_text), _breaks(table))),
            (
                "html",
                page(output.name, html_table(table.columns, _dressed(shown, _HTML)) + _NOTE + warned.get("html", "")),
            ),
        ):
            stage.path(f"{output.name}.{ending}").write_text(text, encoding="utf-8")
        stage.record(rows=len(table))


def metrics(
    ranks: Sequence[Path],
    names: Sequence[str],
    kind: schema.Table = schema.RANKS,
    shown: Sequence[str] = METRICS,
) -> pl.DataFrame:
    """The metric table: `task`, `method`, the metrics ``shown``, `samples`, one row a task and method.

    ``ranks`` are files of the table ``kind``. Raises UserError when a file is missing, is not of this table or holds no
    test ranks, and when two methods of one task ranked different targets or different numbers of candidates.
    """
    return _means(_tested(ranks, names, kind), shown)


def _tested(ranks: Sequence[Path], names: Sequence[str], kind: schema.Table) -> pl.DataFrame:
    table = _test_ranks(ranks, names, kind)
    _check_same_samples(table, names)
    return table


def _means(table: pl.DataFrame, shown: Sequence[str]) -> pl.DataFrame:
    with duckdb.connect() as connection:
        # One thread adds in one order, so equal files give equal sums.
        connection.execute("SET threads = 1")
        connection.register("ranks", table.to_arrow())
        columns = ", ".join(f'{_metric(name)} AS "{name}"' for name in shown)
        found = connection.sql(
            f"""
            SELECT task, method, {columns}, count(*) AS samples
            FROM ranks GROUP BY task, method ORDER BY task, min(position)
            """
        ).to_arrow_table()
    return pl.DataFrame(found)


def _test_ranks(ranks: Sequence[Path], names: Sequence[str], kind: schema.Table) -> pl.DataFrame:
    """The test rows of all files, each with its `method` and the method's `position` in ``names``."""
    tables = []
    for position, (path, name) in enumerate(zip(ranks, names, strict=True)):
        table = kind.read(path).filter(pl.col("split") == "test")
        if table.is_empty():
            raise UserError(f"{path}: holds no ranks of test targets; delete it and run again")
        columns = [pl.col("task").cast(pl.String), "sample_id", "target_item", "rank", "n_candidates"]
        tables.append(table.select(columns).with_columns(method=pl.lit(name), position=pl.lit(position)))
    return pl.concat(tables)


def _check_same_samples(table: pl.DataFrame, names: Sequence[str]) -> None:
    ranked = {
        key: rows.select("sample_id", "target_item", "n_candidates").sort("sample_id")
        for key, rows in table.group_by("task", "position", maintain_order=True)
    }
    first: dict[object, int] = {}
    for (task, position), rows in ranked.items():
        expected = ranked[task, first.setdefault(task, position)]
        if not rows.equals(expected):
            other = "candidates" if rows["sample_id"].equals(expected["sample_id"]) else "test targets"
            raise UserError(
                f"task {task}: {names[position]} ranked other {other} ({len(rows)}) than {names[first[task]]} "
                f"({len(expected)}); delete the ranks that are older than the samples and run again"
            )


def _metric(name: str) -> str:
    """A metric (see ranking.metrics) over the column `rank`, in SQL."""
    kind, k = name.split("@")
    gain = "1.0" if kind in ("hr", "recall") else "1.0 / log2(rank + 1.0)"
    return f"avg(CASE WHEN rank <= {k} THEN {gain} ELSE 0.0 END)"


@dataclass(frozen=True)
class _Cell:
    text: str
    mark: str = ""


def _shown(table: pl.DataFrame, tests: pl.DataFrame, columns: Sequence[str]) -> list[list[_Cell]]:
    """The rows as they are shown, with marks: best, best by more than chance (star), second."""
    rows = [
        [_Cell(f"{cell:.{_SHOWN_DECIMALS}f}" if isinstance(cell, float) else str(cell)) for cell in row]
        for row in table.iter_rows()
    ]
    sure = set(tests.filter(pl.col("p_value") < _P_VALUE).select("task", "metric").iter_rows())
    for metric, task in itertools.product(columns, schema.TASKS):
        column = table.columns.index(metric)
        compared = [row for row in rows if row[0].text == task]
        values = sorted({float(row[column].text) for row in compared}, reverse=True)
        for row in compared if len(compared) > 1 else []:
            text = row[column].text
            if float(text) == values[0]:
                row[column] = _Cell(text, "star" if (task, metric) in sure else "best")
            elif float(text) == values[1]:
                row[column] = _Cell(text, "second")
    return rows


def _dressed(rows: list[list[_Cell]], marks: Mapping[str, str], escaped: Callable[[str], str] = str) -> list[list[str]]:
    return [[marks.get(cell.mark, "{}").format(escaped(cell.text)) for cell in row] for row in rows]


def _breaks(table: pl.DataFrame) -> list[int]:
    """The row at which search begins."""
    tasks = table.get_column("task").to_list()
    return [row for row in range(1, len(tasks)) if tasks[row] != tasks[row - 1]]

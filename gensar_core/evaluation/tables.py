"""Ranks tables -> the metric tables of the paper (Tables 3 and 4), in CSV and Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import duckdb
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.evaluation.markdown import markdown_table
from gensar_core.runtime.stage import Stage

METRICS: Final = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")
#: Of full rankings; with one target a sample, Recall@k is HR@k under the name that this protocol goes by.
FULL_METRICS: Final = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20")

_CSV_DECIMALS: Final = 6
#: In Markdown. The best and the second best are told by these decimals too: what looks equal is marked equal.
_SHOWN_DECIMALS: Final = 4


def metric_table(ranks: Sequence[Path], names: Sequence[str], output: Path) -> None:
    """Write {output}.csv and {output}.md: HR@k and NDCG@k of each method on the test targets of each task it ranks.

    ``ranks`` are ranks files and ``names`` their rows' names, in the order shown; recommendation comes first, then
    search. In Markdown the best value of a task and metric is bold and the second best underlined. Raises what
    ``metrics`` raises.
    """
    _write("metric_table", ranks, output, metrics(ranks, names), METRICS)


def full_table(ranks: Sequence[Path], names: Sequence[str], output: Path) -> None:
    """Write {output}.csv and {output}.md: Recall@k and NDCG@k among all items, else as `metric_table`.

    ``ranks`` are files of the table `full_ranks`; a target without a rank counts as a miss at every k.
    """
    table = metrics(ranks, names, schema.FULL_RANKS, FULL_METRICS)
    _write("full_table", ranks, output, table, FULL_METRICS)


def _write(stage_name: str, ranks: Sequence[Path], output: Path, table: pl.DataFrame, columns: Sequence[str]) -> None:
    record_name = f"{output.name}.stage.json"
    with Stage(stage_name, output.parent, inputs=ranks, code=__name__, record_name=record_name) as stage:
        table.write_csv(stage.path(f"{output.name}.csv"), float_precision=_CSV_DECIMALS)
        marked = markdown_table(table.columns, _marked(table, columns))
        stage.path(f"{output.name}.md").write_text(marked, encoding="utf-8")
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
    table = _test_ranks(ranks, names, kind)
    _check_same_samples(table, names)
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


def _marked(table: pl.DataFrame, columns: Sequence[str]) -> list[list[str]]:
    """The rows as Markdown shows them: the best value of each task and metric bold, the second best underlined."""
    rows = [
        [f"{cell:.{_SHOWN_DECIMALS}f}" if isinstance(cell, float) else str(cell) for cell in row]
        for row in table.iter_rows()
    ]
    for column, task in itertools.product(map(table.columns.index, columns), schema.TASKS):
        compared = [row for row in rows if row[0] == task]
        values = sorted({float(row[column]) for row in compared}, reverse=True)
        for row in compared if len(compared) > 1 else []:
            if float(row[column]) == values[0]:
                row[column] = f"**{row[column]}**"
            elif float(row[column]) == values[1]:
                row[column] = f"<u>{row[column]}</u>"
    return rows

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

_CSV_DECIMALS: Final = 6
#: In Markdown. The best and the second best are told by these decimals too: what looks equal is marked equal.
_SHOWN_DECIMALS: Final = 4


def metric_table(ranks: Sequence[Path], names: Sequence[str], output: Path) -> None:
    """Write {output}.csv and {output}.md: HR@k and NDCG@k of each method on the test targets of each task it ranks.

    ``ranks`` are ranks files and ``names`` their rows' names, in the order shown; recommendation comes first, then
    search. In Markdown the best value of a task and metric is bold and the second best underlined. Raises what
    ``metrics`` raises.
    """
    record_name = f"{output.name}.stage.json"
    with Stage("metric_table", output.parent, inputs=ranks, code=__name__, record_name=record_name) as stage:
        table = metrics(ranks, names)
        table.write_csv(stage.path(f"{output.name}.csv"), float_precision=_CSV_DECIMALS)
        stage.path(f"{output.name}.md").write_text(markdown_table(table.columns, _marked(table)), encoding="utf-8")
        stage.record(rows=len(table))


def metrics(ranks: Sequence[Path], names: Sequence[str]) -> pl.DataFrame:
    """The metric table: `task`, `method`, HR@k, NDCG@k, `samples`, one row a task and method.

    Raises UserError when a file is missing, is no ranks table or holds no test ranks, and when two methods of one task
    ranked different targets or different numbers of candidates.
    """
    with duckdb.connect() as connection:
        # One thread adds in one order, so equal files give equal sums.
        connection.execute("SET threads = 1")
        connection.register("ranks", _test_ranks(ranks, names).to_arrow())
        _check_same_samples(connection)
        columns = ", ".join(f'{_metric(name)} AS "{name}"' for name in METRICS)
        return connection.execute(
            f"""
            SELECT task, method, {columns}, count(*) AS samples
            FROM ranks GROUP BY task, method ORDER BY task, min(position)
            """
        ).pl()


def _test_ranks(ranks: Sequence[Path], names: Sequence[str]) -> pl.DataFrame:
    """The test rows of all files, each with its `method` and the method's `position` in ``names``."""
    tables = []
    for position, (path, name) in enumerate(zip(ranks, names, strict=True)):
        table = schema.RANKS.read(path).filter(pl.col("split") == "test")
        if table.is_empty():
            raise UserError(f"{path}: holds no ranks of test targets; delete it and run again")
        columns = [pl.col("task").cast(pl.String), "sample_id", "target_item", "rank", "n_candidates"]
        tables.append(table.select(columns).with_columns(method=pl.lit(name), position=pl.lit(position)))
    return pl.concat(tables)


def _check_same_samples(connection: duckdb.DuckDBPyConnection) -> None:
    found = connection.execute(
        """
        WITH methods AS (
            SELECT task, min(position) AS first_position, count(DISTINCT position) AS methods FROM ranks GROUP BY task
        ),
        partly AS (
            SELECT task, list(position) AS having_it
            FROM ranks JOIN methods USING (task)
            GROUP BY task, sample_id, target_item, n_candidates
            HAVING count(*) < any_value(methods)
        )
        SELECT task, method, count(*) AS samples
        FROM ranks JOIN methods USING (task)
        WHERE position = first_position OR EXISTS (
            SELECT 1 FROM partly
            WHERE partly.task = ranks.task AND list_contains(having_it, position) <> list_contains(having_it, first_position)
        )
        GROUP BY task, position, method ORDER BY task, position
        """
    ).fetchall()
    for task, rows in itertools.groupby(found, key=lambda row: row[0]):
        (_, first, samples), *others = rows
        for _, other, other_samples in others:
            raise UserError(
                f"task {task}: {other} ranked other test targets ({other_samples}) than {first} ({samples}), or among "
                "other candidates; delete the ranks that are older than the samples and run again"
            )


def _metric(name: str) -> str:
    """A metric (see ranking.metrics) over the column `rank`, in SQL."""
    kind, k = name.split("@")
    gain = "1.0" if kind == "hr" else "1.0 / log2(rank + 1.0)"
    return f"avg(CASE WHEN rank <= {k} THEN {gain} ELSE 0.0 END)"


def _marked(table: pl.DataFrame) -> list[list[str]]:
    """The rows as Markdown shows them: the best value of each task and metric bold, the second best underlined."""
    rows = [
        [f"{cell:.{_SHOWN_DECIMALS}f}" if isinstance(cell, float) else str(cell) for cell in row]
        for row in table.iter_rows()
    ]
    for column, task in itertools.product(map(table.columns.index, METRICS), schema.TASKS):
        compared = [row for row in rows if row[0] == task]
        values = sorted({float(row[column]) for row in compared}, reverse=True)
        for row in compared if len(compared) > 1 else []:
            if float(row[column]) == values[0]:
                row[column] = f"**{row[column]}**"
            elif float(row[column]) == values[1]:
                row[column] = f"<u>{row[column]}</u>"
    return rows

"""Ranks tables -> the metric tables of the paper (Tables 3 and 4), in CSV and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import duckdb
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.evaluation.markdown import markdown_table
from gensar_core.runtime.stage import Stage

METRICS: Final = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")

_HEADER: Final = ("task", "method", *METRICS, "samples")

_CSV_DECIMALS: Final = 6
#: In Markdown. The best and the second best are told by these decimals too: what looks equal is marked equal.
_SHOWN_DECIMALS: Final = 4

#: A row of the table: task, method, metrics, number of samples.
Row: TypeAlias = tuple[Any, ...]


def metric_table(ranks: Sequence[Path], names: Sequence[str], output: Path) -> None:
    """Write {output}.csv and {output}.md: HR@k and NDCG@k of each method on the test targets of each task it ranks.

    ``ranks`` are ranks files and ``names`` their rows' names, in the order shown; recommendation comes first, then
    search. In Markdown the best value of a task and metric is bold and the second best underlined. Raises UserError
    when a file holds no test ranks, or when two methods ranked different targets or different numbers of candidates.
    """
    record_name = f"{output.name}.stage.json"
    with Stage("metric_table", output.parent, inputs=ranks, code=__name__, record_name=record_name) as stage:
        connection = connect(ranks, names)
        check_same_samples(connection)
        rows = metrics(connection)
        lines = [",".join(_HEADER), *(",".join(_cells(row, _CSV_DECIMALS)) for row in rows)]
        stage.path(f"{output.name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        stage.path(f"{output.name}.md").write_text(markdown_table(_HEADER, _marked(rows)), encoding="utf-8")
        stage.record(rows=len(rows))


def connect(ranks: Sequence[Path], names: Sequence[str]) -> duckdb.DuckDBPyConnection:
    """A database with the table `ranks`: the test rows of all files, with `method` and its `position` in ``names``.

    Raises UserError when a file is missing, is no ranks table, or holds no test rows.
    """
    tables = []
    for position, (path, name) in enumerate(zip(ranks, names, strict=True)):
        table = schema.RANKS.read(path).filter(pl.col("split") == "test")
        if table.is_empty():
            raise UserError(f"{path}: holds no test ranks of {name}; rank again")
        columns = [pl.col("task").cast(pl.String), "sample_id", "target_item", "rank", "n_candidates"]
        tables.append(table.select(columns).with_columns(method=pl.lit(name), position=pl.lit(position)))
    connection = duckdb.connect()
    # One thread adds in one order, so equal files give equal sums.
    connection.execute("SET threads = 1")
    connection.register("ranks", pl.concat(tables).to_arrow())
    return connection


def check_same_samples(connection: duckdb.DuckDBPyConnection) -> None:
    """Raise UserError when two methods of one task did not rank the same targets among equally many candidates."""
    found = connection.execute(
        """
        WITH methods AS (SELECT task, list(DISTINCT method ORDER BY position) AS methods FROM ranks GROUP BY task)
        SELECT task, sample_id, list(method ORDER BY position) AS having_it, any_value(methods) AS all_methods
        FROM ranks JOIN methods USING (task)
        GROUP BY task, sample_id, target_item, n_candidates
        HAVING count(*) < len(any_value(methods))
        ORDER BY task, sample_id
        LIMIT 1
        """
    ).fetchone()
    if found is not None:
        task, sample, having_it, all_methods = found
        lacking_it = next(method for method in all_methods if method not in having_it)
        raise UserError(
            f"{task}: {having_it[0]} and {lacking_it} ranked different test targets or candidates (sample {sample}, for "
            "one); delete the ranks that are older than the samples and run again"
        )


def metrics(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    """One row a task and method, recommendation first, methods in their order: the columns of the table."""
    columns = ", ".join(f'{_metric(name)} AS "{name}"' for name in METRICS)
    return connection.execute(
        f"SELECT task, method, {columns}, count(*) FROM ranks GROUP BY task, method ORDER BY task, min(position)"
    ).fetchall()


def _metric(name: str) -> str:
    """A metric (see ranking.metrics) over the column `rank`, in SQL."""
    kind, k = name.split("@")
    gain = "1.0" if kind == "hr" else "1.0 / log2(rank + 1.0)"
    return f"avg(CASE WHEN rank <= {k} THEN {gain} ELSE 0.0 END)"


def _marked(rows: Sequence[Row]) -> list[list[str]]:
    """The rows as Markdown shows them: the best value of each task and metric bold, the second best underlined."""
    shown = [_cells(row, _SHOWN_DECIMALS) for row in rows]
    for task in schema.TASKS:
        of_task = [cells for row, cells in zip(rows, shown, strict=True) if row[0] == task]
        for column in range(2, 2 + len(METRICS)):
            values = sorted({cells[column] for cells in of_task}, key=float, reverse=True)
            if len(of_task) < 2:
                continue
            for cells in of_task:
                if cells[column] == values[0]:
                    cells[column] = f"**{cells[column]}**"
                elif cells[column] == values[1]:
                    cells[column] = f"<u>{cells[column]}</u>"
    return shown


def _cells(row: Row, decimals: int) -> list[str]:
    return [f"{cell:.{decimals}f}" if isinstance(cell, float) else str(cell) for cell in row]

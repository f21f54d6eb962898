"""Tabulate the cost of each row of a metric table, from stage records: weights, seconds of training and of ranking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from gensar_core import schema
from gensar_core.evaluation.table_formats import markdown_table
from gensar_core.runtime.stage import Stage, read_record

_DECIMALS = 1
_SECONDS = ("training seconds", "training CPU seconds", "ranking seconds")


def cost_table(models: Sequence[Path], ranks: Sequence[Path], names: Sequence[str], output: Path) -> None:
    """Write {output}.csv and {output}.md: the cost of fitting and ranking, one row per method, ordered as ``names``.

    A name that occurs several times is a method trained once per seed; its row shows means.

    ``models`` are the folders of the fitted methods, ``ranks`` their ranks files; both have a record beside them.
    Raises UserError when a record is missing.
    """
    records = [path.with_suffix(".stage.json") for path in ranks] + [folder / "stage.json" for folder in models]
    with Stage.named_after(output, "cost_table", inputs=records, code=__name__) as stage:
        table = costs(models, ranks, names)
        table.write_csv(stage.path(f"{output.name}.csv"), float_precision=_DECIMALS)
        rows = [[_shown(cell) for cell in row] for row in table.iter_rows()]
        stage.path(f"{output.name}.md").write_text(markdown_table(table.columns, rows), encoding="utf-8")
        stage.record(rows=len(table))


def costs(models: Sequence[Path], ranks: Sequence[Path], names: Sequence[str]) -> pl.DataFrame:
    """Return the cost table, a row for each method: `tasks`, `parameters`, seconds of training and ranking, `device`.

    Training is everything that a method does before it ranks, validation included, and the trainings that it started
    from; one that was killed and continued counts from where it continued. Its CPU seconds are those of all threads, so
    that rows compare which ran on other numbers of them, or beside other work. Ranking covers the valid and test
    targets of all tasks that the method ranks, and the work of all jobs that share it. If a name occurs several times,
    seconds are means over its runs.
    """
    rows = []
    for model, path, name in zip(models, ranks, names, strict=True):
        fitted, ranked = read_record(model / "stage.json"), read_record(path.with_suffix(".stage.json"))
        ranked_tasks = set(pl.scan_parquet(path).select("task").unique().collect(engine="streaming")["task"])
        rows.append(
            {
                "method": name,
                "tasks": "+".join(task for task in schema.TASKS if task in ranked_tasks),
                "parameters": fitted["counts"]["parameters"],
                "training seconds": _of_training(fitted, "seconds"),
                "training CPU seconds": _of_training(fitted, "cpu_seconds"),
                "ranking seconds": float(ranked["seconds"] + ranked["counts"].get("parts_seconds", 0.0)),
                "device": fitted["device"],
            }
        )
    table = pl.DataFrame(rows)
    if len(set(names)) == len(names):
        return table
    runs = table.group_by("method", maintain_order=True)
    others = [name for name in table.columns if name not in ("method", *_SECONDS)]
    return runs.agg(pl.col(others).first(), pl.col(_SECONDS).mean()).select(table.columns)


def _of_training(fitted: Mapping[str, Any], name: str) -> float:
    """Add what a method's training took, or a stage that only trains, to what the trainings before it did."""
    counts = fitted["counts"]
    # Records of earlier versions hold no CPU seconds.
    own = counts.get(f"training_{name}", fitted.get(name, math.nan))
    return float(own + counts.get(f"earlier_{name}", 0.0))


def _shown(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.{_DECIMALS}f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)

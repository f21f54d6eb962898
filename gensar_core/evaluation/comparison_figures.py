"""Draw metrics of several rows side by side: the paper's Figures 1, 4, 6 and 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.tables import FigureSettings
from gensar_core.errors import UserError
from gensar_core.evaluation.figure_files import TASK_TITLES, new_figure, save_figure
from gensar_core.evaluation.targets import check_same_targets, read_test_ranks
from gensar_core.ranking.metrics import count_codes, gain_deviation, mean_gain
from gensar_core.runtime.stage import Stage

#: Half-width of a 95 % interval, in standard errors.
_INTERVAL = 1.96


def comparison_figure(ranks: Mapping[str, Path], settings: FigureSettings, figure: Path) -> None:
    """Draw ``{figure}.svg`` and ``.png`` of the rows' ranks files, and write the numbers drawn to ``{figure}.csv``.

    `bars` draws a panel per task, with a bar for each series and metric; `tradeoff` draws recommendation against
    search, with a point per row and a line per series. Whiskers are 95 % intervals over targets. Raises UserError when
    a series of bars has two rows for one task, and when a row of a trade-off does not rank both tasks.
    """
    options = {"settings": settings, "inputs": ranks.values(), "code": __name__}
    with Stage.named_after(figure, "comparison_figure", **options) as stage:
        table = points(ranks, settings)
        draw = _bars if settings.kind == "bars" else _tradeoff
        draw(table, settings, stage.path(figure.name))
        table.write_csv(stage.path(f"{figure.name}.csv"), float_precision=6)
        stage.record(points=len(table))


def points(ranks: Mapping[str, Path], settings: FigureSettings) -> pl.DataFrame:
    """Tabulate series, rows, tasks and metrics: `series`, `row`, `task`, `metric`, `mean`, `error` (95 %).

    Raises UserError when a file holds no ranks of test targets, and when two files rank different targets of a task.
    """
    files = {path: read_test_ranks(path) for path in ranks.values()}
    check_same_targets(files)
    rows: list[dict[str, Any]] = []
    for series in settings.series:
        for row in series.rows:
            for task, codes in files[ranks[row]].codes.items():
                counts = count_codes(codes["rank"])
                for metric in settings.metrics:
                    error = _INTERVAL * gain_deviation(counts, metric) / np.sqrt(len(codes))
                    rows.append(
                        {"series": series.label, "row": row, "task": task, "metric": metric}
                        | {"mean": mean_gain(counts, metric), "error": float(error)}
                    )
    return pl.DataFrame(rows)


def _bars(table: pl.DataFrame, settings: FigureSettings, path: Path) -> None:
    tasks = [task for task in schema.TASKS if task in table.get_column("task")]
    figure, axes = new_figure(1, len(tasks), width=1.8 + 0.5 * len(settings.series), height=3.0)
    for axis, task in zip(axes[0], tasks, strict=True):
        labels = [series.label for series in settings.series]
        drawn = [label for label in labels if len(_of(table, task, label))]
        width = 0.8 / len(drawn)
        for place, name in enumerate(drawn):
            bars = _of(table, task, name)
            if len(bars) > len(settings.metrics):
                raise UserError(f"figure {path.name}: series {name!r} has several rows that rank {task}; keep one")
            at = np.arange(len(bars)) + (place - (len(drawn) - 1) / 2) * width
            color = f"C{labels.index(name)}"
            axis.bar(at, bars["mean"].to_numpy(), width, yerr=bars["error"].to_numpy(), label=name, color=color)
        axis.set_xticks(range(len(settings.metrics)), [metric.upper() for metric in settings.metrics])
        axis.set_title(TASK_TITLES[task])
    _legend(figure, axes[0])
    save_figure(figure, path)


def _tradeoff(table: pl.DataFrame, settings: FigureSettings, path: Path) -> None:
    figure, axes = new_figure(1, len(settings.metrics), width=4.2, height=3.4)
    for axis, metric in zip(axes[0], settings.metrics, strict=True):
        for name, rows in ((series.label, series.rows) for series in settings.series):
            sides = [
                table.filter((pl.col("task") == task) & (pl.col("series") == name) & (pl.col("metric") == metric))
                for task in schema.TASKS
            ]
            if not all(side.get_column("row").to_list() == rows for side in sides):
                raise UserError(f"figure {path.name}: series {name!r}: a trade-off takes rows that rank both tasks")
            (x, y), (dx, dy) = ([side[column].to_numpy() for side in sides] for column in ("mean", "error"))
            axis.errorbar(x, y, xerr=dx, yerr=dy, marker="o", capsize=2, linewidth=1, label=name)
        axis.set(xlabel=f"recommendation, {metric.upper()}", ylabel=f"search, {metric.upper()}")
    _legend(figure, axes[0])
    save_figure(figure, path)


def _of(table: pl.DataFrame, task: str, series: str) -> pl.DataFrame:
    return table.filter((pl.col("task") == task) & (pl.col("series") == series))


def _legend(figure: Any, axes: Sequence[Any]) -> None:
    """Draw one legend below all panels, with each series once."""
    entries = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(4, len(entries)))

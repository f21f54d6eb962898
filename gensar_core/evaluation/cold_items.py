"""Tabulate and draw metrics by how often a target was clicked in training: how a method does on cold items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from gensar_core import schema
from gensar_core.evaluation.figure_files import TASK_TITLES, new_figure, save_figure
from gensar_core.evaluation.table_formats import markdown_table
from gensar_core.evaluation.targets import check_same_targets, read_test_ranks
from gensar_core.ranking.metrics import gains
from gensar_core.runtime.stage import Stage, read_record

#: Groups of targets: the name, and the largest number of training clicks.
GROUPS: Final = (("0", 0), ("1-5", 5), ("6-20", 20), ("more", None))
_METRICS: Final = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")
_DRAWN: Final = "ndcg@5"
#: Follows the name of a row that ranks cold items last.
_LAST: Final = " (cold items last)"


def cold_table(ranks: Sequence[Path], names: Sequence[str], training_events: Path, table: Path, figure: Path) -> None:
    """Write {table}.csv and .md, and draw {figure}.svg and .png.

    ``ranks`` are ranks files and ``names`` their rows' names, in the order shown; a name that occurs several times is a
    row trained once per seed, which shows means. The name of a row without vectors for cold items, which ranks them
    last, says so. ``training_events`` is the file of training clicks. Raises UserError when a file is missing or holds
    no test ranks, and when two files rank different targets.
    """
    names = [f"{name}{_LAST if _ranks_cold_last(path) else ''}" for name, path in zip(names, ranks, strict=True)]
    with Stage.named_after(table, "cold_table", inputs=[*ranks, training_events], code=__name__) as stage:
        rows = cold_metrics(ranks, names, schema.EVENTS.read(training_events))
        rows.write_csv(stage.path(f"{table.name}.csv"), float_precision=6)
        shown = [[f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row] for row in rows.iter_rows()]
        stage.path(f"{table.name}.md").write_text(markdown_table(rows.columns, shown), encoding="utf-8")
        with Stage.named_after(figure, "cold_figure", inputs=[*ranks, training_events], code=__name__) as drawn:
            _draw(rows, drawn.path(figure.name))
        stage.record(rows=len(rows))


def _ranks_cold_last(ranks: Path) -> bool:
    """Tell by the record of a ranks file whether its method ranks cold items last; a fusion's does not say."""
    counts = read_record(ranks.with_suffix(".stage.json"))["counts"]
    return bool(counts.get("cold_items_last"))


def cold_metrics(ranks: Sequence[Path], names: Sequence[str], events: pl.DataFrame) -> pl.DataFrame:
    """Return `task`, `clicks` (a group of targets), `method`, metrics and `samples`: test targets of that group.

    Clicks are those of both tasks in the training ``events`` (table `events`).
    """
    tables = {path: read_test_ranks(path) for path in ranks}
    check_same_targets(tables)
    clicks = events.group_by(target_item="item_id").agg(clicks=pl.len())
    rows: list[dict[str, Any]] = []
    for path, name in zip(ranks, names, strict=True):
        counted = tables[path].join(clicks, on="target_item", how="left").with_columns(pl.col("clicks").fill_null(0))
        for task in schema.TASKS:
            above = -1
            for group, most in GROUPS:
                within = pl.col("clicks") > above if most is None else pl.col("clicks").is_between(above + 1, most)
                above = most or 0
                of_group = counted.filter(within & (pl.col("task") == task)).get_column("rank").to_numpy()
                if len(of_group):
                    values = {metric: float(gains(of_group, metric).mean()) for metric in _METRICS}
                    rows.append({"task": task, "clicks": group, "method": name, **values, "samples": len(of_group)})
    table = pl.DataFrame(rows)
    runs = table.group_by("task", "clicks", "method", maintain_order=True)
    merged = runs.agg(pl.col(*_METRICS).mean(), pl.col("samples").first())
    places = {group: place for place, (group, _) in enumerate(GROUPS)}
    return merged.sort(
        pl.col("task").cast(pl.Enum(schema.TASKS)), pl.col("clicks").replace_strict(places), maintain_order=True
    )


def _draw(table: pl.DataFrame, path: Path) -> None:
    tasks = [task for task in schema.TASKS if task in table.get_column("task")]
    figure, axes = new_figure(1, len(tasks), width=4.4, height=3.2)
    order = [group for group, _ in GROUPS]
    for axis, task in zip(axes[0], tasks, strict=True):
        of_task = table.filter(pl.col("task") == task)
        for method in of_task.get_column("method").unique(maintain_order=True):
            line = of_task.filter(pl.col("method") == method)
            places = [order.index(group) for group in line.get_column("clicks")]
            axis.plot(places, line.get_column(_DRAWN).to_numpy(), marker="o", linewidth=1, label=method)
        axis.set_xticks(range(len(order)), order)
        axis.set(title=TASK_TITLES[task], xlabel="training clicks of the target", ylabel=_DRAWN.upper())
        axis.legend(fontsize=6)
    save_figure(figure, path)

"""Tabulate and draw metrics by how often a target was clicked in training: how a method does on cold items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.evaluation.figure_files import TASK_TITLES, new_figure, save_figure
from gensar_core.evaluation.table_formats import markdown_table
from gensar_core.evaluation.targets import check_same_targets, read_test_ranks, target_parts
from gensar_core.ranking.metrics import count_codes, mean_gain
from gensar_core.runtime.mapped_arrays import MappedArray
from gensar_core.runtime.reading import PART_ROWS
from gensar_core.runtime.stage import Stage, read_record
from gensar_core.samples.popularity import count_clicks

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
        rows = cold_metrics(ranks, names, training_events)
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


def cold_metrics(ranks: Sequence[Path], names: Sequence[str], training_events: Path) -> pl.DataFrame:
    """Return `task`, `clicks` (a group of targets), `method`, metrics and `samples`: test targets of that group.

    Clicks are those of both tasks in the file ``training_events``.
    """
    files = {path: read_test_ranks(path) for path in ranks}
    check_same_targets(files)
    # The zero at the end is of all items after the last clicked one.
    clicks = np.append(count_clicks(training_events), 0)
    most = np.array([count for _, count in GROUPS[:-1]])
    group_of: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = []
    for path, name in zip(ranks, names, strict=True):
        for task, codes in files[path].codes.items():
            if task not in group_of:
                group_of[task] = _groups(path, task, clicks, most)
            for place, (group, _) in enumerate(GROUPS):
                counts = _counts_of(codes["rank"], group_of[task], place)
                if samples := int(counts.sum()):
                    values = {metric: mean_gain(counts, metric) for metric in _METRICS}
                    rows.append({"task": task, "clicks": group, "method": name, **values, "samples": samples})
    table = pl.DataFrame(rows)
    runs = table.group_by("task", "clicks", "method", maintain_order=True)
    merged = runs.agg(pl.col(*_METRICS).mean(), pl.col("samples").first())
    places = {group: place for place, (group, _) in enumerate(GROUPS)}
    return merged.sort(
        pl.col("task").cast(pl.Enum(schema.TASKS)), pl.col("clicks").replace_strict(places), maintain_order=True
    )


def _groups(path: Path, task: str, clicks: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Return the place in ``GROUPS`` of each test target of a task, uint8 [targets], mapped from the disk.

    ``clicks`` are the training clicks of each item, the last of all further ones; ``most`` the largest of each group
    but the last.
    """
    groups = MappedArray(path.parent, np.uint8)
    for of, rows in target_parts(path):
        if of == task:
            items = rows.get_column("target_item").to_numpy()
            groups.append(np.searchsorted(most, clicks[np.minimum(items, len(clicks) - 1)]))
    return groups.read_only()


def _counts_of(codes: np.ndarray, groups: np.ndarray, place: int) -> np.ndarray:
    """Count the codes of the targets of one group; see `count_codes`."""
    counts = np.zeros_like(count_codes(codes[:0]))
    for start in range(0, len(codes), PART_ROWS):
        block = slice(start, start + PART_ROWS)
        counts += count_codes(codes[block][groups[block] == place])
    return counts


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

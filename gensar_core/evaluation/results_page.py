"""Write a Markdown page of finished metric tables, with plots of quality, its intervals and its cost."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.evaluation.figure_files import TASK_TITLES, new_figure, save_figure
from gensar_core.evaluation.significance import mean_gains, tally
from gensar_core.evaluation.table_cells import DEVIATION
from gensar_core.evaluation.targets import read_test_ranks
from gensar_core.runtime.stage import digest, read_record

#: What the command writes stands between these two lines; all else on the page is left alone.
BEGIN: Final = "<!-- gensar results-page: begin -->"
END: Final = "<!-- gensar results-page: end -->"

_METRIC: Final = "ndcg@5"
_INTERVAL: Final = 1.96
WHISKERS: Final = {
    "targets": "Whiskers are 95 % intervals over targets.",
    "seeds": "Whiskers are standard deviations over seeds.",
    "": "",
}


@dataclass(frozen=True)
class MetricTable:
    """Hold a finished metric table: its files' common path, {stem}.csv and so on, and its rows."""

    stem: Path
    rows: pl.DataFrame

    def beside(self, ending: str) -> Path:
        return self.stem.parent / f"{self.stem.name}{ending}"


def results_page(folders: Sequence[Path], page: Path) -> list[str]:
    """Write the metric tables of results ``folders`` to the Markdown file ``page``; return the tables' names.

    A table {folder}/tables/{name}.csv becomes a section: its {name}.md, a plot of NDCG@5 by method with intervals, and,
    where there is a {name}_costs.csv, the costs and a plot of NDCG@5 against training seconds. Plots are SVG files in
    the folder {page}_plots beside the page. Intervals are of 95 % over targets where the ranks files that the table
    was made from are still there, otherwise standard deviations over seeds where the table has several, otherwise
    none. If the page exists, only the lines between ``BEGIN`` and ``END`` are replaced. Raises UserError when there is
    no table, when two folders hold a table of one name, when ranks have changed since their table was made, and when
    the page has no such lines.
    """
    tables: dict[str, MetricTable] = {}
    for table in (table for folder in folders for table in finished_tables(folder)):
        other = tables.setdefault(table.stem.name, table)
        if other is not table:
            raise UserError(f"{table.stem}.csv and {other.stem}.csv have one name; give one of their folders")
    if not tables:
        raise UserError(f"{', '.join(map(str, folders))}: no metric table in tables/; build one, or name other folders")
    before, after = _around(page)
    page.parent.mkdir(parents=True, exist_ok=True)
    folder = page.parent / f"{page.stem}_plots"
    names = sorted(tables)
    with tempfile.TemporaryDirectory(dir=page.parent) as scratch:
        plots = Path(scratch)
        sections = [_section(tables[name], plots, folder.name) for name in names]
        (plots / page.name).write_text("\n".join([before + BEGIN, *sections, END + after]), encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for figure in plots.glob("*.svg"):
            os.replace(figure, folder / figure.name)
        os.replace(plots / page.name, page)
    return names


def finished_tables(folder: Path) -> Iterator[MetricTable]:
    """Yield the metric tables of a results folder, by name."""
    for path in sorted((folder.resolve() / "tables").glob("*.csv")):
        rows = pl.read_csv(path)
        # Other tables, such as costs or cold items, have other columns.
        if rows.columns[:2] == ["task", "method"] and {_METRIC, "samples"} <= {*rows.columns}:
            yield MetricTable(path.with_suffix(""), rows)


def _around(page: Path) -> tuple[str, str]:
    """Return what stands before and after the lines to replace; a new page has a heading before them."""
    if not page.exists():
        return "# Results\n\n", "\n"
    parts = re.split(f"{re.escape(BEGIN)}.*{re.escape(END)}", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    if len(parts) != 2:
        raise UserError(f"{page}: has no lines {BEGIN} and {END}; add both where the tables belong")
    return parts[0], parts[1]


def _section(table: MetricTable, plots: Path, folder: str) -> str:
    name = table.stem.name
    kind, errors = whiskers(table)
    _draw_bars(table.rows, errors, plots / name)
    caption = f"NDCG@5 by method. {WHISKERS[kind]}".strip()
    lines = [f"\n## {name}\n", _markdown(table.beside(".md")), f"![{caption}]({folder}/{name}.svg)\n\n{caption}\n"]
    if table.beside("_costs.csv").exists():
        _draw_costs(table.rows, pl.read_csv(table.beside("_costs.csv")), plots / f"{name}_costs")
        caption = "NDCG@5 against training seconds."
        lines += [f"### Costs of {name}\n", _markdown(table.beside("_costs.md"))]
        lines += [f"![{caption}]({folder}/{name}_costs.svg)\n\n{caption} Fusions are not drawn.\n"]
    return "\n".join(lines)


def _markdown(path: Path) -> str:
    if not path.exists():
        raise UserError(f"{path}: missing beside its CSV file; build the table again")
    return path.read_text(encoding="utf-8")


def whiskers(table: MetricTable, metric: str = _METRIC) -> tuple[str, dict[tuple[str, str], float]]:
    """Return the kind of a metric's whiskers (a key of ``WHISKERS``) and their half-widths by task and method."""
    ranks = _ranks(table)
    if ranks:
        return "targets", dict(_half_widths(ranks, metric))
    deviation = f"{metric}{DEVIATION}"
    if deviation in table.rows.columns:
        known = table.rows.filter(pl.col(deviation).is_not_null())
        return "seeds", {(task, method): value for task, method, value in known[["task", "method", deviation]].rows()}
    return "", {}


def _ranks(table: MetricTable) -> dict[str, list[Path]]:
    """Return the ranks files of each method, one a seed, or nothing when one of them, or the record, is gone."""
    record = table.beside(".stage.json")
    if not record.exists():
        return {}
    made_from = {path: sha for path, sha in read_record(record)["inputs"].items() if path.endswith(".parquet")}
    # Inputs are recorded relative to the folder that holds results/.
    files = {table.stem.parents[2] / path: sha for path, sha in made_from.items()}
    if not all(path.exists() for path in files):
        return {}
    methods: dict[str, list[Path]] = {}
    for path, sha in files.items():
        if digest(path) != sha:
            raise UserError(f"{path}: has changed since {table.stem}.csv was made; build the table again")
        methods.setdefault(re.sub(r"-seed\d+$", "", path.stem), []).append(path)
    return methods


def _half_widths(ranks: Mapping[str, Sequence[Path]], metric: str) -> Iterator[tuple[tuple[str, str], float]]:
    """Compute half-widths of 95 % intervals of means over test targets; a target's gain is its mean over seeds."""
    for method, paths in ranks.items():
        # A full table's ranks have more columns.
        kind = schema.FULL_RANKS if "rank_unseen" in pl.read_parquet_schema(paths[0]) else schema.RANKS
        runs = [read_test_ranks(path, kind).codes for path in paths]
        for task in runs[0]:
            values, counts = tally(mean_gains([run[task] for run in runs], metric))
            deviation = np.sqrt((values - np.average(values, weights=counts)) ** 2 @ counts / counts.sum())
            yield (task, method), float(_INTERVAL * deviation / np.sqrt(counts.sum()))


def _panels(rows: pl.DataFrame, width: float, height: float) -> tuple[Any, list[tuple[Any, pl.DataFrame]]]:
    """Create a figure with a panel per task; return it and each panel with its task's rows."""
    tasks = [task for task in schema.TASKS if task in rows["task"]]
    figure, axes = new_figure(1, len(tasks), width=width, height=height)
    for axis, task in zip(axes[0], tasks, strict=True):
        axis.set_title(TASK_TITLES[task])
    return figure, [(axis, rows.filter(pl.col("task") == task)) for axis, task in zip(axes[0], tasks, strict=True)]


def _draw_bars(rows: pl.DataFrame, errors: Mapping[tuple[str, str], float], path: Path) -> None:
    figure, panels = _panels(rows, 4.6, 0.8 + 0.2 * max(rows["task"].value_counts()["count"].to_list()))
    for axis, shown in panels:
        widths = [errors.get(key, 0.0) for key in shown[["task", "method"]].rows()]
        # Zero draws no whisker.
        axis.barh(shown["method"], shown[_METRIC], xerr=widths if any(widths) else None, color="#5b8db8")
        axis.invert_yaxis()
        axis.set_xlabel(_METRIC.upper())
    save_figure(figure, path)


def _draw_costs(rows: pl.DataFrame, costs: pl.DataFrame, path: Path) -> None:
    drawn = rows.join(costs[["method", "training seconds"]], on="method", maintain_order="left")
    figure, panels = _panels(drawn, 5.4, max(2.8, 0.8 + 0.16 * len(costs)))
    for axis, shown in panels:
        shown = shown.sort(_METRIC)
        axis.scatter(shown["training seconds"], shown[_METRIC], color="#5b8db8", zorder=2)
        # Below a second the axis is linear, so that methods without training have a place.
        axis.set_xscale("symlog", linthresh=1.0)
        axis.set(xlim=(-0.2, None), ylim=(0.0, None), xlabel="training seconds", ylabel=_METRIC.upper())
        heights = np.linspace(0.02, 0.98, len(shown)) if len(shown) > 1 else [0.5]
        line = {"arrowstyle": "-", "color": "#999", "linewidth": 0.5, "relpos": (0.0, 0.5)}
        for height, (name, seconds, value) in zip(
            heights, shown[["method", "training seconds", _METRIC]].rows(), strict=True
        ):
            axis.annotate(
                name, (seconds, value), (1.06, height), textcoords="axes fraction", va="center", arrowprops=line
            )
    save_figure(figure, path)

"""Gather the finished results of a folder on one HTML page that can be sent to anyone (`gensar report`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, Final

import polars as pl

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.evaluation.figure_files import TASK_TITLES
from gensar_core.evaluation.ranked_candidates import ranked_candidates
from gensar_core.evaluation.results_page import WHISKERS, MetricTable, finished_tables, whiskers
from gensar_core.evaluation.table_cells import DEVIATION
from gensar_core.evaluation.table_formats import page

#: The metric that a plot shows first.
_FIRST: Final = "ndcg@5"


def write_report(results: Path, output: Path) -> list[str]:
    """Write all that is finished in ``results`` to the HTML file ``output``; return the titles of its sections.

    Every metric table has a section with an interactive plot. Every data set whose samples a generator ranked has one
    with hits and misses (`ranked_candidates`). The data sets' own pages follow. The file loads nothing from elsewhere.
    Raises UserError when there is no finished metric table.
    """
    sections = dict(_sections(results))
    if not sections:
        raise UserError(
            f"{results}: no metric table in tables/; build one, such as gensar run --cores 2 results/tables/demo.csv"
        )
    links = " ".join(f'<a href="#part{place}">{escape(title)}</a>' for place, title in enumerate(sections))
    body = "".join(
        f'<section class="page"><h2 id="part{place}">{escape(title)}</h2>\n{text}</section>\n'
        for place, (title, text) in enumerate(sections.items())
    )
    script = resources.files("gensar_core.evaluation").joinpath("report_page.html").read_text(encoding="utf-8")
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.partial")
    unfinished.write_text(
        page("GenSAR: report", f"<h1>GenSAR: report</h1>\n<nav>{links}</nav>\n{body}{script}"), encoding="utf-8"
    )
    os.replace(unfinished, output)
    return list(sections)


def _sections(results: Path) -> Iterator[tuple[str, str]]:
    for place, table in enumerate(finished_tables(results)):
        written = _body(table.beside(".html")) if table.beside(".html").is_file() else ""
        yield f"Table: {table.stem.name}", written + _plot(table, with_library=not place)
    for dataset in sorted(path.parent for path in results.glob("*/samples")):
        if answers := ranked_candidates(dataset):
            yield f"Hits and misses: {dataset.name}", answers
    for path in sorted((results / "overview").glob("*.html")):
        # In a frame of its own, since anchors and ids of two pages may be equal.
        frame = f'<iframe title="{escape(path.stem)}" srcdoc="{escape(path.read_text(encoding="utf-8"))}"></iframe>'
        yield f"Data set: {path.stem}", frame


def _body(path: Path) -> str:
    """Return what one of the project's own pages shows."""
    found = re.search(r"<body>(.*)</body>", path.read_text(encoding="utf-8"), re.DOTALL)
    return found[1] if found else ""


def _plot(table: MetricTable, *, with_library: bool) -> str:
    """Draw a table as bars, a panel per task, with a menu of its metrics; Plotly's code comes along once."""
    from plotly.graph_objects import Figure
    from plotly.subplots import make_subplots

    tasks = [task for task in schema.TASKS if task in table.rows["task"]]
    metrics = [name for name in table.rows.columns if "@" in name and not name.endswith(DEVIATION)]
    counts = [table.rows.filter(pl.col("task") == task).height for task in tasks]
    figure: Figure = make_subplots(
        rows=len(tasks),
        subplot_titles=[TASK_TITLES[task] for task in tasks],
        row_heights=counts,
        vertical_spacing=0.4 / (2 + sum(counts) / 4),
        shared_xaxes=True,
    )
    kind = ""
    for metric in metrics:
        kind, errors = whiskers(table, metric)
        for row, task in enumerate(tasks, 1):
            shown = table.rows.filter(pl.col("task") == task)
            values = shown[metric].to_list()
            widths = [errors.get((task, method), 0.0) for method in shown["method"]]
            # No metric is negative.
            below = [min(width, value) for width, value in zip(widths, values, strict=True)]
            figure.add_bar(
                x=values,
                y=shown["method"].to_list(),
                error_x={"array": widths, "arrayminus": below, "color": "#555"} if any(widths) else None,
                orientation="h",
                marker_color="#5b8db8",
                name=metric.upper(),
                visible=metric == _FIRST,
                row=row,
                col=1,
            )
    buttons: list[dict[str, Any]] = [
        {
            "label": metric.upper(),
            "method": "update",
            "args": [{"visible": [other == metric for other in metrics for _ in tasks]}],
        }
        for metric in metrics
    ]
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(
        height=220 + 24 * sum(counts),
        template="plotly_white",
        showlegend=False,
        margin={"l": 10, "r": 10, "t": 90, "b": 30},
        updatemenus=[
            {
                "buttons": buttons,
                "active": metrics.index(_FIRST),
                "x": 0,
                "xanchor": "left",
                "y": 1.0,
                "yanchor": "bottom",
                "pad": {"b": 30},
            }
        ],
    )
    drawn: str = figure.to_html(
        full_html=False,
        include_plotlyjs=with_library,
        div_id=f"plot-{re.sub(r'[^A-Za-z0-9]', '-', table.stem.name)}",
        config={"displaylogo": False, "responsive": True},
    )
    return f"{drawn}\n<p>{escape(WHISKERS[kind])}</p>\n"

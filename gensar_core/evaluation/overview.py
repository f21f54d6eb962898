"""Show all experiments of one data set on one self-contained HTML page, figures included."""

from __future__ import annotations

import csv
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gensar_core.evaluation.table_formats import html_table, page
from gensar_core.runtime.stage import Stage, read_record

_DIGITS = 4


@dataclass(frozen=True)
class Sources:
    """List the files that a page shows, in the order shown."""

    statistics: Path
    audit: Path
    #: Identifier set -> its quality.json.
    quality: Mapping[str, Path]
    #: Name of a figure -> its SVG; `distributions`, `training` and `collisions` have separate sections.
    figures: Mapping[str, Path]
    #: Name of a table -> its HTML page.
    tables: Mapping[str, Path]
    #: Records of the stages that took part.
    records: Sequence[Path]


def overview(dataset: str, sources: Sources, captions: Mapping[str, str], output: Path) -> None:
    """Write the page ``output``; ``captions`` holds a paragraph per kind of section."""
    inputs = [sources.statistics, sources.audit, *sources.quality.values(), *sources.records]
    inputs += [*sources.figures.values(), *sources.tables.values()]
    with Stage.named_after(output.with_suffix(""), "overview", inputs=inputs, code=__name__) as stage:
        sections = list(_sections(sources, captions))
        links = " ".join(f'<a href="#{_anchor(title)}">{html.escape(title)}</a>' for title, _ in sections)
        body = "".join(f'<h2 id="{_anchor(title)}">{html.escape(title)}</h2>\n{text}' for title, text in sections)
        heading = f"<h1>{html.escape(dataset)}</h1>\n<p>{html.escape(captions['overview'])}</p>\n<nav>{links}</nav>\n"
        stage.path(output.name).write_text(page(f"GenSAR: {dataset}", heading + body), encoding="utf-8")
        stage.record(sections=len(sections))


def _sections(sources: Sources, captions: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    def captioned(kind: str, content: str) -> str:
        return f"<p>{html.escape(captions[kind])}</p>\n{content}"

    figures = dict(sources.figures)
    yield "Data", captioned("statistics", _statistics(sources.statistics))
    yield "Distributions", captioned("distributions", _svg(figures.pop("distributions")))
    yield "Leak audit", captioned("audit", _audit(sources.audit))
    if sources.quality:
        yield "Identifiers", captioned("quality", _quality(sources.quality))
    for kind in ("collisions", "training"):
        if kind in figures:
            yield kind.capitalize(), captioned(kind, _svg(figures.pop(kind)))
    for name, path in sources.tables.items():
        yield f"Table: {name}", captioned("table", _inside(path, "section"))
    for name, path in figures.items():
        yield f"Figure: {name}", captioned("figure", _svg(path))
    yield "Settings and versions", captioned("settings", _settings(sources.records))


def _statistics(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    return html_table(["", "value"], [(key.replace("_", " "), value) for key, value in row.items()])


def _audit(path: Path) -> str:
    """Format the audit: one row per task and split, one column per count."""
    audit = json.loads(path.read_text(encoding="utf-8"))
    parts = {
        (task, split): counts
        for task, splits in audit.items()
        if isinstance(splits, dict)
        for split, counts in splits.items()
        if isinstance(counts, dict)
    }
    names = list(dict.fromkeys(name for counts in parts.values() for name in counts))
    rows = [
        [task, split, *(_number(counts.get(name, "")) for name in names)] for (task, split), counts in parts.items()
    ]
    return html_table(["task", "split", *(name.replace("_", " ") for name in names)], rows)


def _quality(reports: Mapping[str, Path]) -> str:
    columns = ("raw_collision_rate", "collision_rate", "unexplained_variance", "usage", "perplexity")
    rows = []
    for name, path in reports.items():
        report = json.loads(path.read_text(encoding="utf-8"))
        rows += [
            [name, side, *(_number(report[side].get(column, "")) for column in columns)] for side in report["sides"]
        ]
    return html_table(["identifiers", "side", *(column.replace("_", " ") for column in columns)], rows)


def _settings(paths: Sequence[Path]) -> str:
    records = [read_record(path) for path in paths]
    rows = [
        (
            record["stage"],
            str(path.parent if path.name == "stage.json" else path.name.removesuffix(".stage.json")),
            f"{record['seconds']:,.1f}",
            f"{record['peak_memory_gb']:.2f}",
            record["device"],
        )
        for path, record in zip(paths, records, strict=True)
    ]
    versions = {name: version for record in records for name, version in record["versions"].items()}
    seeds = sorted({record["seed"] for record in records if record["seed"] is not None})
    settings = "".join(
        f"<li>{html.escape(record['stage'])}, {html.escape(str(path.parent))}: "
        f"<code>{html.escape(json.dumps(record['settings'], ensure_ascii=False))}</code></li>\n"
        for path, record in zip(paths, records, strict=True)
        if record["settings"]
    )
    return (
        html_table(["stage", "of", "seconds", "peak GB", "device"], rows)
        + f"<p>Seed: {', '.join(map(str, seeds))}. Versions: "
        + html.escape(", ".join(f"{name} {version}" for name, version in versions.items()))
        + f".</p>\n<details><summary>Settings of every stage</summary><ul>\n{settings}</ul></details>\n"
    )


def _svg(path: Path) -> str:
    """Embed a figure without its file header; prefix its ids, since a page holds several figures."""
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    for attribute in ('id="', 'href="#', "url(#"):
        text = text.replace(attribute, f"{attribute}{path.stem}-")
    return f"<figure>{text}</figure>\n"


def _inside(path: Path, tag: str) -> str:
    """Return the first element of a kind in one of the project's own pages."""
    element = re.search(rf"<{tag}\b.*?</{tag}>", path.read_text(encoding="utf-8"), re.DOTALL)
    return element[0] + "\n" if element else ""


def _number(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_number(one) for one in value)
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower())

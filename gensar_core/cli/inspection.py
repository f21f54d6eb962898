"""Describe a data set's folder from its tables and records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gensar_core import schema
from gensar_core.errors import UserError

#: Counts of the stage `canonical` that report what was left out: by the endings of their names, and by full names.
_LOST = ("_broken_lines", "_duplicate", "_outside_core", "_unknown_item", "_item_without_text")
_LOST_COUNTS = (
    "duplicate_reviews",
    "metadata_duplicates",
    "reviews_on_dropped_items",
    "items_without_metadata",
    "items_without_text",
    "items_without_query",
    "paths_of_one_level",
    "empty_queries",
    "qrels_unknown_queries",
    "qrels_empty_queries",
    "search_pairs_on_dropped_items",
    "search_pairs_without_review",
)
#: Column of the data set's statistics -> its label here.
_STATISTICS = (
    ("density_rec", "density of recommendation clicks"),
    ("density_search", "density of search clicks"),
    ("mean_recommendations_before_rec", "clicks before a recommendation target, mean"),
    ("mean_searches_before_search", "searches before a search target, mean"),
    ("items_with_description", "items with a description"),
    ("mean_words_per_item", "words an item, mean"),
    ("mean_words_per_query", "words a query, mean"),
)


def inspection(folder: Path) -> Iterator[str]:
    """Yield lines about a data set's folder: log, rows left out, samples and their audit, tables, stages.

    Raises UserError when the folder is missing, or holds no finished stage.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; data sets lie under results/")
    records = {str(path.relative_to(folder)): _read(path) for path in sorted(folder.rglob("*stage.json"))}
    if not records:
        raise UserError(f"{folder}: no finished stage in it; build one, such as {folder}/canonical/events.parquet")
    parts = (
        _log(records.get("canonical/stage.json")),
        _statistics(folder),
        _lost(records.get("canonical/stage.json")),
        _samples(folder / "samples" / "audit.json"),
        _tables(folder),
        _stages(records),
    )
    for place, part in enumerate(lines for lines in parts if lines):
        if place:
            yield ""
        yield from part


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        raise UserError(f"{path}: not readable as JSON; delete it and run its stage again") from None
    return content


def _log(record: dict[str, Any] | None) -> list[str]:
    """Count users, items, queries and clicks."""
    if record is None:
        return []
    counts = record["counts"]
    lines = [("users", "users"), ("items", "items"), ("queries", "queries")]
    lines += [("recommendation clicks", "recommendation_interactions"), ("search clicks", "search_interactions")]
    rows = [(name, _number(counts[key])) for name, key in lines if key in counts]
    return ["What the log holds", *_columns(rows)]


def _statistics(folder: Path) -> list[str]:
    """Show selected statistics of the data set, if they have been computed."""
    path = folder.parent / "tables" / f"{folder.name}_statistics.csv"
    if not path.is_file():
        return []
    import polars as pl

    row = pl.read_csv(path).row(0, named=True)
    rows = [(name, _number(row[key])) for key, name in _STATISTICS if row.get(key) is not None]
    return [f"Statistics (all of them: {path})", *_columns(rows)]


def _lost(record: dict[str, Any] | None) -> list[str]:
    """Count what the preparation skipped, by reason."""
    if record is None:
        return []
    lost = {
        name: count
        for name, count in record["counts"].items()
        if isinstance(count, int) and count and (name in _LOST_COUNTS or name.endswith(_LOST))
    }
    if not lost:
        return ["Left out: nothing"]
    rows = [(name.replace("_", " "), _number(count)) for name, count in lost.items()]
    return ["Left out (the first lines of each kind: canonical/stage.json)", *_columns(rows)]


def _samples(path: Path) -> list[str]:
    """Count the samples of each task and split, with the results of their audit."""
    if not path.is_file():
        return []
    audit = _read(path)
    groups = [(task, split) for task in schema.TASKS for split in schema.SPLITS if task in audit]
    marks = dict.fromkeys(mark for task, split in groups for mark in audit[task][split])
    rows = [("", *(f"{task} {split}" for task, split in groups))]
    for mark in marks:
        show = _percent if mark.endswith("_share") else _number
        counts = [audit[task][split].get(mark) for task, split in groups]
        rows.append((mark.replace("_", " "), *("-" if count is None else show(count) for count in counts)))
    made = [f"{audit['history_protocol']} protocol", f"split by {audit['split'].replace('_', ' ')}"]
    # Audits of earlier versions lack this key.
    cutoff = audit.get("training_cutoff", "none")
    if cutoff != "none":
        made.append(f"training cut off {cutoff.replace('_', ' ')}")
    title = f"Samples and their audit ({', '.join(made)})"
    late = {name: count for name, count in audit.get("time_split", {}).items() if name.startswith("late_") and count}
    late_lines = [f"  {name.replace('_', ' ')}: {_number(count)}" for name, count in late.items()]
    return [title, *_columns(rows), *late_lines]


def _tables(folder: Path) -> list[str]:
    """List every table with its rows and its size."""
    from pyarrow import parquet

    rows = [
        (str(path.relative_to(folder)), f"{parquet.read_metadata(path).num_rows:,} rows", _size(path))
        for path in sorted(folder.glob("*/*.parquet"))
        if path.stem in schema.TABLES or path.stem == "training_events" or path.parent.name == "ranks"
    ]
    return ["Tables", *_columns(rows)] if rows else []


def _stages(records: dict[str, dict[str, Any]]) -> list[str]:
    """List every finished stage with its time and memory, and its warnings below it."""
    rows, below = [], {}
    for name, record in records.items():
        where = name.removesuffix("stage.json").rstrip("/.") or "."
        rows.append((where, f"{record['seconds']:,.1f} s", f"{record['peak_memory_gb']:.2f} GB"))
        below[len(rows) - 1] = [f"    warning: {warning}" for warning in record["warnings"]]
    lines = list(_columns(rows))
    return ["Stages", *(line for place, row in enumerate(lines) for line in (row, *below[place]))]


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Align rows: the first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))] if rows else []
    for first, *others in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([f"  {first:<{widths[0]}}", *cells]).rstrip()


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _size(path: Path) -> str:
    size = float(path.stat().st_size)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"

"""Describe a data set: the paper's Table 2, extended, and the distributions of its users, items and queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.evaluation.figure_files import TASK_TITLES, new_figure, save_figure
from gensar_core.evaluation.table_formats import markdown_table
from gensar_core.runtime.arrays import add_counts
from gensar_core.runtime.reading import table_parts
from gensar_core.runtime.stage import Stage

_NONE: Final = np.zeros(0, dtype=np.int64)


def data_statistics(name: str, canonical: Path, samples: Path, table: Path, figure: Path) -> None:
    """Write ``{table}.csv`` and ``.md`` (one row) and ``{figure}.svg`` and ``.png`` (four distributions).

    ``canonical`` and ``samples`` are the folders of those stages. Interactions count prediction targets, as the paper's
    Table 2 does; events count every click.
    """
    inputs = [canonical / "events.parquet", canonical / "items.parquet", samples / "samples.parquet"]
    counts = Counts.of(canonical, samples)
    row = {"dataset": name, **counts.statistics()}
    with Stage.named_after(table, "statistics", inputs=inputs) as stage:
        pl.DataFrame([row]).write_csv(stage.path(f"{table.name}.csv"), float_precision=6)
        shown = [(key.replace("_", " "), _readable(value)) for key, value in row.items()]
        stage.path(f"{table.name}.md").write_text(markdown_table(["figure", "value"], shown), encoding="utf-8")
        stage.record(**row)
    with Stage.named_after(figure, "distributions", inputs=inputs) as stage:
        _draw(counts, stage.path(figure.name))


@dataclass
class TaskCounts:
    """Count the events and targets of one task.

    ``users`` and ``items`` are the clicks of each, ``pairs`` the distinct pairs of user and item among them;
    ``target_users`` are the targets of each user, ``lengths`` the targets by clicks and searches before them, and
    ``before`` the sums of both.
    """

    users: np.ndarray
    items: np.ndarray
    pairs: int
    target_users: np.ndarray
    lengths: np.ndarray
    before: np.ndarray

    @classmethod
    def none(cls) -> TaskCounts:
        """Return counts of nothing."""
        return cls(_NONE, _NONE, 0, _NONE, _NONE, np.zeros(2, dtype=np.int64))

    def add_events(self, events: pl.DataFrame) -> None:
        """Count all events of some users."""
        self.users = add_counts(self.users, events.get_column("user_id").to_numpy())
        self.items = add_counts(self.items, events.get_column("item_id").to_numpy())
        self.pairs += events.select("user_id", "item_id").n_unique() if len(events) else 0

    def add_targets(self, samples: pl.DataFrame) -> None:
        """Count samples."""
        lengths = history_lengths(samples)
        self.target_users = add_counts(self.target_users, samples.get_column("user_id").to_numpy())
        self.lengths = add_counts(self.lengths, lengths.sum_horizontal().to_numpy())
        self.before += [lengths.get_column(name).sum() for name in lengths.columns]


@dataclass
class Counts:
    """Count the tables of a data set: by task, clicks of each user and after each query, and words of texts."""

    tasks: dict[str, TaskCounts]
    users: np.ndarray
    queries: np.ndarray
    texts: dict[str, int | float]

    @classmethod
    def of(cls, canonical: Path, samples: Path) -> Counts:
        """Count the tables in the folders of the stages `canonical` and `samples`, part by part."""
        counts = cls({task: TaskCounts.none() for task in schema.TASKS}, _NONE, _NONE, _text_counts(canonical))
        for events in _of_whole_users(canonical / "events.parquet"):
            for task, of_task in counts.tasks.items():
                of_task.add_events(events.filter(pl.col("task") == task))
            counts.users = add_counts(counts.users, events.get_column("user_id").to_numpy())
            counts.queries = add_counts(counts.queries, events.get_column("query_id").drop_nulls().to_numpy())
        columns = ["task", "user_id", "history_behavior"]
        for rows in table_parts(samples / "samples.parquet", schema.SAMPLES, columns=columns):
            for task, of_task in counts.tasks.items():
                of_task.add_targets(rows.filter(pl.col("task") == task))
        return counts

    def statistics(self) -> dict[str, int | float]:
        """Compute counts, densities, history lengths and text coverage.

        A density is the share of all (user, item) pairs that occur among a task's events.
        """
        users, items = int(np.count_nonzero(self.users)), self.texts["items"]
        counts: dict[str, int | float] = {"users": users, "items": items, "queries": self.texts["queries"]}
        for task, of_task in self.tasks.items():
            targets = int(of_task.lengths.sum())
            recommendations, searches = (of_task.before / max(1, targets)).tolist()
            counts |= {
                f"events_{task}": int(of_task.users.sum()),
                f"interactions_{task}": targets,
                f"users_{task}": int(np.count_nonzero(of_task.target_users)),
                f"density_{task}": of_task.pairs / max(1, users * items),
                f"mean_recommendations_before_{task}": recommendations,
                f"mean_searches_before_{task}": searches,
            }
        return counts | {name: value for name, value in self.texts.items() if name not in counts}


def _text_counts(canonical: Path) -> dict[str, int | float]:
    """Count items and queries, and the words and the presence of their texts."""
    items, queries, described, titled = 0, 0, 0, 0
    item_words, query_words = 0, 0
    for part in table_parts(canonical / "items.parquet", schema.ITEMS, columns=["text", "description"]):
        items += len(part)
        titled += part.filter(pl.col("text").str.len_chars() > 0).height
        described += part.filter(pl.col("description").str.len_chars() > 0).height
        item_words += _words(part)
    for part in table_parts(canonical / "queries.parquet", schema.QUERIES, columns=["text"]):
        queries += len(part)
        query_words += _words(part)
    return {
        "items": items,
        "queries": queries,
        "items_with_text": titled,
        "items_with_description": described,
        "mean_words_per_item": item_words / max(1, items),
        "mean_words_per_query": query_words / max(1, queries),
    }


def _words(texts: pl.DataFrame) -> int:
    return int(texts.get_column("text").str.split(" ").list.len().sum())


def _of_whole_users(path: Path) -> Iterator[pl.DataFrame]:
    """Yield the events table, which is ordered by user, in parts with all events of their users."""
    columns = ["user_id", "task", "item_id", "query_id"]
    rest: pl.DataFrame | None = None
    for part in table_parts(path, schema.EVENTS, columns=columns):
        rows = part if rest is None else pl.concat([rest, part])
        last = pl.col("user_id") == rows.get_column("user_id")[-1]
        rest = rows.filter(last)
        yield rows.filter(~last)
    if rest is not None:
        yield rest


def history_lengths(samples: pl.DataFrame) -> pl.DataFrame:
    """Count the recommendation clicks and the queries in each sample's history."""
    behavior = pl.col("history_behavior")
    return samples.select(
        recommendations=behavior.list.count_matches(pl.lit(schema.RECOMMENDED_ITEM, pl.UInt8)),
        searches=behavior.list.count_matches(pl.lit(schema.SEARCHED_QUERY, pl.UInt8)),
    )


def _readable(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _draw(counts: Counts, path: Path) -> None:
    figure, axes = new_figure(2, 2)
    for task, label in TASK_TITLES.items():
        of_task = counts.tasks[task]
        axes[0][0].loglog(*_by_rank(of_task.users), label=label)
        axes[0][1].loglog(*_by_rank(of_task.items), label=label)
        lengths = np.flatnonzero(of_task.lengths)
        axes[1][1].plot(lengths, of_task.lengths[lengths] / max(1, of_task.lengths.sum()), label=label)
    if counts.queries.any():
        axes[1][0].loglog(*_by_rank(counts.queries), color="C1", label="search")
    targets = sum(int(of_task.lengths.sum()) for of_task in counts.tasks.values())
    for axis, title, x, y in (
        (axes[0][0], f"{np.count_nonzero(counts.users):,} users", "rank of the user", "clicks"),
        (axes[0][1], f"{counts.texts['items']:,} items", "rank of the item", "clicks"),
        (axes[1][0], f"{counts.texts['queries']:,} queries", "rank of the query", "clicks after it"),
        (axes[1][1], f"{targets:,} targets", "clicks and searches before the target", "share of targets"),
    ):
        axis.set(title=title, xlabel=x, ylabel=y)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    save_figure(figure, path)


def _by_rank(clicks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks and clicks of users, items or queries in the order of their clicks, most first.

    Of those with equal clicks, the first and the last: a line through both passes all others.
    """
    sizes = np.bincount(clicks, minlength=1)
    sizes[0] = 0
    values = np.flatnonzero(sizes)[::-1]
    last = np.cumsum(sizes[values])
    return np.stack([last - sizes[values] + 1, last], axis=1).ravel(), np.repeat(values, 2)

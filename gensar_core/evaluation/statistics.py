"""Describe a data set: the paper's Table 2, extended, and the distributions of its users, items and queries."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from gensar_core import schema
from gensar_core.evaluation.figure_files import TASK_TITLES, new_figure, save_figure
from gensar_core.evaluation.table_formats import markdown_table
from gensar_core.runtime.stage import Stage


def data_statistics(name: str, canonical: Path, samples: Path, table: Path, figure: Path) -> None:
    """Write ``{table}.csv`` and ``.md`` (one row) and ``{figure}.svg`` and ``.png`` (four distributions).

    ``canonical`` and ``samples`` are the folders of those stages. Interactions count prediction targets, as the paper's
    Table 2 does; events count every click.
    """
    inputs = [canonical / "events.parquet", canonical / "items.parquet", samples / "samples.parquet"]
    tables = (
        schema.EVENTS.read(canonical / "events.parquet"),
        schema.ITEMS.read(canonical / "items.parquet"),
        schema.QUERIES.read(canonical / "queries.parquet"),
        schema.SAMPLES.read(samples / "samples.parquet"),
    )
    row = {"dataset": name, **statistics(*tables)}
    with Stage.named_after(table, "statistics", inputs=inputs) as stage:
        pl.DataFrame([row]).write_csv(stage.path(f"{table.name}.csv"), float_precision=6)
        shown = [(key.replace("_", " "), _readable(value)) for key, value in row.items()]
        stage.path(f"{table.name}.md").write_text(markdown_table(["figure", "value"], shown), encoding="utf-8")
        stage.record(**row)
    with Stage.named_after(figure, "distributions", inputs=inputs) as stage:
        _draw(*tables, stage.path(figure.name))


def statistics(
    events: pl.DataFrame, items: pl.DataFrame, queries: pl.DataFrame, samples: pl.DataFrame
) -> dict[str, int | float]:
    """Compute counts, densities, history lengths and text coverage of a data set's tables.

    A density is the share of all (user, item) pairs that occur among a task's events.
    """
    users = events.get_column("user_id").n_unique()
    counts: dict[str, int | float] = {"users": users, "items": len(items), "queries": len(queries)}
    for task in schema.TASKS:
        clicks = events.filter(pl.col("task") == task)
        targets = samples.filter(pl.col("task") == task)
        lengths = history_lengths(targets)
        pairs = clicks.select("user_id", "item_id").n_unique() if len(clicks) else 0
        counts |= {
            f"events_{task}": len(clicks),
            f"interactions_{task}": len(targets),
            f"users_{task}": targets.get_column("user_id").n_unique(),
            f"density_{task}": pairs / max(1, users * len(items)),
            f"mean_recommendations_before_{task}": _mean(lengths.get_column("recommendations")),
            f"mean_searches_before_{task}": _mean(lengths.get_column("searches")),
        }
    words = items.get_column("text").str.split(" ").list.len()
    return counts | {
        "items_with_text": items.filter(pl.col("text").str.len_chars() > 0).height,
        "items_with_description": items.filter(pl.col("description").str.len_chars() > 0).height,
        "mean_words_per_item": _mean(words),
        "mean_words_per_query": _mean(queries.get_column("text").str.split(" ").list.len()),
    }


def history_lengths(samples: pl.DataFrame) -> pl.DataFrame:
    """Count the recommendation clicks and the queries in each sample's history."""
    behavior = pl.col("history_behavior")
    return samples.select(
        recommendations=behavior.list.count_matches(pl.lit(schema.RECOMMENDED_ITEM, pl.UInt8)),
        searches=behavior.list.count_matches(pl.lit(schema.SEARCHED_QUERY, pl.UInt8)),
    )


def _mean(values: pl.Series) -> float:
    mean = values.mean()
    return float(mean) if isinstance(mean, int | float) else 0.0


def _readable(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _draw(events: pl.DataFrame, items: pl.DataFrame, queries: pl.DataFrame, samples: pl.DataFrame, path: Path) -> None:
    figure, axes = new_figure(2, 2)
    for task, label in TASK_TITLES.items():
        clicks = events.filter(pl.col("task") == task)
        for axis, column in ((axes[0][0], "user_id"), (axes[0][1], "item_id")):
            counts = clicks.group_by(column).len().get_column("len").sort(descending=True).to_numpy()
            axis.loglog(range(1, len(counts) + 1), counts, label=label)
        lengths = history_lengths(samples.filter(pl.col("task") == task))
        total = lengths.select(pl.sum_horizontal(pl.all()).alias("length")).get_column("length")
        shares = total.value_counts().sort("length").with_columns(pl.col("count") / max(1, len(total)))
        axes[1][1].plot(shares.get_column("length").to_numpy(), shares.get_column("count").to_numpy(), label=label)
    searches = events.drop_nulls("query_id").group_by("query_id").len().get_column("len").sort(descending=True)
    if len(searches):
        axes[1][0].loglog(range(1, len(searches) + 1), searches.to_numpy(), color="C1", label="search")
    for axis, title, x, y in (
        (axes[0][0], f"{events.get_column('user_id').n_unique():,} users", "rank of the user", "clicks"),
        (axes[0][1], f"{len(items):,} items", "rank of the item", "clicks"),
        (axes[1][0], f"{len(queries):,} queries", "rank of the query", "clicks after it"),
        (axes[1][1], f"{len(samples):,} targets", "clicks and searches before the target", "share of targets"),
    ):
        axis.set(title=title, xlabel=x, ylabel=y)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    save_figure(figure, path)

"""Build canonical tables of users, items, queries and events from source `amazon`: a category of a release."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import polars as pl

from gensar_core import schema
from gensar_core.config.datasets import CanonicalSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage
from gensar_core.sources.amazon import product_search
from gensar_core.sources.amazon.metadata import read_metadata
from gensar_core.sources.amazon.releases import RELEASES, ProductKeys, ReviewKeys, raw_names
from gensar_core.sources.amazon.reviews import read_reviews
from gensar_core.sources.amazon.search_sessions import searches_from_categories, searches_from_pairs
from gensar_core.sources.shared.k_core import interaction_core
from gensar_core.sources.shared.numbering import codes, event_table, number_rows, write_names

#: Steps of the preparation that `expected_rows` may name, in order. Those of the core have no count when the published
#: one is read, those of product search none when queries are synthesized.
STEPS: Final = (
    "reviews_read",
    "users_read",
    "items_read",
    "core_reviews",
    "core_users",
    "core_items",
    "metadata_cleaned",
    "items_with_text",
    "recommendation_interactions",
    "query_lines",
    "qrels_train",
    "qrels_test",
    "search_pairs_one_query",
    "search_interactions",
    "search_items",
    "distinct_queries",
)

_PARTIES = ("user", "item")
_EVENT_ORDER = ("user", "time", "searched", "rating", "row")


def canonicalize(raw: Path, settings: CanonicalSettings, output: Path, seed: int) -> None:
    """Write users.parquet, items.parquet, queries.parquet and events.parquet into ``output``.

    ``raw`` holds the category's reviews and metadata, and for 2014 optionally its product-search files. With
    ``min_interactions``, the core of all reviews is computed; without, the published one is read. Every review of a
    kept item is a recommendation click. With product-search files, the reviews of their (user, item) pairs are also
    searches, each with one of the pair's queries; without them, a share of all reviews are also searches, with queries
    made from category paths. With ``searches: none`` there are none, and the product-search files are not read. Broken
    lines are counted in the record and skipped. Raises UserError when a file is missing, cannot be read or is mostly
    broken, when ``expected_rows`` names an unknown step, and when no interaction is left.
    """
    _check_steps(settings.expected_rows)
    release = RELEASES[settings.release]
    reviews_path, metadata_path = _required_files(raw, settings)
    inputs = [reviews_path, metadata_path]
    made = settings.release == 2014 and settings.searches == "made"
    if made and product_search.has_product_search(raw):
        inputs += [raw / name for name in product_search.FILES]
    with Stage("canonical", output, settings=settings, inputs=inputs, seed=seed, code=__name__) as stage:
        reviews = _load_reviews(stage, reviews_path, release.review_keys, settings.min_interactions)
        items = _load_items(
            stage, metadata_path, release.product_keys, reviews["item"].unique(), settings.keep_textless_items
        )
        clicks = reviews.join(items.select("item"), on="item", how="semi", maintain_order="left")
        stage.record(reviews_on_dropped_items=len(reviews) - len(clicks), recommendation_interactions=len(clicks))
        # Free memory: nearly as large as the clicks.
        del reviews
        if clicks.is_empty():
            raise UserError(
                f"{raw}: no review is left, because no reviewed item has a title or description in {metadata_path.name}"
                "; put reviews and metadata of the same category there"
            )
        counts: Mapping[str, int] = {}
        if settings.searches == "none":
            searches = clicks.clear().with_columns(query=pl.lit(None, dtype=pl.String()))
        elif len(inputs) > 2:
            product_searches = product_search.read_searches(raw, seed)
            stage.record(**product_searches.counts)
            searches, counts = searches_from_pairs(clicks, items["item"], product_searches.pairs)
        else:
            searches, counts = searches_from_categories(clicks, items, settings.search_share, seed)
        stage.record(
            **counts,
            search_interactions=len(searches),
            search_users=searches["user"].n_unique(),
            search_items=searches["item"].n_unique(),
            distinct_queries=searches["query"].n_unique(),
        )
        _write(stage, clicks, searches, items)
        _compare(stage, settings.expected_rows)


def _check_steps(expected: Mapping[str, int]) -> None:
    for step in expected:
        if step not in STEPS:
            close = difflib.get_close_matches(step, STEPS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"steps: {', '.join(STEPS)}"
            raise UserError(f"expected_rows: {step!r} is no step of the preparation; {hint}")


def _required_files(raw: Path, settings: CanonicalSettings) -> list[Path]:
    names = raw_names(settings.category, settings.release, settings.min_interactions is not None)
    paths = [raw / name for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{raw}: lacks {' and '.join(missing)}; put the raw files there, or name the folder that holds them as "
            "datasets.<name>.raw"
        )
    return paths


def _load_reviews(stage: Stage, path: Path, keys: ReviewKeys, minimum: int | None) -> pl.DataFrame:
    """Return user, item, time, rating and row (place in the file): the first of equal user, item and time.

    With a ``minimum``, only the earliest review of a user and an item counts, and the reviews of the core are returned
    (Hou et al., 2024, who publish the 2023 release, prepare it so).
    """
    reviews, tally = read_reviews(path, keys)
    numbered = reviews.with_row_index("row")
    if minimum is None:
        distinct = numbered.unique(["user", "item", "time"], keep="first", maintain_order=True)
    else:
        distinct = numbered.sort("time", "row").unique(["user", "item"], keep="first", maintain_order=True)
    stage.record(
        reviews_read=len(reviews),
        **tally.counts(),
        duplicate_reviews=len(reviews) - len(distinct),
        users_read=distinct["user"].n_unique(),
        items_read=distinct["item"].n_unique(),
    )
    return distinct if minimum is None else _core(stage, distinct, minimum, path)


def _core(stage: Stage, reviews: pl.DataFrame, minimum: int, path: Path) -> pl.DataFrame:
    """Keep the reviews of users and items with at least ``minimum`` of those kept."""
    numbers = [reviews.select(codes(pl.col(name), reviews[name].unique().sort())).to_series() for name in _PARTIES]
    inside, rounds = interaction_core(numbers[0].to_numpy(), numbers[1].to_numpy(), minimum)
    core = reviews.filter(pl.Series(inside))
    if core.is_empty():
        raise UserError(
            f"{path}: no review is left, because no users and items have {minimum} reviews of each other; lower "
            "min_interactions"
        )
    stage.record(
        core_rounds=rounds,
        reviews_outside_core=len(reviews) - len(core),
        core_reviews=len(core),
        core_users=core["user"].n_unique(),
        core_items=core["item"].n_unique(),
    )
    return core


def _load_items(
    stage: Stage, path: Path, keys: ProductKeys | None, reviewed: pl.Series, keep_textless: bool
) -> pl.DataFrame:
    """Return the reviewed items that have text, or all of them: the columns of the metadata, and text."""
    metadata = read_metadata(path, frozenset(reviewed.to_list()), keys)
    text = pl.concat_str("title", pl.lit(" "), "description").str.strip_chars()
    items = metadata.items.with_columns(text=text)
    with_text = items.filter(pl.col("text") != "")
    stage.record(
        metadata_cleaned=metadata.cleaned,
        **metadata.tally.counts(),
        metadata_duplicates=metadata.duplicates,
        items_without_metadata=len(reviewed) - len(items),
        items_without_text=len(items) - len(with_text),
        items_with_text=len(with_text),
    )
    if not keep_textless:
        return with_text
    # An item without metadata has empty texts and no categories.
    every = reviewed.sort().to_frame("item").join(items, on="item", how="left", maintain_order="left")
    return every.with_columns(pl.col(pl.String).fill_null(""), pl.col("categories").fill_null([]))


def _write(stage: Stage, reviews: pl.DataFrame, searches: pl.DataFrame, items: pl.DataFrame) -> None:
    """Number users, items and queries densely, order the events, and write the four tables."""
    names = {
        "user": reviews["user"].unique().sort(),
        "item": reviews["item"].unique().sort(),
        "query": searches["query"].unique().sort(),
    }
    recommended = reviews.with_columns(query=pl.lit(None, dtype=pl.String()), searched=False)
    clicks = pl.concat([_coded(rows, names) for rows in (recommended, searches.with_columns(searched=True))])
    # Missing ratings come first, so where all are missing the file's order decides.
    clicks = clicks.sort(_EVENT_ORDER, nulls_last=False)
    table = number_rows("item_id", item=names["item"]).join(items, on="item", how="inner", maintain_order="left")
    sessions = clicks["searched"].cum_sum().cast(pl.Int64()) - 1
    schema.EVENTS.write(event_table(clicks, sessions), stage.path("events.parquet"))
    schema.USERS.write(number_rows("user_id", raw_id=names["user"]), stage.path("users.parquet"))
    write_names(stage, len(names["user"]), names["query"], table.rename({"item": "raw_id"}))
    stage.record(events=len(clicks))


def _coded(rows: pl.DataFrame, names: Mapping[str, pl.Series]) -> pl.DataFrame:
    """Replace users, items and queries of clicks by their places in the sorted names, which are the dense numbers."""
    coded = [codes(pl.col(name), texts).alias(name) for name, texts in names.items()]
    return rows.select(*coded, "time", "searched", "rating", "row")


def _compare(stage: Stage, expected: Mapping[str, int]) -> None:
    """Warn of every step whose number of rows differs from the expected one."""
    for step, rows in expected.items():
        count: int | None = stage.counts.get(step)
        if count is None:
            absent = "is no computed core" if step.startswith("core_") else "are no product-search files"
            stage.warn(f"step {step}: {rows:,} rows expected, but there {absent} to count")
        elif count != rows:
            stage.warn(f"step {step}: {count:,} rows, expected {rows:,}")

"""Build canonical tables of users, items, queries and events from source `amazon`: a category of a release."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from gensar_core.config.datasets import CanonicalSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage
from gensar_core.sources.amazon import product_search
from gensar_core.sources.amazon.metadata import read_metadata
from gensar_core.sources.amazon.releases import RELEASES, ProductKeys, ReviewKeys, raw_names
from gensar_core.sources.amazon.reviews import read_reviews
from gensar_core.sources.amazon.search_sessions import (
    SearchMaker,
    no_searches,
    searches_from_categories,
    searches_from_pairs,
)
from gensar_core.sources.shared.event_blocks import EventBlocks, sorted_rows, whole_users
from gensar_core.sources.shared.k_core import Core, core_of_blocks
from gensar_core.sources.shared.lines import Tally
from gensar_core.sources.shared.numbering import codes, number_rows, sorted_names, write_names

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

_EVENT = ("user", "item", "query", "time", "searched", "rating", "row")
_EVENT_ORDER = ("user", "time", "searched", "rating", "row")


def canonicalize(raw: Path, settings: CanonicalSettings, output: Path, seed: int) -> None:
    """Write users.parquet, items.parquet, queries.parquet and events.parquet into ``output``.

    ``raw`` holds the category's reviews and metadata, and for 2014 optionally its product-search files. With
    ``min_interactions``, the core of all reviews is computed; without, the published one is read. Every review of a
    kept item is a recommendation click. With product-search files, the reviews of their (user, item) pairs are also
    searches, each with one of the pair's queries; without them, a share of all reviews are also searches, with queries
    made from category paths. With ``searches: none`` there are none, and the product-search files are not read. Broken
    lines are counted in the record and skipped. Raises UserError when a file is missing, cannot be read or is mostly
    broken, when ``expected_rows`` names an unknown step, and when no interaction is left. Memory holds the items, the
    distinct queries, the pairs of product search, 13 bytes a user and some whole users' reviews, never all.
    """
    _check_steps(settings.expected_rows)
    release = RELEASES[settings.release]
    reviews_path, metadata_path = _required_files(raw, settings)
    inputs = [reviews_path, metadata_path]
    made = settings.release == 2014 and settings.searches == "made"
    if made and product_search.has_product_search(raw):
        inputs += [raw / name for name in product_search.FILES]
    with Stage("canonical", output, settings=settings, inputs=inputs, seed=seed, code=__name__) as stage:
        scratch = stage.path("scratch")
        reviews, asins = _load_reviews(
            stage, reviews_path, release.review_keys, settings.min_interactions is not None, scratch
        )
        core = _core(stage, reviews, len(asins), settings.min_interactions, reviews_path)
        items = _load_items(
            stage,
            metadata_path,
            release.product_keys,
            asins.filter(pl.Series(core.items)),
            settings.keep_textless_items,
        )
        if items.is_empty():
            raise UserError(
                f"{raw}: no review is left, because no reviewed item has a title or description in {metadata_path.name}"
                "; put reviews and metadata of the same category there"
            )
        if settings.searches == "none":
            searches = no_searches()
        elif len(inputs) > 2:
            product_searches = product_search.read_searches(raw, seed)
            stage.record(**product_searches.counts)
            searches = searches_from_pairs(items["item"], product_searches.pairs)
        else:
            searches = searches_from_categories(items, settings.search_share, seed)
        kept = replace(core, items=asins.is_in(items["item"].implode()).to_numpy())
        _write(stage, reviews.read(kept), searches, asins, items, scratch / "events")
        clicks = stage.counts["recommendation_interactions"]
        stage.record(reviews_on_dropped_items=reviews.events - core.events_outside - clicks)
        shutil.rmtree(scratch)
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


def _load_reviews(
    stage: Stage, path: Path, keys: ReviewKeys, one_a_pair: bool, scratch: Path
) -> tuple[EventBlocks, pl.Series]:
    """Return the reviews (user, item, time, rating, row: the place in the file), whose items are places in the asins.

    Only the first of equal user, item and time counts, or with ``one_a_pair`` the earliest review of a user and an item
    (Hou et al., 2024, who publish the 2023 release, prepare it so).
    """
    tally, read = Tally(path, "reviews"), 0
    files: list[Path] = []
    for reviews in read_reviews(tally, keys):
        files.append(scratch / "raw" / f"{len(files)}.parquet")
        reviews.with_row_index("row", read).write_parquet(files[-1], compression="lz4", mkdir=True)
        read += len(reviews)
    table = pl.scan_parquet(files)
    asins = sorted_names(table.select("item"))
    coded, distinct = scratch / "coded.parquet", EventBlocks(scratch / "reviews")
    table.with_columns(item=codes(pl.col("item"), asins)).sink_parquet(coded, compression="lz4")
    shutil.rmtree(scratch / "raw")
    same = ["user", "item"] if one_a_pair else ["user", "item", "time"]
    for reviews in whole_users(sorted_rows(coded, ("user", "time", "row"), scratch)):
        distinct.add(reviews.unique(same, keep="first", maintain_order=True))
    coded.unlink()
    stage.record(
        reviews_read=read,
        **tally.counts(),
        duplicate_reviews=read - distinct.events,
        users_read=distinct.users,
        items_read=len(asins),
    )
    return distinct, asins


def _core(stage: Stage, reviews: EventBlocks, items: int, minimum: int | None, path: Path) -> Core:
    """Compute the users and items with at least ``minimum`` reviews of each other; without a minimum, of all."""
    core = core_of_blocks(reviews.pairs, reviews.users, items, minimum or 0)
    if minimum is None:
        return core
    if not core.users.any():
        raise UserError(
            f"{path}: no review is left, because no users and items have {minimum} reviews of each other; lower "
            "min_interactions"
        )
    stage.record(
        core_rounds=core.rounds,
        reviews_outside_core=core.events_outside,
        core_reviews=reviews.events - core.events_outside,
        core_users=int(core.users.sum()),
        core_items=int(core.items.sum()),
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


def _write(
    stage: Stage,
    clicks: Iterable[pl.DataFrame],
    searches: SearchMaker,
    asins: pl.Series,
    items: pl.DataFrame,
    folder: Path,
) -> None:
    """Make the searches of the clicks, number users, items and queries densely, and write the four tables.

    ``clicks`` are reviews of kept items as ``EventBlocks`` holds them, some whole users at a time.
    """
    events = EventBlocks(folder)
    users = 0
    found = np.zeros(len(asins), dtype=bool)
    for block in clicks:
        recommended = block.with_columns(query=pl.lit(None, dtype=pl.String()), searched=False)
        searched = searches.of(block.with_columns(place="item", user="raw_id", item=asins.gather(block["item"])))
        users += searched["user"].n_unique()
        found[searched["place"].to_numpy()] = True
        searched = searched.with_columns(item="place", searched=True)
        both = pl.concat([rows.select(_EVENT) for rows in (recommended.with_columns(user="raw_id"), searched)])
        coded = both.with_columns(codes(pl.col("query"), searches.texts), session=pl.lit(None, dtype=pl.String()))
        # Missing ratings come first, so where all are missing the file's order decides.
        events.add(coded.sort(_EVENT_ORDER, nulls_last=False))
    core = core_of_blocks(events.pairs, events.users, len(asins), 0)
    queries = events.queries(core, len(searches.texts))
    counts, sessions = events.write(stage, core, queries)
    stage.record(
        recommendation_interactions=counts[False],
        **searches.counts,
        search_interactions=sessions,
        search_users=users,
        search_items=int(found.sum()),
        distinct_queries=int(queries.sum()),
    )
    names = number_rows("item_id", raw_id=asins.filter(pl.Series(core.items)))
    table = names.join(items.rename({"item": "raw_id"}), on="raw_id", how="inner", maintain_order="left")
    write_names(stage, events.users, searches.texts.filter(pl.Series(queries)), table)
    stage.record(events=counts.total())


def _compare(stage: Stage, expected: Mapping[str, int]) -> None:
    """Warn of every step whose number of rows differs from the expected one."""
    for step, rows in expected.items():
        count: int | None = stage.counts.get(step)
        if count is None:
            absent = "is no computed core" if step.startswith("core_") else "are no product-search files"
            stage.warn(f"step {step}: {rows:,} rows expected, but there {absent} to count")
        elif count != rows:
            stage.warn(f"step {step}: {count:,} rows, expected {rows:,}")

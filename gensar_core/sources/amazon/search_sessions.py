"""Select the reviews that are also search sessions: one query and the one item clicked for it, at the review's time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from gensar_core.runtime.hashing import uniform
from gensar_core.runtime.seeds import derive_seed
from gensar_core.sources.amazon.query_synthesis import synthesize_queries
from gensar_core.sources.shared.draws import row_numbers


@dataclass(frozen=True)
class SearchMaker:
    """Select the reviews that are searches, some whole users at a time.

    ``of`` takes reviews of kept items (user, item, time, row and others) and returns those that are searches, with
    their `query`; it adds to ``counts`` what it drew and left out. ``texts`` holds all queries that it may draw,
    distinct, in the order of their code points.
    """

    texts: pl.Series
    of: Callable[[pl.DataFrame], pl.DataFrame]
    counts: dict[str, int]


def no_searches() -> SearchMaker:
    """Make no review a search."""
    return SearchMaker(
        pl.Series(dtype=pl.String()), lambda reviews: reviews.clear().with_columns(query=pl.lit(None, pl.String())), {}
    )


def searches_from_pairs(items: pl.Series, pairs: pl.DataFrame) -> SearchMaker:
    """Build searches from product-search pairs, at the time of the first review of the same user and item.

    ``items`` holds the kept asins, and ``pairs`` user, item and query.
    """
    available = pairs.filter(pl.col("item").is_in(items.implode()))
    counts = {
        "search_pairs_on_dropped_items": len(pairs) - len(available),
        "search_pairs_without_review": len(available),
    }

    def of(reviews: pl.DataFrame) -> pl.DataFrame:
        first = reviews.sort("time", "row").unique(["user", "item"], keep="first", maintain_order=True)
        searches = first.join(available, on=["user", "item"], how="inner", maintain_order="left")
        counts["search_pairs_without_review"] -= len(searches)
        return searches

    return SearchMaker(available["query"].unique().sort(), of, counts)


def searches_from_categories(items: pl.DataFrame, share: float, seed: int) -> SearchMaker:
    """Draw a random ``share`` of the reviews as searches, each with a random synthesized query of its item.

    Whether a review is a search, and with which query, depends only on the seed and on its user, item and time.
    ``items`` holds item and categories of the kept items.
    """
    queries, counts = synthesize_queries(items)
    counts |= {
        "items_without_query": len(items) - len(queries),
        "search_reviews_drawn": 0,
        "search_reviews_without_query": 0,
    }

    def of(reviews: pl.DataFrame) -> pl.DataFrame:
        drawn = reviews.filter(pl.Series(_uniform(reviews, seed, "share") < share))
        found = drawn.join(queries, on="item", how="inner", maintain_order="left")
        counts["search_reviews_drawn"] += len(drawn)
        counts["search_reviews_without_query"] += len(drawn) - len(found)
        place = pl.lit(pl.Series(_uniform(found, seed, "query"))) * pl.col("queries").list.len()
        return found.with_columns(query=pl.col("queries").list.get(place.cast(pl.UInt32()))).drop("queries")

    return SearchMaker(queries["queries"].explode().drop_nulls().unique().sort(), of, counts)


def _uniform(reviews: pl.DataFrame, seed: int, purpose: str) -> np.ndarray:
    """Return one number in (0, 1) per review."""
    numbers = row_numbers(derive_seed(seed, "search", purpose), reviews["user"], reviews["item"], reviews["time"])
    return uniform(numbers.to_numpy())

"""Select the reviews that are also search sessions: one query and the one item clicked for it, at the review's time."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from gensar_core.runtime.hashing import uniform
from gensar_core.runtime.seeds import derive_seed
from gensar_core.sources.amazon.query_synthesis import synthesize_queries
from gensar_core.sources.shared.draws import row_numbers


def searches_from_pairs(
    reviews: pl.DataFrame, items: pl.Series, pairs: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Build searches from product-search pairs, at the time of the first review of the same user and item.

    ``reviews`` are those of kept items, ``items`` the kept asins, and ``pairs`` holds user, item, query. Returns the
    reviews that are searches, with their query, and counts.
    """
    available = pairs.filter(pl.col("item").is_in(items.implode()))
    first = reviews.sort("time", "row").unique(["user", "item"], keep="first", maintain_order=True)
    searches = first.join(available, on=["user", "item"], how="inner", maintain_order="left")
    return searches, {
        "search_pairs_on_dropped_items": len(pairs) - len(available),
        "search_pairs_without_review": len(available) - len(searches),
    }


def searches_from_categories(
    reviews: pl.DataFrame, items: pl.DataFrame, share: float, seed: int
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Draw a random ``share`` of the reviews as searches, each with a random synthesized query of its item.

    Whether a review is a search, and with which query, depends only on the seed and on its user, item and time.
    ``items`` holds item and categories of the kept items. Returns the same as ``searches_from_pairs``.
    """
    queries, counts = synthesize_queries(items)
    drawn = reviews.filter(pl.Series(_uniform(reviews, seed, "share") < share))
    with_query = drawn.join(queries, on="item", how="inner", maintain_order="left")
    place = (pl.lit(pl.Series(_uniform(with_query, seed, "query"))) * pl.col("queries").list.len()).cast(pl.UInt32())
    searches = with_query.with_columns(query=pl.col("queries").list.get(place)).drop("queries")
    return searches, counts | {
        "items_without_query": len(items) - len(queries),
        "search_reviews_drawn": len(drawn),
        "search_reviews_without_query": len(drawn) - len(with_query),
    }


def _uniform(reviews: pl.DataFrame, seed: int, purpose: str) -> np.ndarray:
    """Return one number in (0, 1) per review."""
    numbers = row_numbers(derive_seed(seed, "search", purpose), reviews["user"], reviews["item"], reviews["time"])
    return uniform(numbers.to_numpy())

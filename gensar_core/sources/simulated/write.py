"""Write source `simulated`: the demo's shop, in the raw formats of the Amazon release and its product-search files.

It exercises every stage with data in the right form, broken lines included. Results on it prove nothing about real
shops.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from gensar_core.config.datasets import SimulationSettings
from gensar_core.runtime.seeds import generator
from gensar_core.runtime.stage import Stage
from gensar_core.sources.amazon import product_search
from gensar_core.sources.amazon.query_synthesis import path_query
from gensar_core.sources.amazon.releases import raw_names
from gensar_core.sources.simulated import broken_lines as dirt
from gensar_core.sources.simulated.product_pages import Pages, product_pages
from gensar_core.sources.simulated.shop import ADJECTIVES, REVIEW_SENTENCES, Shelves, stock_shelves
from gensar_core.sources.simulated.shoppers import Purchases, simulate_purchases

CATEGORY = "Simulated"
_CHUNK = 100_000
#: Share of search pairs in the test file.
_TEST_PAIRS = 0.05


def simulate(settings: SimulationSettings, output: Path, seed: int) -> None:
    """Write reviews, metadata, queries and qrels of a simulated shop into ``output``.

    Each file also holds broken lines, a share ``dirty_lines`` of its sound ones; the record holds the numbers of both.
    """
    with Stage("simulate", output, settings=settings, seed=seed, code=__name__) as stage:
        shelves = stock_shelves(settings.items, seed, settings.second_categories)
        purchases = simulate_purchases(shelves, settings.users, settings.mean_reviews, seed)
        reviewers = _ids("A{}SIM", settings.users, seed)
        asins = _ids("B{}", settings.items + settings.unreviewed_items, seed)
        # Raw reviews are sorted by item.
        order = np.lexsort((purchases.user, pl.Series(asins).rank("dense").to_numpy()[purchases.item]))

        def write(name: str, count_name: str, chunks: Iterable[pl.Series], lines: int, scattered: bool = True) -> None:
            broken = dirt.broken_lines(count_name, math.ceil(settings.dirty_lines * lines))
            rng = generator(seed, "shop", "dirt", count_name)
            places = np.sort(rng.integers(0, lines, len(broken))) if scattered else np.full(len(broken), lines)
            dirt.write_lines(stage.path(name), chunks, broken, places)
            stage.record(**{f"{count_name}_lines": lines, f"{count_name}_dirty_lines": len(broken)})

        reviews_name, metadata_name = raw_names(CATEGORY)
        reviews = _review_lines(purchases, order, reviewers, asins, settings.review_sentences, seed)
        write(reviews_name, "reviews", reviews, len(order))
        pages = product_pages(shelves, settings.missing_descriptions, settings.unreviewed_items, seed)
        write(metadata_name, "metadata", _page_lines(pages, asins, settings.related_items, seed), len(pages))

        queries, bought, query = _searches(shelves, purchases, order, settings.query_variants, seed)
        # A query's id is its line number, so broken lines must not come between queries.
        write(product_search.QUERIES, "queries", [queries], len(queries), scattered=False)
        test = generator(seed, "shop", "qrels").random(len(bought)) < _TEST_PAIRS
        for name, count_name, part in (
            (product_search.TRAIN, "qrels_train", np.flatnonzero(~test)),
            (product_search.TEST, "qrels_test", np.flatnonzero(test)),
        ):
            pairs = _pair_lines(purchases, bought[part], query[part], reviewers, asins)
            write(name, count_name, pairs, len(part))


def _ids(pattern: str, count: int, seed: int) -> pl.Series:
    """Draw raw ids whose order reveals nothing about the users or items that they name."""
    numbers = pl.Series("number", generator(seed, "shop", "ids", pattern).permutation(count))
    return pl.select(pl.format(pattern, numbers.cast(pl.String()).str.zfill(9))).to_series()


def _review_lines(
    purchases: Purchases, order: np.ndarray, reviewers: pl.Series, asins: pl.Series, sentences: int, seed: int
) -> Iterator[pl.Series]:
    """Yield the reviews as JSON lines, in ``order``."""
    rng = generator(seed, "shop", "reviews")
    pool = pl.Series(REVIEW_SENTENCES)
    for start in range(0, len(order), _CHUNK):
        rows = order[start : start + _CHUNK]
        texts = [pool.gather(rng.integers(0, len(pool), len(rows))) for _ in range(sentences)]
        yield _joined(
            len(rows),
            '{"reviewerID": "',
            reviewers.gather(purchases.user[rows]),
            '", "asin": "',
            asins.gather(purchases.item[rows]),
            '", "reviewText": "',
            *(part for text in texts for part in (text, " ")),
            '", "overall": ',
            pl.Series(purchases.rating[rows]).cast(pl.Float64()).cast(pl.String()),
            ', "unixReviewTime": ',
            pl.Series(purchases.time[rows]).cast(pl.String()),
            "}",
        )


def _page_lines(pages: Pages, asins: pl.Series, related: int, seed: int) -> Iterator[pl.Series]:
    """Yield the product pages as Python literals, each with ``related`` asins bought together with it."""
    rng = generator(seed, "shop", "related")
    for start in range(0, len(pages), _CHUNK):
        rows = slice(start, min(start + _CHUNK, len(pages)))
        part = pages.text(rows).with_columns(asin=asins[rows])
        fields = part.select(asin=_field("asin"), title=_field("title"), description=_field("description"))
        fields = fields.with_columns(part.select(brand=_field("brand"), categories=_paths_field()))
        if related:
            others = asins.gather(rng.integers(0, len(pages), len(part) * related))
            row = pl.Series("row", np.repeat(np.arange(len(part)), related))
            listed = pl.DataFrame([row, others.alias("other")]).group_by("row", maintain_order=True)
            also = listed.agg(also=_listed(_quoted(pl.col("other")).str.join(", ")))["also"]
            fields = fields.with_columns(related="'related': {'also_bought': " + also + "}")
        body = pl.concat_str(pl.all(), separator=", ", ignore_nulls=True)
        yield fields.select(pl.concat_str(pl.lit("{"), body, pl.lit("}"))).to_series()


def _searches(
    shelves: Shelves, purchases: Purchases, order: np.ndarray, variants: int, seed: int
) -> tuple[pl.Series, np.ndarray, np.ndarray]:
    """Return the query lines, the purchases that began with a search [pairs], and the query line of each [pairs].

    A purchase occurs once for each category of its item. Each category has ``variants`` queries: the plain one, and
    ones with an additional word.
    """
    words = ["", *(f" {word.lower()}" for word in ADJECTIVES)]
    queries = pl.Series([path_query(leaf.path) + word for leaf in shelves.leaves for word in words[:variants]])
    bought = order[purchases.searched[order]]
    second = shelves.second[purchases.item[bought]]
    searched_leaf = np.concatenate([shelves.leaf[purchases.item[bought]], second[second >= 0]])
    per_leaf = len(queries) // len(shelves.leaves)
    query = searched_leaf * per_leaf + generator(seed, "shop", "variants").integers(0, per_leaf, len(searched_leaf))
    return queries, np.concatenate([bought, bought[second >= 0]]), query


def _pair_lines(
    purchases: Purchases, bought: np.ndarray, query: np.ndarray, reviewers: pl.Series, asins: pl.Series
) -> Iterator[pl.Series]:
    """Yield the lines of the qrels."""
    for start in range(0, len(bought), _CHUNK):
        rows = bought[start : start + _CHUNK]
        yield _joined(
            len(rows),
            reviewers.gather(purchases.user[rows]),
            "_",
            pl.Series(query[start : start + _CHUNK]).cast(pl.String()),
            " 0 ",
            asins.gather(purchases.item[rows]),
            " 1",
        )


def _joined(count: int, *parts: str | pl.Series) -> pl.Series:
    """Concatenate repeated texts and columns of texts [count], row by row."""
    columns = [pl.repeat(part, count) if isinstance(part, str) else pl.lit(part) for part in parts]
    return pl.select(pl.concat_str(columns)).to_series()


def _field(name: str) -> pl.Expr:
    """Return a field of a literal, or null where the page lacks it."""
    return pl.concat_str(pl.lit(f"'{name}': "), _quoted(pl.col(name)))


def _paths_field() -> pl.Expr:
    path = _listed(pl.element().list.eval(_quoted(pl.element())).list.join(", "))
    return pl.lit("'categories': ") + _listed(pl.col("categories").list.eval(path).list.join(", "))


def _quoted(text: pl.Expr) -> pl.Expr:
    escaped = text.str.replace_all("\\", "\\\\", literal=True).str.replace_all("'", "\\'", literal=True)
    return pl.lit("'") + escaped + pl.lit("'")


def _listed(elements: pl.Expr) -> pl.Expr:
    return pl.lit("[") + elements + pl.lit("]")

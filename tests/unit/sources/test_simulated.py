"""The simulated shop: raw files that preparation reads as meant, with structure that each kind of evidence tells."""

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gensar_core.config.datasets import CanonicalSettings, SimulationSettings
from gensar_core.sources.amazon import product_search
from gensar_core.sources.amazon.canonical import canonicalize
from gensar_core.sources.amazon.query_synthesis import path_query
from gensar_core.sources.amazon.releases import raw_names
from gensar_core.sources.simulated import broken_lines as dirt
from gensar_core.sources.simulated.product_pages import product_pages
from gensar_core.sources.simulated.shop import all_leaves, stock_shelves
from gensar_core.sources.simulated.shoppers import FEWEST_REVIEWS, simulate_purchases
from gensar_core.sources.simulated.write import CATEGORY, simulate
from tests.support.sources_files import counts, table_bytes, tables

FILES = (*raw_names(CATEGORY), *product_search.FILES)
SETTINGS = SimulationSettings(users=300, items=200, dirty_lines=0.05)


def prepared(raw: Path, output: Path) -> dict:
    canonicalize(raw, CanonicalSettings(category="Simulated"), output, 1)
    return counts(output)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    simulate(SETTINGS, folder / "raw", 7)
    prepared(folder / "raw", folder / "canonical")
    return folder


@pytest.fixture(scope="module")
def purchases():
    shelves = stock_shelves(600, 3)
    return shelves, simulate_purchases(shelves, 2000, 12.0, 3)


def test_every_broken_line_is_counted_and_every_sound_one_read(shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = counts(shop / "raw")
    read_counts = prepared(shop / "raw", tmp_path / "canonical")
    reads = {"reviews": "reviews_read", "metadata": "metadata_cleaned", "queries": "query_lines"}
    for name, read in (reads | {"qrels_train": "qrels_train", "qrels_test": "qrels_test"}).items():
        assert read_counts[read] == written[f"{name}_lines"] > 0
        assert read_counts[f"{name}_broken_lines"] == written[f"{name}_dirty_lines"] > 0
    # Every kind of damage occurs, and no line was run.
    assert sum(read_counts["reviews_broken_reasons"].values()) >= len(dirt.KINDS["reviews"])
    assert len(read_counts["reviews_broken_reasons"]) == 6
    reasons = {"field missing", "field of a wrong type", "not a Python literal", "not a dict", "not UTF-8"}
    assert set(read_counts["metadata_broken_reasons"]) == reasons
    assert not list(tmp_path.rglob("executed-by-metadata"))
    zeros = ("qrels_unknown_queries", "search_pairs_without_review", "items_without_metadata", "duplicate_reviews")
    assert [read_counts[name] for name in zeros] == [0, 0, 0, 0]
    assert read_counts["items_without_text"] >= 1
    assert read_counts["search_items"] <= read_counts["items"]


def test_broken_lines_do_not_change_the_sound_ones(shop, tmp_path):
    simulate(SETTINGS.model_copy(update={"dirty_lines": 0.0}), tmp_path / "raw", 7)
    counts = prepared(tmp_path / "raw", tmp_path / "canonical")
    assert not any(value for name, value in counts.items() if name.endswith("broken_lines"))
    assert table_bytes(tmp_path / "canonical") == table_bytes(shop / "canonical")


def test_equal_seeds_give_equal_files_and_other_seeds_others(shop, tmp_path):
    for name, seed in (("same", 7), ("other", 8)):
        simulate(SETTINGS, tmp_path / name, seed)
    for file in FILES:
        assert (tmp_path / "same" / file).read_bytes() == (shop / "raw" / file).read_bytes()
    assert (tmp_path / "other" / FILES[0]).read_bytes() != (shop / "raw" / FILES[0]).read_bytes()


def test_chunks_do_not_change_the_files(tmp_path, monkeypatch):
    for name, size in (("small", 64), ("large", 10**6)):
        monkeypatch.setattr("gensar_core.sources.simulated.write._CHUNK", size)
        simulate(SETTINGS.model_copy(update={"review_sentences": 0}), tmp_path / name, 7)
    for file in FILES:
        small, large = (gzip.decompress((tmp_path / name / file).read_bytes()) for name in ("small", "large"))
        assert small == large


def test_pages_have_the_gaps_and_tags_of_scraped_pages():
    shelves = stock_shelves(400, 5)
    pages = product_pages(shelves, 0.3, 50, 5).text(slice(None))
    assert len(pages) == 450
    assert 0.2 < pages["description"].null_count() / 450 < 0.4
    assert pages.filter(pl.col("title").is_null() & pl.col("description").is_null()).height >= 1
    described = pages["description"].drop_nulls().str.join("\n").item()
    assert all(mark in described for mark in ("<b>", "<br />", "&nbsp;", "&quot;", "'"))
    assert "{" not in described
    assert pages["title"].drop_nulls().str.contains("&amp;", literal=True).any()
    known = {leaf.path for leaf in shelves.leaves}
    paths = pages["categories"].to_list()
    assert {tuple(path) for item in paths for path in item} <= known
    assert all(len(item) == len({tuple(path) for path in item}) in (1, 2) for item in paths)


def test_larger_files_list_unreviewed_and_related_items(tmp_path):
    settings = SimulationSettings(
        users=50, items=150, unreviewed_items=70, related_items=3, review_sentences=4, dirty_lines=0.0
    )
    simulate(settings, tmp_path / "raw", 1)
    counts = prepared(tmp_path / "raw", tmp_path / "canonical")
    assert counts["metadata_cleaned"] == 220
    assert counts["items_read"] <= 150
    line = gzip.decompress((tmp_path / "raw" / FILES[1]).read_bytes()).decode().splitlines()[0]
    assert "'related': {'also_bought': ['B0" in line
    reviews = gzip.decompress((tmp_path / "raw" / FILES[0]).read_bytes()).decode().splitlines()
    assert all(json.loads(review)["reviewText"].count(". ") >= 4 for review in reviews)


def test_every_category_has_a_different_query():
    queries = [path_query(leaf.path) for leaf in all_leaves()]
    assert len(set(queries)) == len(queries) >= 72
    assert {len(leaf.path) for leaf in all_leaves()} == {3}


def test_shoppers_buy_at_least_five_different_items_in_order(purchases):
    _, bought = purchases
    table = pl.DataFrame({"user": bought.user, "item": bought.item, "time": bought.time, "rating": bought.rating})
    per_user = table.group_by("user").agg(
        pl.len(), distinct=pl.col("item").n_unique(), ordered=(pl.col("time").diff() >= 0).all()
    )
    assert len(per_user) == 2000
    assert per_user["len"].min() >= FEWEST_REVIEWS
    assert abs(per_user["len"].mean() - 12.0) < 0.6
    assert (per_user["len"] == per_user["distinct"]).all()
    assert per_user["ordered"].all()
    assert (table["time"] % 86_400 == 0).all()
    assert table["time"].is_between(1, 4_102_444_799).all()
    assert set(table["rating"]) == {1, 2, 3, 4, 5}
    tied = table.select((pl.col("time").diff() == 0) & (pl.col("user").diff() == 0)).to_series().mean()
    assert 0.15 < tied < 0.3
    per_item = np.bincount(bought.item, minlength=600)
    assert np.mean(per_item >= 5) > 0.95


def test_shoppers_of_a_small_shop_buy_different_items():
    shelves = stock_shelves(150, 1)
    bought = simulate_purchases(shelves, 300, 60.0, 1)
    table = pl.DataFrame({"user": bought.user, "item": bought.item})
    assert not table.is_duplicated().any()
    assert table.group_by("user").len()["len"].max() <= 75


def test_clicks_reveal_the_style_that_no_category_reveals(purchases):
    shelves, bought = purchases
    style = pl.DataFrame({"user": bought.user, "style": shelves.style[bought.item]})
    share = style.group_by("user").agg(pl.col("style").value_counts(sort=True).first().struct.field("count") / pl.len())
    # A shopper's commonest style has most purchases; by chance it would be about one in three of twelve.
    assert share["count"].mean() > 0.7
    # Every category sells every style in about equal numbers of items.
    counts = np.zeros((len(shelves.leaves), shelves.n_styles))
    np.add.at(counts, (shelves.leaf, shelves.style), 1)
    assert counts.min() >= 1
    assert counts.max() - counts.min() <= 1


def test_a_purchase_draws_its_complement_after_it(purchases):
    shelves, bought = purchases
    leaf = shelves.leaf[bought.item]
    same_user = bought.user[1:] == bought.user[:-1]
    follows = (leaf[1:] == shelves.complement[leaf[:-1]])[same_user].mean()
    shuffled = np.random.default_rng(1).permutation(leaf)
    by_chance = (shuffled[1:] == shelves.complement[leaf[:-1]])[same_user].mean()
    assert follows > 0.35
    assert follows > 5 * by_chance


def test_searches_ask_for_a_category_of_the_clicked_item(shop):
    read = tables(shop / "canonical")
    searches = read["events"].filter(pl.col("task") == "search")
    share = len(searches) / (len(read["events"]) - len(searches))
    assert 0.7 < share < 0.82
    paths = read["items"]["categories"].gather(searches["item_id"]).to_list()
    queries = read["queries"]["text"].gather(searches["query_id"]).to_list()
    assert all(query in map(path_query, item) for query, item in zip(queries, paths, strict=True))
    second = sum(query != path_query(item[0]) for query, item in zip(queries, paths, strict=True))
    assert second > 0.05 * len(queries)


def test_broken_lines_precede_the_lines_they_are_placed_at(tmp_path):
    chunks = [pl.Series(["a", "b"]), pl.Series(["c"]), pl.Series([], dtype=pl.String), pl.Series(["d"])]
    broken = ["first", "second", "third", "\udcff"]
    dirt.write_lines(tmp_path / "out.gz", chunks, broken, np.array([0, 2, 2, 4]))
    data = (tmp_path / "out.gz").read_bytes()
    assert gzip.decompress(data) == b"first\na\nb\nsecond\nthird\nc\nd\n\xff\n"
    assert data[4:8] == b"\0\0\0\0"  # no time of writing in the header

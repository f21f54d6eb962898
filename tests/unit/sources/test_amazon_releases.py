"""Categories of the releases 2018 and 2023 become canonical tables: known answers, bad lines, and the computed core."""

import json

import pytest

from gensar_core.errors import UserError
from gensar_core.sources.amazon.metadata import read_metadata
from gensar_core.sources.amazon.releases import RELEASES
from tests.support.sources_files import NEW_YEAR, Shop, product_2023, review, review_2023, write_gzip


def product_2018(item, title="A thing", description=(), feature=(), category=(), **fields):
    return json.dumps(
        {"category": category, "tech1": "", "description": description, "fit": "", "title": title, "also_buy": [],
         "image": [], "brand": "", "feature": feature, "rank": [], "main_cat": "Toys", "price": "", "asin": item, **fields}
    )  # fmt: skip


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path, 2023)


def test_reviews_of_2023_are_clicks_on_parents_by_the_second(shop):
    shop.reviews(
        review_2023("zoe", "b1", NEW_YEAR + 1999),
        review_2023("adam", "b2", NEW_YEAR, rating=2.0),
        review_2023("zoe", "gone", NEW_YEAR),
        review_2023("zoe", "empty", NEW_YEAR),
    ).metadata(
        product_2023(
            "b1", "Red &amp; blue <i>kite</i>", description=["Flies", "<p>high</p>"], features=["ignored"],
            categories=["Toys & Games", "Kites", ""], store="Sky store", details={"Brand": "Sky", "Weight": "1"},
        ),
        product_2023("b2", None, description=["", " "], features=["Bounces.", "Red"], categories=["Toys & Games"], store="Ball store"),
        product_2023("empty", None),
    ).canonicalize(search_share=1.0)  # fmt: skip
    assert shop.items.drop("item_id").rows() == [
        ("b1", "Red & blue kite", "Flies high", "Sky", [["Toys & Games", "Kites"]], "Red & blue kite Flies high"),
        # Without a description, the features say what it is.
        ("b2", "", "Bounces. Red", "Ball store", [["Toys & Games"]], "Bounces. Red"),
    ]
    # Categories of one level make no search.
    start = NEW_YEAR // 1000
    assert shop.events() == [
        ("adam", start, "rec", "b2", None, None),
        ("zoe", start + 1, "rec", "b1", None, None),
        ("zoe", start + 1, "search", "b1", "toy games kite", 0),
    ]
    expected = {"reviews_read": 4, "reviews_on_dropped_items": 2, "items_without_metadata": 1, "items_without_text": 1}
    assert {name: shop.counts[name] for name in expected} == expected


def test_the_earliest_review_of_a_user_and_an_item_counts_and_the_core_is_stable(shop):
    twice = [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b")]
    # w loses "c", which only it has, and then has too few reviews itself, and so has "d" then.
    chain = [("w", "c"), ("w", "d"), ("u", "d")]
    shop.reviews(
        review_2023("u", "a", NEW_YEAR + 50_000),
        *(review_2023(user, item, NEW_YEAR + 1000 * place) for place, (user, item) in enumerate(twice + chain)),
        review_2023("v", "b", NEW_YEAR + 90_000),
        review_2023("w", "c", NEW_YEAR + 90_000),
    ).metadata(*(product_2023(item) for item in "abcd")).canonicalize(
        min_interactions=2, search_share=0.0, expected_rows={"core_reviews": 4, "core_users": 2, "core_items": 3}
    )
    start = NEW_YEAR // 1000
    assert [event[:4] for event in shop.events()] == [
        ("u", start, "rec", "a"), ("u", start + 1, "rec", "b"), ("v", start + 2, "rec", "a"), ("v", start + 3, "rec", "b"),
    ]  # fmt: skip
    expected = {"reviews_read": 10, "duplicate_reviews": 3, "users_read": 3, "items_read": 4, "reviews_outside_core": 3}
    expected |= {"core_reviews": 4, "core_users": 2, "core_items": 2, "core_rounds": 3}
    assert {name: shop.counts[name] for name in expected} == expected
    assert shop.warnings == ["step core_items: 2 rows, expected 3"]
    with pytest.raises(UserError, match=r"Toys\.jsonl\.gz: no review is left, .* 3 reviews of each other; lower min_"):
        shop.canonicalize(min_interactions=3)


def test_2018_reads_the_published_core_or_all_reviews(tmp_path):
    shop = Shop(tmp_path)
    same = review("u", "a", 100, 5.0, vote="2", style={"Size:": " L"}, verified=True)
    write_gzip(shop.raw / "Toys_5.json.gz", [same, same, review("u", "a", 200), review("v", "b", 50)])
    write_gzip(shop.raw / "meta_Toys.json.gz", [product_2018("a"), product_2018("b"), product_2018("a", "later")])
    shop.canonicalize(release=2018, search_share=0.0, expected_rows={"reviews_read": 4, "core_users": 9})
    assert [event[:4] for event in shop.events()] == [
        ("u", 100, "rec", "a"), ("u", 200, "rec", "a"), ("v", 50, "rec", "b"),
    ]  # fmt: skip
    assert (shop.counts["duplicate_reviews"], shop.counts["metadata_duplicates"]) == (1, 1)
    assert shop.warnings == ["step core_users: 9 rows expected, but there is no computed core to count"]
    with pytest.raises(UserError, match=r"lacks Toys\.json\.gz; put the raw files there"):
        shop.canonicalize(release=2018, min_interactions=1)
    write_gzip(shop.raw / "Toys.json.gz", [review("w", "a", 7), review("w", "a", 5), review("w", "b", 6)])
    shop.canonicalize(release=2018, min_interactions=1, search_share=0.0)
    assert [event[:4] for event in shop.events()] == [("w", 5, "rec", "a"), ("w", 6, "rec", "b")]


def test_product_search_files_are_read_for_2014_alone(shop):
    shop.reviews(review_2023("u", "a", NEW_YEAR)).metadata(product_2023("a", categories=["Toys", "Kites"]))
    shop.searches(["red kite"], ["u_0 0 a 1"], []).canonicalize(search_share=1.0)
    assert [event[4] for event in shop.events()] == [None, "toy kite"]
    assert "query_lines" not in shop.counts


def test_pages_of_2018_are_cleaned_and_their_bullet_points_are_no_categories(tmp_path):
    lines = [
        product_2018("a", "Tutu&quot;", ["Soft.", "6\" long"], ["3 layers"], ["Clothing", "Girls", "6\" long", "Imported"], brand="Fly\nHigh"),
        product_2018("b", "var start = (new Date()).getTime(); <b>", "one text", [], ["Clothing", "</span></span>", "Polyester"]),
        product_2018("c", "x", ["d" * 2000], ["Short"], ["Short", "Clothing"]),
        json.dumps({"asin": "d"}),
    ]  # fmt: skip
    keys = RELEASES[2018].product_keys
    result = read_metadata(write_gzip(tmp_path / "meta.gz", lines), set("abcd"), keys)
    assert result.items.rows() == [
        ("a", "Tutu", "Soft. 6 long", "Fly High", [["Clothing", "Girls"]]),
        ("b", "", "one text", "", [["Clothing"]]),
        ("c", "x", "Short", "", []),
        ("d", "", "", "", []),
    ]


def test_files_of_another_release_or_without_lines_are_refused(shop):
    shop.reviews(review("u", "a", 5)).metadata(product_2023("a"))
    with pytest.raises(UserError, match=r"1 of 1 lines are broken .* with user_id, parent_asin and timestamp; put the"):
        shop.canonicalize()
    shop.reviews(review_2023("u", "a", NEW_YEAR)).metadata(repr({"asin": "a", "title": "x"}))
    with pytest.raises(
        UserError, match=r"line 1: not JSON\); a line should be a JSON object with parent_asin and title"
    ):
        shop.canonicalize()
    shop.metadata()
    with pytest.raises(UserError, match=r"meta_Toys\.jsonl\.gz: the file is empty"):
        shop.canonicalize()
    shop.metadata(product_2023("a", None))
    with pytest.raises(UserError, match="no reviewed item has a title or description"):
        shop.canonicalize()

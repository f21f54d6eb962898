"""Categories of the releases 2018 and 2023 become canonical tables: known answers, bad lines, and the computed core."""

import json
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from gensar_core.config.experiments import load_experiments
from gensar_core.errors import UserError
from gensar_core.sources.amazon import reviews
from gensar_core.sources.amazon.metadata import read_metadata
from gensar_core.sources.amazon.releases import RELEASES
from gensar_core.sources.amazon.reviews import read_reviews
from gensar_core.sources.shared.lines import LineBlock, Tally
from tests.support.sources_files import Shop, review, write_gzip

#: 2023-01-01 in milliseconds.
NEW_YEAR = 1_672_531_200_000
KEYS = RELEASES[2023].review_keys
PRODUCTS = RELEASES[2023].product_keys


def review_2023(user, item, time, rating=5.0, **fields):
    """A review as published; ``item`` is the parent, under which every variant is sold."""
    return json.dumps(
        {"rating": rating, "title": "Nice", "text": "I like it. \ud83d\ude00", "images": [], "asin": "variant", "parent_asin": item,
         "user_id": user, "timestamp": time, "helpful_vote": 0, "verified_purchase": True, **fields}
    )  # fmt: skip


def product_2023(item, title="A thing", description=(), features=(), categories=(), **fields):
    return json.dumps(
        {"main_category": "Toys", "title": title, "average_rating": 4.5, "rating_number": 3, "features": features,
         "description": description, "price": None, "images": [], "videos": [], "store": None,
         "categories": categories, "details": {}, "parent_asin": item, "bought_together": None, **fields}
    )  # fmt: skip


def product_2018(item, title="A thing", description=(), feature=(), category=(), **fields):
    return json.dumps(
        {"category": category, "tech1": "", "description": description, "fit": "", "title": title, "also_buy": [],
         "image": [], "brand": "", "feature": feature, "rank": [], "main_cat": "Toys", "price": "", "asin": item, **fields}
    )  # fmt: skip


class Shop2023(Shop):
    """A raw folder of 2023."""

    def reviews(self, *lines):
        write_gzip(self.raw / "Toys.jsonl.gz", list(lines))
        return self

    def metadata(self, *lines):
        write_gzip(self.raw / "meta_Toys.jsonl.gz", list(lines))
        return self

    def canonicalize(self, seed=1, **settings):
        return super().canonicalize(seed, **{"release": 2023, "min_interactions": 1, **settings})


@pytest.fixture
def shop(tmp_path):
    return Shop2023(tmp_path)


def test_reviews_of_2023_are_clicks_on_parents_by_the_second(shop):
    shop.reviews(
        review_2023("zoe", "b1", NEW_YEAR + 1999),
        review_2023("adam", "b2", NEW_YEAR, rating=2.0),
        review_2023("zoe", "gone", NEW_YEAR),
        review_2023("zoe", "empty", NEW_YEAR),
    ).metadata(
        product_2023(
            "b1", "Red &amp; blue <i>kite</i>", ["Flies", "<p>high</p>"], ["ignored"],
            ["Toys & Games", "Kites", ""], store="Sky store", details={"Brand": "Sky", "Weight": "1"},
        ),
        product_2023("b2", None, ["", " "], ["Bounces.", "Red"], ["Toys & Games"], store="Ball store"),
        product_2023("empty", None, [], []),
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


def plain_core(rows, minimum):
    """(user, item, second) of the core, by one loop that takes one user or item away at a time."""
    kept = {}
    for user, item, time in sorted(rows, key=lambda row: row[2]):
        kept.setdefault((user, item), time)
    while True:
        few = [
            (side, name)
            for side in (0, 1)
            for name, count in Counter(pair[side] for pair in kept).items()
            if count < minimum
        ]
        if not few:
            return {(user, item, time // 1000) for (user, item), time in kept.items()}
        side, name = few[0]
        kept = {pair: time for pair, time in kept.items() if pair[side] != name}


@budget(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("uvwxy"), st.sampled_from("abcde"), st.integers(0, 99)), min_size=1, max_size=40
    ),
    st.integers(1, 4),
)
def test_the_core_equals_that_of_a_plain_loop(tmp_path_factory, rows, minimum):
    rows = [(user, item, NEW_YEAR + 500 * time) for user, item, time in rows]
    shop = Shop2023(tmp_path_factory.mktemp("core"))
    shop.reviews(*(review_2023(*row) for row in rows)).metadata(*(product_2023(item) for item in "abcde"))
    expected = plain_core(rows, minimum)
    if not expected:
        with pytest.raises(UserError, match="no review is left"):
            shop.canonicalize(min_interactions=minimum)
        return
    shop.canonicalize(min_interactions=minimum, search_share=0.0)
    events = shop.events()
    assert len(events) == len(expected)
    assert {(user, item, time) for user, time, _, item, _, _ in events} == expected


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


BROKEN_REVIEWS = {
    "not JSON": ['{"user_id": "a", "parent_as', "{'user_id': 'a'}", review_2023("a", "b", NEW_YEAR) + " trailing"],
    "not UTF-8": [review_2023("a", "b", NEW_YEAR).encode().replace(b"Nice", b"\xff")],
    "not a JSON object": ["[]", "5"],
    "field missing": [review_2023(None, "b", NEW_YEAR), review_2023("a", "b", None), review("a", "b", NEW_YEAR)],
    "field of a wrong type": [
        review_2023(1, "b", NEW_YEAR), review_2023("a", "", NEW_YEAR), review_2023("a", "b", str(NEW_YEAR)),
        review_2023("a", "b", float(NEW_YEAR)), review_2023("a", "b", NEW_YEAR, "five"),
    ],
    # Seconds are no milliseconds: nothing was bought in January 1970.
    "absurd time": [review_2023("a", "b", 999), review_2023("a", "b", -5), review_2023("a", "b", 4_102_444_800_000)],
}  # fmt: skip
BROKEN_PRODUCTS = {
    "not JSON": ['{"parent_asin": "x", "title": "never en', "{'parent_asin': 'x'}"],
    "not UTF-8": [b'{"parent_asin": "x", "title": "\xff"}'],
    "not a JSON object": ["[]", '"x"'],
    "field missing": [product_2023(None), '{"asin": "x"}'],
    "field of a wrong type": [
        product_2023(5), product_2023(""), product_2023("\ud800"), product_2023("x", ["title"]),
        product_2023("x", description=[None]), product_2023("x", categories=[["Toys"]]),
        product_2023("x", details={"Brand": 5}), product_2023("x", store=["s"]),
        json.dumps({"parent_asin": "x", "features": {}}),
    ],
    "longer than an item can be": [product_2023("x", "x" * 150_000)],
}  # fmt: skip


def cases(broken):
    return [(reason, line) for reason, lines in broken.items() for line in lines]


@pytest.mark.parametrize(("reason", "line"), cases(BROKEN_REVIEWS))
def test_a_broken_review_is_counted_with_its_line(tmp_path, reason, line):
    good = [review_2023("u", "i", NEW_YEAR), review_2023("v", "j", NEW_YEAR + 1000, None)]
    table, tally = read_reviews(write_gzip(tmp_path / "reviews.gz", [good[0], line, good[1]]), KEYS)
    start = NEW_YEAR // 1000
    assert table.rows() == [("u", "i", start, 5.0), ("v", "j", start + 1, None)]
    assert tally.counts()["reviews_broken_examples"] == [f"line 2: {reason}"]


@budget(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([line for _, line in cases(BROKEN_REVIEWS)] + ["good", "good"]), min_size=1, max_size=30)
)
def test_reading_at_once_equals_reading_line_by_line(tmp_path_factory, lines):
    lines = [review_2023(f"u{place}", "12", NEW_YEAR + place) if line == "good" else line for place, line in enumerate(lines)]  # fmt: skip
    data = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
    by_line = [reviews._parse_line(line, KEYS) for _, line in LineBlock(1, data).lines()]
    tally = Tally(tmp_path_factory.getbasetemp(), "reviews")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reviews, "_PIECE_BYTES", 200)
        table = pl.concat(list(reviews._parse(LineBlock(1, data), tally, KEYS)))
    assert table.rows() == [row for row in by_line if not isinstance(row, str)]
    assert (tally.lines, tally.broken) == (len(lines), sum(isinstance(row, str) for row in by_line))


@pytest.mark.parametrize(("reason", "line"), cases(BROKEN_PRODUCTS))
def test_a_broken_product_is_counted_with_its_line(tmp_path, monkeypatch, reason, line):
    monkeypatch.setattr("gensar_core.sources.amazon.metadata._LONGEST_LITERAL", 150_000)
    path = write_gzip(tmp_path / "meta.gz", [product_2023("good"), line, product_2023("other")])
    result = read_metadata(path, {"good", "x"}, PRODUCTS)
    assert (result.items["item"].to_list(), result.cleaned) == (["good"], 2)
    assert result.tally.counts()["metadata_broken_examples"] == [f"line 2: {reason}"]


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


def test_2023_needs_the_core_to_be_computed():
    entry = {"source": "amazon", "category": "Toys", "raw": "download", "release": 2023}
    with pytest.raises(UserError, match="release 2023 has no published 5-core; give 'min_interactions', usually 5"):
        load_experiments({"datasets": {"toys": entry}})

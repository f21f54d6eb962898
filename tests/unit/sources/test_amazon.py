"""A raw Amazon folder becomes the canonical tables that were worked out by hand."""

import random

import numpy as np
import pytest

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.sources.shared import event_blocks
from gensar_core.sources.shared.lines import blocks
from tests.support.sources_files import Shop, check_canonical, page, review, table_bytes

KITE, BALL = ["Toys", "Kites"], ["Toys & Games", "Balls"]
RNG = np.random.default_rng(5)
MANY_REVIEWS = [
    review(f"u{RNG.integers(80)}", f"i{RNG.integers(30)}", int(time), int(RNG.integers(1, 6)))
    for time in RNG.permutation(10**6)[:2000] + 1
]
PAGES = [page(f"i{number}", "x", KITE, BALL) for number in range(30)]


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


def test_reviews_become_recommendations_and_pairs_become_searches(shop):
    shop.reviews(
        review("zoe", "b2", 300),
        review("adam", "b1", 200),
        review("adam", "b3", 100),
        review("adam", "b2", 200),
        review("zoe", "gone", 100),
        review("zoe", "b1", 100),
    ).metadata(
        page("b1", "Red &amp; blue kite", KITE, description="Flies <b>high</b>", brand="Sky"),
        page("b2", "Ball", BALL, KITE),
        page("b3", None, KITE, description="only described"),
        page("unreviewed", "A hoop"),
    ).searches(
        ["toy kite", "toy ball", "toy  kite"],
        ["adam_0 0 b1 1", "zoe_1 0 b2 1", "zoe_0 0 gone 1", "adam_1 0 nowhere 1", "eve_0 0 b1 1"],
        ["adam_2 0 b3 1", "zoe_7 0 b1 1", "adam_1 0 b2"],
    ).canonicalize()
    assert shop.events() == [
        ("adam", 100, "rec", "b3", None, None),
        ("adam", 100, "search", "b3", "toy kite", 0),
        ("adam", 200, "rec", "b1", None, None),
        ("adam", 200, "rec", "b2", None, None),
        ("adam", 200, "search", "b1", "toy kite", 1),
        ("zoe", 100, "rec", "b1", None, None),
        ("zoe", 300, "rec", "b2", None, None),
        ("zoe", 300, "search", "b2", "toy ball", 2),
    ]  # fmt: skip
    assert shop.items.drop("item_id").rows() == [
        ("b1", "Red & blue kite", "Flies high", "Sky", [KITE], "Red & blue kite Flies high"),
        ("b2", "Ball", "", "", [BALL, KITE], "Ball"),
        ("b3", "", "only described", "", [KITE], "only described"),
    ]
    assert schema.QUERIES.read(shop.output / "queries.parquet").rows() == [(0, "toy ball"), (1, "toy kite")]
    expected = {
        "reviews_read": 6, "users_read": 2, "items_read": 4, "duplicate_reviews": 0,
        "metadata_cleaned": 4, "items_without_metadata": 1, "items_without_text": 0, "items_with_text": 3,
        "reviews_on_dropped_items": 1, "recommendation_interactions": 5,
        "query_lines": 3, "qrels_train": 5, "qrels_test": 2, "qrels_test_broken_lines": 1,
        "qrels_unknown_queries": 1, "qrels_empty_queries": 0, "search_pairs_one_query": 6,
        "search_pairs_on_dropped_items": 2, "search_pairs_without_review": 1, "search_interactions": 3,
        "search_users": 2, "search_items": 3, "distinct_queries": 2, "users": 2, "items": 3, "queries": 2, "events": 8,
    }  # fmt: skip
    assert {name: shop.counts[name] for name in expected} == expected


def test_without_searches_reviews_are_clicks_and_nothing_else(shop):
    shop.reviews(review("zoe", "b2", 300), review("adam", "b1", 200), review("adam", "gone", 100))
    shop.metadata(page("b1", "Kite", KITE), page("b2", None)).searches(["toy"], ["adam_0 0 b1 1"], [])
    shop.canonicalize(searches="none", keep_textless_items=True)
    assert shop.events() == [
        ("adam", 100, "rec", "gone", None, None),
        ("adam", 200, "rec", "b1", None, None),
        ("zoe", 300, "rec", "b2", None, None),
    ]
    assert schema.QUERIES.read(shop.output / "queries.parquet").is_empty()
    assert shop.items.drop("item_id").rows() == [
        ("b1", "Kite", "", "", [KITE], "Kite"), ("b2", "", "", "", [], ""), ("gone", "", "", "", [], ""),
    ]  # fmt: skip
    expected = {"items_with_text": 1, "items_without_text": 1, "items_without_metadata": 1, "search_interactions": 0}
    assert {name: shop.counts[name] for name in expected} == expected
    assert "query_lines" not in shop.counts


def test_within_a_time_ratings_ascend_then_the_file_decides_and_searches_come_last(shop):
    shop.reviews(
        review("u", "five", 50, 5.0),
        review("u", "none", 50),
        review("u", "two", 50, 2),
        review("u", "also five", 50, 5),
        review("u", "also none", 50),
        review("u", "one", 60, 1),
    ).metadata(*(page(name) for name in ("five", "none", "two", "also five", "also none", "one")))
    shop.searches(["q"], ["u_0 0 five 1", "u_0 0 two 1"], ["u_0 0 one 1"]).canonicalize()
    assert [(event[3], event[2]) for event in shop.events()] == [
        ("none", "rec"), ("also none", "rec"), ("two", "rec"), ("five", "rec"), ("also five", "rec"),
        ("two", "search"), ("five", "search"), ("one", "rec"), ("one", "search"),
    ]  # fmt: skip


def test_equal_reviews_count_once_and_later_ones_of_the_pair_stay(shop):
    shop.reviews(
        review("u", "a", 9, 5), review("u", "a", 9, 1), review("u", "a", 4), review("u", "b", 9, 3), review("v", "a", 9)
    )  # fmt: skip
    shop.metadata(page("a"), page("b")).searches(["q"], ["u_0 0 a 1"], ["v_0 0 a 1"]).canonicalize()
    # The first of the equal ones stays, with its five stars; the search is at the pair's first review.
    assert [event[:4] for event in shop.events()] == [
        ("u", 4, "rec", "a"), ("u", 4, "search", "a"), ("u", 9, "rec", "b"), ("u", 9, "rec", "a"),
        ("v", 9, "rec", "a"), ("v", 9, "search", "a"),
    ]  # fmt: skip
    assert (shop.counts["reviews_read"], shop.counts["duplicate_reviews"]) == (5, 1)


def test_one_of_a_pairs_queries_is_drawn_evenly_in_any_order_of_lines(shop, tmp_path):
    users = [f"u{number}" for number in range(900)]
    # A query that is listed twice for a pair is drawn no more often.
    lines = [f"{user}_{query} 0 a 1" for user in users for query in (0, 0, 0, 1, 2)]
    other = Shop(tmp_path / "other")
    for each, order in ((shop, lines), (other, random.Random(1).sample(lines, len(lines)))):
        each.reviews(*(review(user, "a", 5) for user in users)).metadata(page("a"))
        each.searches(["q0", "q1", "q2"], order[:-9], order[-9:]).canonicalize()
    assert shop.events() == other.events()
    drawn = [event[4] for event in shop.events() if event[2] == "search"]
    assert len(drawn) == 900
    assert all(250 < drawn.count(query) < 350 for query in ("q0", "q1", "q2"))


def test_synthesized_searches_are_a_share_of_the_reviews_with_one_of_the_items_queries(shop):
    users = [f"u{number}" for number in range(1000)]
    reviews = [review(user, item, 5) for user in users for item in ("two", "flat")]
    shop.reviews(*reviews).metadata(
        page("two", "x", KITE, BALL, ["Toys", "Kite"]), page("flat", "y", ["Toys"], ["The", "Of"])
    )
    shop.canonicalize(search_share=0.4)
    searches = [event for event in shop.events() if event[2] == "search"]
    assert {event[3] for event in searches} == {"two"}
    assert 350 < len(searches) < 450
    queries = [event[4] for event in searches]
    assert set(queries) == {"toy kite", "toy games ball"}
    assert abs(queries.count("toy kite") / len(queries) - 0.5) < 0.08
    counts = shop.counts
    assert counts["search_reviews_drawn"] == len(searches) + counts["search_reviews_without_query"]
    assert (counts["paths_of_one_level"], counts["empty_queries"], counts["items_without_query"]) == (1, 1, 1)
    assert [event[5] for event in searches] == list(range(len(searches)))
    for share, expected in ((0.0, 0), (1.0, 1000)):
        events = shop.canonicalize(search_share=share).events()
        assert [event[2] for event in events].count("search") == expected == len(events) - 2000


def test_equal_seeds_give_equal_bytes_in_any_order_of_lines(shop, tmp_path):
    first = shop.reviews(*MANY_REVIEWS).metadata(*PAGES).canonicalize().events()
    expected = table_bytes(shop.output)
    shop.output = tmp_path / "again"
    assert table_bytes(shop.canonicalize().output) == expected
    shuffled = random.Random(2).sample(MANY_REVIEWS, len(MANY_REVIEWS))
    shop.reviews(*shuffled).metadata(*reversed(PAGES)).canonicalize()
    assert table_bytes(shop.output) == expected
    other = shop.canonicalize(seed=2).events()
    assert other != first
    assert [event[:4] for event in other if event[2] == "rec"] == [event[:4] for event in first if event[2] == "rec"]


@pytest.mark.parametrize("searches", ["made", "none"])
def test_result_is_the_same_for_every_size_of_blocks(shop, monkeypatch, searches):
    shop.reviews(*MANY_REVIEWS).metadata(*PAGES[:20])
    found = []
    for size in (event_blocks.BLOCK, 300, 1):
        monkeypatch.setattr(event_blocks, "BLOCK", size)
        shop.canonicalize(searches=searches, search_share=0.3)
        found.append((table_bytes(shop.output), shop.counts))
    assert found[0] == found[1] == found[2]
    assert found[0][1]["reviews_on_dropped_items"] > 0


def test_dirty_file_gives_the_tables_of_its_sound_lines(shop, tmp_path, monkeypatch):
    clean = Shop(tmp_path / "clean").reviews(*MANY_REVIEWS).metadata(*PAGES).canonicalize()
    dirty = [*MANY_REVIEWS[:700], "{", *MANY_REVIEWS[700:1900], b"\xff", review("u", "i", -1), "", *MANY_REVIEWS[1900:]]
    # A file of many blocks.
    monkeypatch.setattr("gensar_core.sources.amazon.reviews.blocks", lambda path: blocks(path, 1000))
    shop.reviews(*dirty).metadata(*PAGES[:4], "print()", *PAGES[4:], PAGES[0]).canonicalize()
    assert table_bytes(shop.output) == table_bytes(clean.output)
    assert (shop.counts["reviews_read"], shop.counts["reviews_broken_lines"]) == (2000, 3)
    examples = ["line 701: not JSON", "line 1902: not UTF-8", "line 1903: absurd time"]
    assert shop.counts["reviews_broken_examples"] == examples
    assert (shop.counts["metadata_broken_lines"], shop.counts["metadata_duplicates"]) == (1, 1)


def test_expected_rows_warn_by_the_name_of_the_step(shop):
    shop.reviews(review("u", "a", 5), review("v", "a", 6)).metadata(page("a", "x", KITE))
    shop.canonicalize(search_share=1.0, expected_rows={"reviews_read": 2, "items_read": 3, "qrels_train": 4})
    assert shop.warnings == [
        "step items_read: 1 rows, expected 3",
        "step qrels_train: 4 rows expected, but there are no product-search files to count",
    ]
    with pytest.raises(UserError, match=r"expected_rows: 'review_read' is no step .*; did you mean 'reviews_read'"):
        shop.canonicalize(expected_rows={"review_read": 2})


def test_missing_files_are_named_with_where_to_put_them(shop):
    with pytest.raises(UserError) as caught:
        shop.canonicalize()
    message = str(caught.value)
    assert "lacks reviews_Toys_5.json.gz and meta_Toys.json.gz; put the raw files there" in message
    assert "datasets.<name>.raw" in message
    shop.reviews(review("u", "a", 5))
    with pytest.raises(UserError, match=r"lacks meta_Toys\.json\.gz;"):
        shop.canonicalize()


def test_failure_leaves_no_files(shop):
    shop.reviews(review("u", "a", 5)).metadata(page("b"), page("a", None, KITE))
    with pytest.raises(UserError, match="no review is left"):
        shop.canonicalize()
    file = shop.raw / "meta_Toys.json.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="cut off"):
        shop.canonicalize()
    assert list(shop.output.iterdir()) == []


def test_tables_hold_no_item_user_or_query_without_events(shop):
    odd = [(user, 'q"x ä') for user in ("b", "B", "10", "9", "a b")]
    pages = (page(f"i{number}", "x" if number % 3 else None, KITE) for number in range(40))
    shop.reviews(*MANY_REVIEWS, *(review(user, item, 5) for user, item in odd)).metadata(*pages, page('q"x ä'))
    shop.canonicalize()
    check_canonical(shop.output)
    sessions = schema.EVENTS.read(shop.output / "events.parquet").filter(task="search")["session_id"]
    assert sessions.to_list() == list(range(len(sessions)))

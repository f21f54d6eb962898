"""Queries made of category paths read like the published ones."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensar_core.sources.amazon.query_synthesis import path_query, synthesize_queries
from gensar_core.sources.amazon.query_words import STOP_WORDS, query_words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Computers & Accessories", ["computer", "accessory"]),
        ("MP3 Players", ["mp", "player"]),
        ("No-Contract Cell Phones", ["nocontract", "cell", "phone"]),
        ("4-Port Hubs", ["port", "hub"]),
        ("I/O Port Cards", ["io", "port", "cards"]),
        ("Men's Belts", ["men", "belt"]),
        ("Sports & Outdoors", ["sports", "outdoors"]),
        ("3-D Glasses", ["glasses"]),
        ("LED TVs", ["led", "tvs"]),
        ("Batteries, Chargers & Cables", ["battery", "charger", "cable"]),
        ("Lenses for the Camera", ["lens", "camera"]),
        ("Crème Brûlée Dishes", ["creme", "brulee", "dishes"]),
        ("Routers", ["route"]),
        ("Zorbloxes", ["zorblox"]),
        ("Glass", ["glass"]),
        ("& , 802.11 -", []),
        ("", []),
    ],
)  # fmt: skip
def test_words_of_a_category_name(name, words):
    assert query_words(name) == words


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("Electronics > Computers & Accessories > Cables & Accessories > Cables & Interconnects > Ethernet Cables", "electronics computer accessory interconnect ethernet cable"),
        ("Electronics > Accessories & Supplies > Audio & Video Accessories > Cables & Interconnects > Video Cables > HDMI Cables", "electronics supplies audio accessory interconnect video hdmi cable"),
        ("Electronics > Portable Audio & Video > MP3 Players & Accessories > MP3 Player Accessories > Cases", "electronics portable audio video mp player accessory case"),
        ("Electronics > Camera & Photo > Digital Cameras > Point & Shoot Digital Cameras", "electronics photo point shoot digital camera"),
        ("Electronics", ""),
        ("The > And", ""),
    ],
)  # fmt: skip
def test_known_paths_give_the_published_queries(path, query):
    assert path_query(path.split(" > ")) == query


words = st.sampled_from(["Cables", "Cable", "Kits", "Sports", "and", "the", "TV-Sets", "Lights", "5"])


@given(st.lists(st.lists(words, max_size=3).map(" ".join), min_size=2, max_size=5))
def test_query_has_every_word_once_in_its_last_place(path):
    path_words = [word for name in path for word in query_words(name)]
    # Plain loop: drop each word that comes again later.
    expected = [word for place, word in enumerate(path_words) if word not in path_words[place + 1 :]]
    query = path_query(path).split()
    assert query == expected
    assert not STOP_WORDS & set(query)


def test_item_has_one_query_per_path_and_equal_ones_once():
    categories = {
        "many": [["Toys", "Kites"], ["Toys", "Red Kites"], ["Toys"]],
        "same": [["Toys", "Kite"], ["Toys", "Kites"]],
        "flat": [["Toys"]],
        "none": [],
        "stop": [["The", "Other"]],
    }
    schema = {"item": pl.String, "categories": pl.List(pl.List(pl.String))}
    items = pl.DataFrame(list(categories.items()), schema=schema, orient="row")
    queries, counts = synthesize_queries(items)
    assert queries.rows() == [("many", ["toy kite", "toy red kite"]), ("same", ["toy kite"])]
    assert counts == {"paths_of_one_level": 2, "empty_queries": 1}

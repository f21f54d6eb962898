"""Preparation on real files: the published queries keep their form, and the counts of Beauty are those of its files."""

import gzip

from gensar_core import schema
from gensar_core.config.datasets import CanonicalSettings
from gensar_core.runtime.stage import read_record
from gensar_core.sources.amazon.canonical import canonicalize
from gensar_core.sources.amazon.query_synthesis import path_query


def published_queries(realdata):
    text = gzip.decompress((realdata / "amazon_electronics_queries" / "query_text.txt.gz").read_bytes()).decode()
    return text.splitlines()


def test_published_queries_are_left_as_they_are(realdata):
    queries = published_queries(realdata)
    changed = [query for query in queries if path_query(query.split()) != query]
    assert len(queries) == 989
    assert changed == []


def test_published_queries_keep_the_last_place_of_a_repeated_word(realdata):
    words = [query.split() for query in published_queries(realdata)]
    assert all(len(query) == len(set(query)) for query in words)
    # Kept at its first place, "accessory" would follow "computer" in each path below "Computers & Accessories", and
    # "photo" would follow "camera" in each path below "Camera & Photo".
    computers = [query for query in words if query[:2] == ["electronics", "computer"]]
    assert (len(computers), sum(query[2:3] != ["accessory"] for query in computers)) == (120, 61)
    both = [query for query in words if {"camera", "photo"} <= set(query)]
    assert sum(query.index("photo") < query.index("camera") for query in both) == 44
    # Where nothing below repeats the words, both stay in the order of the name.
    assert "electronics camera photo studio lighting control modifier soft box" in map(" ".join, words)


def test_beauty_keeps_every_review_of_an_item_with_text(realdata, tmp_path):
    expected = {
        "reviews_read": 198_502,
        "users_read": 22_363,
        "items_read": 12_101,
        "metadata_cleaned": 12_101,
        "items_with_text": 12_094,
        "recommendation_interactions": 198_371,
    }
    settings = CanonicalSettings(category="Beauty", expected_rows=expected)
    canonicalize(realdata / "amazon_beauty", settings, tmp_path, 1)
    record = read_record(tmp_path / "stage.json")
    assert record["warnings"] == []
    assert not any(count for name, count in record["counts"].items() if name.endswith("broken_lines"))
    events = schema.EVENTS.read(tmp_path / "events.parquet")
    share = (events["task"] == "search").sum() / 198_371
    assert abs(share - 0.76) < 0.005

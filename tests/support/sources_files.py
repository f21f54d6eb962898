"""Small raw Amazon folders, written by hand."""

import gzip
import json
from pathlib import Path

import polars as pl

from gensar_core import schema
from gensar_core.config.datasets import CanonicalSettings
from gensar_core.runtime.stage import read_record
from gensar_core.sources.amazon.canonical import canonicalize
from gensar_core.sources.amazon.releases import RELEASES, ReviewKeys
from gensar_core.sources.amazon.reviews import read_reviews
from gensar_core.sources.shared.lines import Tally

#: 2023-01-01 in milliseconds.
NEW_YEAR = 1_672_531_200_000


def write_gzip(path: Path, lines: list[str | bytes]) -> Path:
    data = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data, mtime=0))
    return path


def review(user: str, item: str, time: object, rating: object = None, **fields: object) -> str:
    values = {"reviewerID": user, "asin": item, **fields, "unixReviewTime": time}
    return json.dumps(values if rating is None else {**values, "overall": rating})


def page(asin: str, title: str | None = "A thing", *paths: list[str], **fields: object) -> str:
    values = {"asin": asin, "categories": list(paths), **fields}
    return repr(values if title is None else {**values, "title": title})


def reviews_of(path: Path, keys: ReviewKeys = RELEASES[2014].review_keys) -> tuple[pl.DataFrame, Tally]:
    tally = Tally(path, "reviews")
    return pl.concat(read_reviews(tally, keys)), tally


def review_2023(user: str | None, item: str, time: object, rating: object = 5.0, **fields: object) -> str:
    """A review as published; ``item`` is the parent, under which every variant is sold."""
    return json.dumps(
        {"rating": rating, "title": "Nice", "text": "I like it. \ud83d\ude00", "images": [], "asin": "variant", "parent_asin": item,
         "user_id": user, "timestamp": time, "helpful_vote": 0, "verified_purchase": True, **fields}
    )  # fmt: skip


def product_2023(item: object, title: object = "A thing", **fields: object) -> str:
    return json.dumps(
        {"main_category": "Toys", "title": title, "average_rating": 4.5, "rating_number": 3, "features": [], "description": [],
         "price": None, "images": [], "videos": [], "store": None, "categories": [], "details": {}, "parent_asin": item,
         "bought_together": None, **fields}
    )  # fmt: skip


class Shop:
    """A raw folder of the category `Toys` of 2014, or of 2023, and what becomes of it."""

    def __init__(self, folder: Path, release: int = 2014) -> None:
        self.raw = folder / "raw"
        self.raw.mkdir(parents=True)
        self.output = folder / "canonical"
        self.names = ["reviews_Toys_5.json.gz", "meta_Toys.json.gz"]
        self.settings = {}
        if release == 2023:
            self.names = ["Toys.jsonl.gz", "meta_Toys.jsonl.gz"]
            self.settings = {"release": 2023, "min_interactions": 1}

    def reviews(self, *lines: str | bytes) -> "Shop":
        write_gzip(self.raw / self.names[0], list(lines))
        return self

    def metadata(self, *lines: str | bytes) -> "Shop":
        write_gzip(self.raw / self.names[1], list(lines))
        return self

    def searches(self, queries: list[str | bytes], train: list[str | bytes], test: list[str | bytes]) -> "Shop":
        write_gzip(self.raw / "query_text.txt.gz", queries)
        write_gzip(self.raw / "train.qrels.gz", train)
        write_gzip(self.raw / "test.qrels.gz", test)
        return self

    def canonicalize(self, seed: int = 1, **settings: object) -> "Shop":
        canonicalize(self.raw, CanonicalSettings(category="Toys", **self.settings | settings), self.output, seed)
        return self

    @property
    def counts(self) -> dict:
        return counts(self.output)

    @property
    def warnings(self) -> list[str]:
        return warnings(self.output)

    @property
    def items(self) -> pl.DataFrame:
        return schema.ITEMS.read(self.output / "items.parquet")

    def events(self) -> list[tuple]:
        return raw_events(self.output)


NAMES = ("users", "items", "queries", "events")


def tables(folder: Path) -> dict[str, pl.DataFrame]:
    """Read the canonical tables of a folder."""
    return {name: schema.TABLES[name].read(folder / f"{name}.parquet") for name in NAMES}


def raw_events(folder: Path) -> list[tuple]:
    """(user, time, task, item, query, session) of every event in order, by raw ids and query text."""
    users, items, queries, events = tables(folder).values()
    assert events["event_id"].to_list() == list(range(len(events)))
    columns = (
        users["raw_id"].gather(events["user_id"]),
        events["time"],
        events["task"].cast(pl.String()),
        items["raw_id"].gather(events["item_id"]),
        queries["text"].gather(events["query_id"]),
        events["session_id"],
    )
    return list(zip(*columns, strict=True))


def table_bytes(folder: Path) -> list[bytes]:
    """Read the files of the canonical tables."""
    return [(folder / f"{name}.parquet").read_bytes() for name in NAMES]


def check_canonical(output: Path) -> None:
    """Check that the tables are whole, dense and in order."""
    users, items, queries, events = tables(output).values()
    for table, number, text in (
        (users, "user_id", "raw_id"),
        (items, "item_id", "raw_id"),
        (queries, "query_id", "text"),
    ):
        assert table[number].to_list() == list(range(len(table)))
        assert table[text].to_list() == sorted(set(table[text]))
        assert set(events[number].drop_nulls()) == set(table[number])
    assert (events["time"] > 0).all()
    assert events["event_id"].to_list() == list(range(len(events)))
    assert events.select("user_id", "time").rows() == sorted(events.select("user_id", "time").rows())
    assert not items["text"].str.contains(r"\p{Cc}").any()


def assert_same(actual: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    """Compare canonical tables."""
    for name in NAMES:
        assert actual[name].equals(expected[name]), name


def counts(folder: Path) -> dict:
    """Read the counts of a stage's record."""
    return read_record(folder / "stage.json")["counts"]


def warnings(folder: Path) -> list[str]:
    """Read the warnings of a stage's record."""
    return read_record(folder / "stage.json")["warnings"]

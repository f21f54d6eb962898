"""Raw files: sound lines are read exactly, broken ones counted by number and reason, hopeless files refused."""

import ast
import gzip

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.errors import UserError
from gensar_core.sources.amazon import metadata, reviews
from gensar_core.sources.amazon.metadata import read_metadata
from gensar_core.sources.amazon.product_search import has_product_search, read_qrels, read_query_lines
from gensar_core.sources.amazon.releases import RELEASES
from gensar_core.sources.shared.draws import row_numbers, text_hashes
from gensar_core.sources.shared.lines import LineBlock, Tally, blocks
from tests.support.sources_files import NEW_YEAR, page, product_2023, review, review_2023, reviews_of, write_gzip

READERS = [
    reviews_of,
    lambda path: read_metadata(path, set()),
    read_query_lines,
    lambda path: read_qrels(path, "qrels_train"),
]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"reviewerID,asin\n", "not a gzip file"),
        (gzip.compress(b"a line\n" * 50_000, mtime=0)[:-200], "cut off or damaged"),
        (gzip.compress(b"a line\n" * 50_000, mtime=0)[:-8] + b"12345678", "cut off or damaged"),
    ],
)
def test_unreadable_file_is_one_line_with_its_name(tmp_path, read, content, message):
    path = tmp_path / "raw.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("read", [READERS[0], READERS[1], READERS[3]])
def test_file_with_more_than_half_of_its_lines_broken_is_refused(tmp_path, read):
    path = write_gzip(tmp_path / "raw.gz", ["user,item", "1,2", "3,4"])
    with pytest.raises(UserError, match=r"3 of 3 lines are broken \(line 1: .*put the right file there"):
        read(path)
    good, bad = review("a", "b", 5), "?"
    table, tally = reviews_of(write_gzip(tmp_path / "half.gz", [good, bad, good, bad]))
    assert (len(table), tally.broken, tally.lines) == (2, 2, 4)
    with pytest.raises(UserError, match="3 of 5 lines"):
        reviews_of(write_gzip(tmp_path / "more.gz", [good, bad, good, bad, bad]))


def test_blocks_of_any_size_hold_every_line_once(tmp_path):
    lines = [f"line {number} {'x' * (number % 37)}".encode() for number in range(200)]
    path = write_gzip(tmp_path / "lines.gz", lines)
    for size in (1, 7, 64, 1 << 20):
        assert [entry for block in blocks(path, size) for entry in block.lines()] == list(enumerate(lines, 1))
    path.write_bytes(gzip.compress(b"one\r\n\ntwo", mtime=0))
    assert [line for block in blocks(path) for line in block.lines()] == [(1, b"one"), (2, b""), (3, b"two")]


def test_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    mark = b"\xef\xbb\xbf"
    path = write_gzip(tmp_path / "lines.gz", [mark + b"one", mark + b"two"])
    for size in (1, 2, 5, 1 << 20):
        assert [entry for block in blocks(path, size) for entry in block.lines()] == [(1, b"one"), (2, mark + b"two")]
    first, second = review("u", "i", 10), review("v", "j", 20)
    table, tally = reviews_of(write_gzip(tmp_path / "reviews.gz", [mark + first.encode(), second]))
    assert (table["user"].to_list(), tally.broken) == (["u", "v"], 0)
    result = read_metadata(write_gzip(tmp_path / "meta.gz", [mark + page("a").encode(), page("b")]), {"a", "b"})
    assert (result.items["item"].to_list(), result.tally.broken) == (["a", "b"], 0)
    lines, tally = read_query_lines(write_gzip(tmp_path / "queries.gz", [mark + b"kite"]))
    assert (lines.rows(), tally.broken) == ([(0, "kite")], 0)


def test_file_without_line_breaks_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("gensar_core.sources.shared.lines.LONGEST_LINE", 1000)
    path = tmp_path / "raw.gz"
    path.write_bytes(gzip.compress(b"line\n" + b"x" * 5000, mtime=0))
    with pytest.raises(UserError, match="line 2: no line break"):
        list(blocks(path, 100))


@given(
    st.lists(st.binary(max_size=9).filter(lambda line: b"\n" not in line), min_size=1, max_size=20), st.integers(1, 40)
)
def test_pieces_of_a_block_are_its_lines(lines, size):
    block = LineBlock(7, b"".join(line + b"\n" for line in lines))
    pieces = list(block.pieces(size))
    assert b"".join(piece.data for piece in pieces) == block.data
    assert [entry for piece in pieces for entry in piece.lines()] == list(block.lines())
    assert all(len(piece.data) >= size for piece in pieces[:-1])


BROKEN_REVIEWS = {
    "not JSON": [
        '{"reviewerID": "a", "asin": "b", "unixReviewTi', "{'reviewerID': 'a', 'asin': 'b', 'unixReviewTime': 5}", review("a", "b", 5) + " trailing",
        '{"a": ' * 100_000,
    ],
    "not UTF-8": [
        b'{"reviewerID": "a\xff", "asin": "b", "unixReviewTime": 5}', b'{"reviewerID": "a", "asin": "b", "reviewText": "\xc3(", "unixReviewTime": 5}',
    ],
    "not a JSON object": ['["a", "b", 5]', "5"],
    "field missing": [
        '{"asin": "b", "unixReviewTime": 5}', '{"reviewerID": "a", "asin": null, "unixReviewTime": 5}', '{"reviewerID": "a", "asin": "b"}',
    ],
    "field of a wrong type": [
        review(12, "b", 5), review("a", ["b"], 5), review("", "b", 5), review("a\ud800", "b", 5), review("a", "b", "5"), review("a", "b", 5.5),
        review("a", "b", True), review("a", "b", 5, "five stars"), review("a", "b", 5, float("nan")), review("a", "b", 5, 10**400),
    ],
    "absurd time": [
        review("a", "b", 0), review("a", "b", -1_300_000_000), review("a", "b", 4_102_444_800), review("a", "b", 1_300_000_000_000),
        review("a", "b", 10**30),
    ],
}  # fmt: skip


BROKEN_REVIEWS_2023 = {
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


def by_release(old, new):
    """(release, reason, line) of every line of two tables of broken lines."""
    tables = {2014: old, 2023: new}
    return [(release, *case) for release, broken in tables.items() for case in cases(broken)]


def cases(broken):
    return [(reason, line) for reason, lines in broken.items() for line in lines]


def sound_review(release, user, item, second, rating=None):
    return review(user, item, second, rating) if release == 2014 else review_2023(user, item, 1000 * second, rating)


@pytest.mark.parametrize(("release", "reason", "line"), by_release(BROKEN_REVIEWS, BROKEN_REVIEWS_2023))
def test_broken_review_is_counted_with_its_line(tmp_path, release, reason, line):
    lines = [sound_review(release, "u", "i", 10), line, sound_review(release, "v", "j", 20, 4)]
    table, tally = reviews_of(write_gzip(tmp_path / "reviews.gz", lines), RELEASES[release].review_keys)
    assert table.rows() == [("u", "i", 10, None), ("v", "j", 20, 4.0)]
    assert tally.counts() == {
        "reviews_broken_lines": 1,
        "reviews_broken_reasons": {reason: 1},
        "reviews_broken_examples": [f"line 2: {reason}"],
    }
    assert tally.lines == 3


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (review("A 1", 'say "b"', 5, 3), ("A 1", 'say "b"', 5, 3.0)),
        (review("Ä_ö", "b", 4_102_444_799, 4.5), ("Ä_ö", "b", 4_102_444_799, 4.5)),
        ('{"asin":"b","unixReviewTime":5,"reviewerID":"a"}', ("a", "b", 5, None)),
        ('{"asin": "b", "unixReviewTime": 5, "reviewerID": "a", "overall": null}', ("a", "b", 5, None)),
        (review("a", "b", 5, reviewText='my "asin": "c" \ud83d\ude00' + "x" * 100_000), ("a", "b", 5, None)),
        (review("a", "b", 5, helpful={"asin": 3}), ("a", "b", 5, None)),
        (review("a", "b", 5, summary="asin"), ("a", "b", 5, None)),
        ('{"reviewerID": "x", "reviewerID": "a", "asin": "b", "unixReviewTime": 5}', ("a", "b", 5, None)),
        (review("a\0", "b", 5) + "\r", ("a\0", "b", 5, None)),
    ],
)  # fmt: skip
def test_odd_but_sound_reviews_are_read_exactly(tmp_path, line, row):
    table, tally = reviews_of(write_gzip(tmp_path / "reviews.gz", [line, "", review("u", "i", 10)]))
    assert table.rows() == [row, ("u", "i", 10, None)]
    assert (tally.lines, tally.broken) == (2, 0)


@pytest.mark.parametrize(("release", "broken"), [(2014, BROKEN_REVIEWS), (2023, BROKEN_REVIEWS_2023)])
@settings(max_examples=60)
@given(data=st.data())
def test_reading_at_once_equals_reading_line_by_line(tmp_path_factory, release, broken, data):
    kinds = st.sampled_from([line for _, line in cases(broken) if len(line) < 1000] + ["", "good", "good"])
    lines = data.draw(st.lists(kinds, min_size=1, max_size=30))
    lines = [sound_review(release, f"u{n}", "12", n + 1, 5) if line == "good" else line for n, line in enumerate(lines)]
    block = LineBlock(1, b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    keys = RELEASES[release].review_keys
    by_line = [(number, reviews._parse_line(line, keys)) for number, line in block.lines() if line]
    tally = Tally(tmp_path_factory.getbasetemp(), "reviews")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reviews, "_PIECE_BYTES", 200)
        table = pl.concat(list(reviews._parse(block, tally, keys)))
    assert table.rows() == [row for _, row in by_line if not isinstance(row, str)]
    assert tally.lines == len(by_line)
    assert tally.examples == [f"line {number}: {row}" for number, row in by_line if isinstance(row, str)][:5]


BROKEN_METADATA = {
    "not a Python literal": [
        "{'asin': 'x', 'title': 'never en", "{'asin': 'x', 'title': open('executed', 'w').name}", "__import__('os').mkdir('executed')",
        "{'asin': 'x', 'title': f'{1 + 1}'}", "{'asin': 'x', 'price': 1" + "0" * 400 + " + 1j}", "{'asin': 'x', 'title': '\x00'}", "(" * 100_000,
        '{"asin": "x", "brand": null}',
    ],
    "not a dict": ["['asin', 'x']", "5"],
    "not UTF-8": [b"{'asin': 'x', 'title': '\xff'}"],
    "field missing": ["{'title': 'x'}", "{'asin': None, 'title': 'x'}"],
    "field of a wrong type": [
        "{'asin': 5, 'title': 'x'}", "{'asin': '', 'title': 'x'}", "{'asin': '\\ud800', 'title': 'x'}", "{'asin': 'x', 'title': 5}",
        "{'asin': 'x', 'description': ['x']}", "{'asin': 'x', 'brand': b'x'}", "{'asin': 'x', 'categories': ['Toys', 'Kites']}",
        "{'asin': 'x', 'categories': [['Toys', 5]]}",
    ],
    "longer than an item can be": [page("x", "x" * 150_000)],
}  # fmt: skip


BROKEN_METADATA_2023 = {
    "not JSON": ['{"parent_asin": "x", "title": "never en', "{'parent_asin': 'x'}"],
    "not UTF-8": [b'{"parent_asin": "x", "title": "\xff"}'],
    "not a JSON object": ["[]", '"x"'],
    "field missing": [product_2023(None), '{"asin": "x"}'],
    "field of a wrong type": [
        product_2023(5), product_2023(""), product_2023("\ud800"), product_2023("x", ["title"]),
        product_2023("x", description=[None]), product_2023("x", categories=[["Toys"]]),
        product_2023("x", details={"Brand": 5}), product_2023("x", store=["s"]), product_2023("x", features={}),
    ],
    "longer than an item can be": [product_2023("x", "x" * 150_000)],
}  # fmt: skip


@pytest.mark.parametrize(("release", "reason", "line"), by_release(BROKEN_METADATA, BROKEN_METADATA_2023))
@pytest.mark.parametrize("wanted", [{"x", "good"}, {"good"}])
def test_broken_metadata_is_counted_and_never_run(tmp_path, monkeypatch, release, reason, line, wanted):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(metadata, "_LONGEST_LITERAL", 150_000)
    sound = page if release == 2014 else product_2023
    path = write_gzip(tmp_path / "meta.gz", [sound("good"), line, sound("other")])
    result = read_metadata(path, wanted, RELEASES[release].product_keys)
    assert result.items["item"].to_list() == ["good"]
    assert result.cleaned == 2
    assert result.tally.counts()["metadata_broken_examples"] == [f"line 2: {reason}"]
    assert not (tmp_path / "executed").exists()


def test_items_are_cleaned_and_the_first_of_equal_asins_is_used(tmp_path):
    lines = [
        page("b", "Tom &amp; Jerry's <b>kite</b>...", ["Toys &amp; Games", " ", "Kites"], ["Toys", "Kites"], ["Toys", "Kites"], [], brand="Fly\nHigh"),
        page("unwanted", "x" * 3000, description="y"),
        page("a", None, description="d" * 100_000),
        page("b", "another kite"),
        page("unwanted", "again"),
        page("c", None),
        '{"asin": \'quo"te\', \'title\': "It\'s", \'brand\': None}',
    ]  # fmt: skip
    result = read_metadata(write_gzip(tmp_path / "meta.gz", lines), {"a", "b", "c", 'quo"te'})
    assert result.items.rows() == [
        ("b", "Tom & Jerry's kite.", "", "Fly High", [["Toys & Games", "Kites"], ["Toys", "Kites"]]),
        ("a", "", "", "", []),
        ("c", "", "", "", []),
        ('quo"te', "It's", "", "", []),
    ]
    assert (result.cleaned, result.duplicates, result.tally.broken) == (7, 2, 0)


short = st.text(alphabet="ab'\"\\\n\x00\xe9\ud800,]} ", max_size=5)
atoms = short | st.integers(-9, 9) | st.floats(allow_nan=False) | st.none()
odd = atoms | st.binary(max_size=2) | st.tuples(atoms) | st.lists(atoms, max_size=2)


def mostly(usual):
    """Draw from ``usual``, in one case of ten from `odd`."""
    return st.integers(0, 9).flatmap(lambda number: usual if number else odd)


items = st.fixed_dictionaries(
    {"asin": mostly(st.sampled_from(["B001", "a b", "\xe9"]))},
    optional={
        "title": mostly(short),
        "brand": mostly(short),
        "categories": mostly(st.lists(st.lists(short, max_size=3), max_size=2)),
        "related": mostly(st.dictionaries(short, st.lists(short, max_size=2) | atoms, max_size=2)),
        "price": mostly(atoms),
    },
)
damages = st.sampled_from(["", "", "", "", "", "", "'", '"', "\\", ")", ", 'asin': 5", " "])


@settings(max_examples=300)
@given(items, st.integers(0, 80), damages)
def test_shortcut_takes_only_lines_that_are_items(item, place, damage):
    line = repr(item)
    line = line[:place] + damage + line[place:]
    match = metadata._PLAIN_ITEM.fullmatch(line)
    if match and match["asin"] is not None:
        parsed = metadata._parse_line(line.encode("utf-8", "surrogatepass"), {match["asin"]})
        whole = ast.literal_eval(line)
        # Related items, which nothing reads, may be left out.
        assert {**parsed, "related": None} == {**whole, "related": None}
        assert parsed["asin"] == match["asin"]


def test_shortcut_takes_ordinary_lines():
    line = page(
        "0528881469", 'It\'s a "map"\n', ["Electronics", "GPS & Navigation"], ["Electronics"], price=299.99, salesRank={},
        related={"also_bought": ["B001", "B002"], "bought_together": []}, imUrl="http://example.org/a%2Bb.jpg", brand="",
        description="Like its cousin, it's 5\" wide \u00e9",
    )  # fmt: skip
    assert metadata._PLAIN_ITEM.fullmatch(line)["asin"] == "0528881469"


def test_query_ids_are_line_numbers_even_past_broken_lines(tmp_path):
    table, tally = read_query_lines(write_gzip(tmp_path / "q.gz", ["toy  kite", b"\xff", "", "\tred\x00 kite \r"]))
    assert table.rows() == [(0, "toy kite"), (2, ""), (3, "red kite")]
    assert tally.counts()["queries_broken_examples"] == ["line 2: not UTF-8"]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("A1_12 0 B1 1", ("A1", 12, "B1")),
        ("A_1_0 0 B1 1", ("A_1", 0, "B1")),
        ("A 1 \"x\"_7 0 B 'y' 2 1", ('A 1 "x"', 7, "B 'y' 2")),
        ("A1_12\t0\tB1\t1\r", ("A1", 12, "B1")),
        ("A1_12 0 B1 0", None),
        ("A1_\u0661 0 B1 1", None),
        ("\u00a0", None),
        ("A1 0 B1 1", None),
        ("A1_x 0 B1 1", None),
        ("A1_-2 0 B1 1", None),
        ("A1_12 0 B1", None),
        ("A1_12 0  1", None),
        ("_12 0 B1 1", None),
        ("A1_99999999999 0 B1 1", None),
        (b"A\xff_1 0 B1 1", None),
    ],
)  # fmt: skip
def test_qrels_lines(tmp_path, line, row):
    table, tally = read_qrels(
        write_gzip(tmp_path / "train.qrels.gz", ["u_1 0 i 1", line, "", "v_2 0 j 1"]), "qrels_train"
    )
    expected = [("u", 1, "i"), *([row] if row else []), ("v", 2, "j")]
    assert table.rows() == expected
    assert tally.lines == 3
    assert tally.broken == (row is None)
    assert tally.counts()["qrels_train_broken_examples"] == ([] if row else [f"line 2: {next(iter(tally.reasons))}"])


def test_product_search_files_come_as_three_or_not_at_all(tmp_path):
    assert not has_product_search(tmp_path)
    write_gzip(tmp_path / "query_text.txt.gz", ["kite"])
    write_gzip(tmp_path / "train.qrels.gz", ["u_0 0 i 1"])
    with pytest.raises(UserError, match=r"lacks test\.qrels\.gz"):
        has_product_search(tmp_path)
    write_gzip(tmp_path / "test.qrels.gz", ["u_0 0 i 1"])
    assert has_product_search(tmp_path)


def plain_hash(text):
    """Word by word in plain integers, as the docstring of text_hashes says."""
    mask, gamma = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def scramble(value):
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    data = text.encode()
    value = scramble((len(data) + gamma) & mask)
    for start in range(0, len(data), 8):
        value = scramble(((value ^ int.from_bytes(data[start : start + 8], "little")) + gamma) & mask)
    return value


@given(st.lists(st.text(max_size=30), min_size=1, max_size=12))
def test_text_hashes_are_those_of_a_plain_loop(texts):
    assert text_hashes(pl.Series(texts, dtype=pl.String)).tolist() == [plain_hash(text) for text in texts]


def test_row_numbers_depend_on_the_row_and_not_on_its_place():
    table = pl.DataFrame({"user": ["a", "b", "a", "ab"], "item": ["x", "x", "y", ""], "time": [1, 1, 1, 2]})
    numbers = row_numbers(3, *table).to_list()
    assert len(set(numbers)) == 4
    assert row_numbers(3, *table.reverse()).to_list() == numbers[::-1]
    assert row_numbers(3, *table.slice(2, 1)).to_list() == numbers[2:3]
    assert set(row_numbers(4, *table)).isdisjoint(numbers)

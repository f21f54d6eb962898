"""Fuzz raw files: each line is used or counted as broken, or the file is refused in one line.

Sound lines are damaged as transfers, editors, other programs and malice damage them. Nothing else may happen: no other
exception, no line lost without a count, no code of a line run.
"""

import ast
import codecs
import contextlib
import gzip
import json
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.config.datasets import CanonicalSettings, EventLogSettings, KuaiSARSettings
from gensar_core.errors import UserError
from gensar_core.sources.amazon.canonical import canonicalize
from gensar_core.sources.amazon.metadata import read_metadata
from gensar_core.sources.amazon.product_search import QUERIES, TEST, TRAIN, read_qrels, read_query_lines
from gensar_core.sources.amazon.releases import RELEASES
from gensar_core.sources.eventlog import EVENT_FAULTS, canonicalize_events
from gensar_core.sources.kuaisar import canonicalize_kuaisar
from tests.support.sources_files import check_canonical, counts, page, review, reviews_of

REVIEWS, METADATA = "reviews_Toys_5.json.gz", "meta_Toys.json.gz"
#: What code in a line would leave in the working folder.
CANARY = "executed"
CALL = f"__import__('pathlib').Path('{CANARY}').touch()"

#: What a list of lines means besides its lines: how the file that holds them is damaged as a whole.
WHOLE, CUT, PLAIN, EMPTY, FLIPPED, NO_LAST_BREAK, WINDOWS = range(7)

USERS = ["A1", "A 2", 'A"3"', "A_4", "Ä5"]
ITEMS = ["B1", "B 2", "B'3", 'B"4', "B_5"]

SOUND = {
    REVIEWS: [review(user, item, 1_300_000_000 + 86_400 * place, 1 + place % 5, reviewText="x" * place)
              for place, item in enumerate(ITEMS) for user in USERS],
    METADATA: [page(item, f"Kite &amp; <b>{item}</b>...", ["Toys", "Kites"], ["The", "And"], description="It's red")
               for item in ITEMS],
    QUERIES: ["toy kite", "the of and", "", "red  kite"],
    TRAIN: [f"{user}_{place % 5} 0 {item} 1" for place, item in enumerate(ITEMS) for user in USERS],
    TEST: [f"{user}_0 0 {ITEMS[0]} 1" for user in USERS],
}  # fmt: skip

#: The files of 2023, whose lines are JSON objects with other keys and milliseconds.
REVIEWS_2023, METADATA_2023 = "Toys.jsonl.gz", "meta_Toys.jsonl.gz"
SOUND_2023 = {
    REVIEWS_2023: [json.dumps({"rating": 5.0, "text": "x", "parent_asin": item, "user_id": user, "timestamp": 1_600_000_000_000 + place})
                   for place, item in enumerate(ITEMS) for user in USERS],
    METADATA_2023: [json.dumps({"title": f"<b>{item}</b>", "description": ["It's", "red"], "features": ["x"], "categories": ["Toys", "Kites"],
                                "store": None, "details": {"Brand": "Sky"}, "parent_asin": item}) for item in ITEMS],
}  # fmt: skip
READ_LINES = SOUND | SOUND_2023

#: Values where another one belongs.
ODD_VALUES = [
    None, True, 0, -1, 1.5, -1_300_000_000, 4_102_444_800, 10**12, 10**30, 10**400, float("nan"), float("inf"), "", " ", "5", "x" * 100_000,
    "a b", 'say "x"', "it's", "a\nb", "a\0b", "\ud800", "\u2028", "_", "_1", "the of and", [], ["Toys"], [["Toys", 5]], [[]], {}, {"asin": {"asin": 5}},
    [[[[[["deep"]]]]]], "[" * 9_000, "[" + "9" * 9_000 + "]", b"bytes", (1, 2), {3}, 1e308, 2 + 3j,
]  # fmt: skip
#: Lines that belong into no file, or only seem to.
ODD_LINES = [
    CALL, f"{{'asin': 'B1', 'title': {CALL}}}", f"{{'asin': 'B1', 'title': f'{{{CALL}}}'}}", f"{{'asin': [{CALL} for _ in 'x']}}",
    f'{{"asin": "B1", "reviewerID": "A1", "unixReviewTime": {CALL}}}', "{'asin': 'B1', 'price': 1" + "0" * 400 + " + 1j}",
    "{'asin': 'B1', **{'title': 'x'}}", "{'asin': 'B1', []: 'x'}", "[" * 3_000, "[" * 3_000 + "]" * 3_000, '{"asin":' * 3_000, "-" * 9_000 + "1", "1" + "+1" * 9_000,
    "(" * 9_000, "a" + ".b" * 9_000, "9" * 9_000, "set()", "...", "null", "5", "[]", "{}", "''", '""', " ", "\t \x0b", "\x85", "\u00a0", "\ufeff", "\x00", "\x1b[31m",
    "A1_\u0661 0 B1 1", "A1_1 0 B1 \u0661", "A1_1 \u00a00\u00a0 B1 1", "A1_000000000 0 B1 1", "A1_999999999 0 B1 1", "A1_1 0 B1 1 0 B2 1", "_1 0 B1 1", "A1_1 0  1",
    '{"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1300000000, "asin": "B 2"}', '{"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1.3e9}',
    '{"reviewerID": "A1", "asin": "B1", "unixReviewTime": 01300000000}', '{"reviewerID": "\\ud83d", "asin": "B1", "unixReviewTime": 1300000000}',
    "user,item,time", "<html><body>404 Not Found</body></html>", "%PDF-1.7", "x" * 100_000, "<!--" * 25_000, "&lt;" * 25_000,
]  # fmt: skip
ODD_BYTES = [b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5", b"\r", b"\x1a", b"\x1c", b"\x85", b"\x0b", b"\x0c", b"\\", b"'", b'"', b"{", b"}", b"_", b" ", b"\t"]  # fmt: skip
ENCODINGS = ["utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "cp1252"]


def damaged(sound: str, kind: int, place: float, choice: int) -> list[bytes]:
    """One sound line after damage of one kind; a few kinds give more lines, or fewer."""
    data = sound.encode()
    at = int(place * len(data))
    odd = ODD_BYTES[choice % len(ODD_BYTES)]
    other = other_value(sound, int(place * 7), ODD_VALUES[choice % len(ODD_VALUES)])
    damages = [
        [data[:at]],
        [data[:at] + bytes([data[at] ^ (1 << choice % 8)]) + data[at + 1 :] if at < len(data) else data],
        [data[:at] + odd + data[at:]],
        [data[:at] + odd * (1 + choice % 3) + data[at + 1 + choice % 4 :]],
        [sound.encode(ENCODINGS[choice % len(ENCODINGS)], "replace")],
        [other],
        [other],
        [ODD_LINES[choice % len(ODD_LINES)].encode()],
        [data] * (choice % 4),
        [data[at:] + data[:at]],
    ]
    return damages[kind]


def other_value(sound: str, key: int, value: object) -> bytes:
    """A record in which a field is missing, new, or has another value; a line of another kind gets it as a text."""
    for parse, write in ((json.loads, json.dumps), (ast.literal_eval, repr)):
        try:
            record = parse(sound)
        except (ValueError, SyntaxError):
            continue
        if not isinstance(record, dict):
            continue
        names = [*record, "related", "unread"]
        name = names[key % len(names)]
        if value is None:
            record.pop(name, None)
        else:
            record[name] = value
        try:
            return write(record).encode("utf-8", "surrogatepass")
        except TypeError:
            continue
    words = sound.split(" ")
    words[key % len(words)] = str(value)
    return " ".join(words).encode("utf-8", "surrogatepass")


#: (which sound line, kind of damage, where, which value)
damages = st.lists(st.tuples(st.integers(0, 24), st.integers(0, 9), st.floats(0, 1), st.integers(0, 999)), max_size=20)
wholes = st.sampled_from([WHOLE] * 24 + [CUT, PLAIN, EMPTY, FLIPPED, NO_LAST_BREAK, NO_LAST_BREAK, WINDOWS, WINDOWS])


@st.composite
def raw_file(draw, sound):
    """The lines of a raw file, sound and damaged ones in any order, and what happened to the file as a whole."""
    lines = [line.encode() for line in sound[: draw(st.sampled_from([len(sound), len(sound), 1, 0]))]]
    for row, kind, where, choice in draw(damages):
        lines += damaged(sound[row % len(sound)], kind, where, choice)
    random.Random(draw(st.integers(0, 9))).shuffle(lines)
    # A damage may hold line breaks of its own.
    return b"\n".join(lines).split(b"\n") if lines else [], draw(wholes)


def gzip_or_rest(data: bytes) -> bytes:
    """The plain content of a gzip file, as far as it is sound; other data as they are."""
    try:
        return zlib.decompressobj(31).decompress(data)
    except zlib.error:
        return data


def write(path: Path, lines: list[bytes], whole: int) -> bool:
    """Write a gzip file, or what it holds if its name is of another kind; return whether it can be read to the end."""
    data = (b"\r\n" if whole == WINDOWS else b"\n").join(lines) + (b"" if whole == NO_LAST_BREAK else b"\n")
    packed = gzip.compress(data if lines else b"", mtime=0)
    middle = len(packed) // 2
    flipped = packed[:middle] + bytes([packed[middle] ^ 0xFF]) + packed[middle + 1 :]
    packed = {CUT: packed[:-9], PLAIN: data, EMPTY: b"", FLIPPED: flipped}.get(whole, packed)
    path.write_bytes(packed if path.suffix == ".gz" else gzip_or_rest(packed))
    try:
        return gzip.decompress(packed) != b""
    except (OSError, EOFError, zlib.error):
        return False


def not_blank(lines: list[bytes]) -> int:
    """Count the lines that are not blank; a byte order mark belongs to no line."""
    return sum(1 for line in b"\n".join(lines).removeprefix(codecs.BOM_UTF8).split(b"\n") if line.strip())


def check_refusal(error: UserError, paths: list[Path]) -> None:
    message = str(error)
    assert len(message.splitlines()) == 1, message
    assert any(message.startswith(f"{path}") for path in paths), message


def counts_or_refusal(canonicalize, paths: list[Path], output: Path) -> dict | None:
    """Make canonical tables; check them and return the counts, or check the refusal."""
    try:
        canonicalize()
    except UserError as error:
        return check_refusal(error, paths)
    check_canonical(output)
    return counts(output)


@contextlib.contextmanager
def working_in(folder):
    """Run in the folder, where nothing may have been executed."""
    with contextlib.chdir(folder):
        yield
        assert not Path(CANARY).exists()


quick = {"suppress_health_check": [HealthCheck.data_too_large, HealthCheck.too_slow]}

READERS = {
    REVIEWS: lambda path: accounted(*reviews_of(path)),
    METADATA: lambda path: items_accounted(read_metadata(path, set(ITEMS))),
    QUERIES: lambda path: accounted(*read_query_lines(path)),
    TRAIN: lambda path: accounted(*read_qrels(path, "qrels_train")),
    REVIEWS_2023: lambda path: accounted(*reviews_of(path, RELEASES[2023].review_keys)),
    METADATA_2023: lambda path: items_accounted(read_metadata(path, set(ITEMS), RELEASES[2023].product_keys)),
}


def accounted(table, tally):
    assert tally.broken == sum(tally.reasons.values())
    return len(table), tally


def items_accounted(metadata):
    assert set(metadata.items["item"]) <= set(ITEMS)
    assert len(metadata.items) <= metadata.cleaned - metadata.duplicates
    return metadata.cleaned, metadata.tally


def countable(name, lines, whole):
    """Count the lines that have an effect: blank ones only among queries, whose ids are line numbers."""
    return len(lines) - (whole == NO_LAST_BREAK and not lines[-1]) if name == QUERIES else not_blank(lines)


@pytest.mark.parametrize("name", READERS)
def test_every_line_is_read_or_counted(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / name

    @settings(max_examples=150, **quick)
    @given(raw_file(READ_LINES[name]))
    def check(file):
        lines, whole = file
        readable = write(path, lines, whole)
        try:
            sound, tally = READERS[name](path)
        except UserError as error:
            check_refusal(error, [path])
            expected = not readable or "lines are broken" in str(error)
        else:
            expected = readable and sound + tally.broken == tally.lines == countable(name, lines, whole)
            expected &= 2 * tally.broken <= tally.lines
        assert expected

    with working_in(folder):
        check()


def odd_lines(sound: str, fields: int) -> list[list[bytes]]:
    """Every odd line, and the sound line with every odd value in each of its fields and in a new one."""
    return [
        *([line.encode()] for line in ODD_LINES),
        *(other_value(sound, key, value).split(b"\n") for key in range(fields + 1) for value in ODD_VALUES),
    ]


@pytest.mark.parametrize("name", READERS)
def test_each_odd_line_between_sound_ones_is_read_or_counted(tmp_path, name):
    path = tmp_path / name
    sound = [line.encode() for line in READ_LINES[name]]
    with working_in(tmp_path):
        for odd in odd_lines(READ_LINES[name][-1], 7):
            lines = [*sound, *odd, *sound]
            write(path, lines, WHOLE)
            read, tally = READERS[name](path)
            assert read + tally.broken == tally.lines == countable(name, lines, WHOLE), odd
            assert read >= 2 * len(sound), odd


@pytest.mark.slow
def test_amazon_folder_becomes_sound_tables_or_is_refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    raw, output = folder / "raw", folder / "out"
    raw.mkdir()

    @settings(max_examples=100, **quick)
    @given(
        st.fixed_dictionaries({name: raw_file(lines) for name, lines in SOUND.items()}),
        st.booleans(),
        st.integers(0, 24),
    )
    def check(files, searched, missing):
        for place, name in enumerate(SOUND):
            (raw / name).unlink(missing_ok=True)
            if place != missing and (searched or name in (REVIEWS, METADATA)):
                write(raw / name, *files[name])
        toys = CanonicalSettings(category="Toys")
        record = counts_or_refusal(lambda: canonicalize(raw, toys, output, 1), [raw], output)
        if record is not None:
            assert not schema.ITEMS.read(output / "items.parquet")["text"].str.contains('"').any()
            check_amazon_counts(record, files, searched)

    with working_in(folder):
        check()


def check_amazon_counts(record: dict, files: dict, searched: bool) -> None:
    """Check that every line, review and pair is used or counted."""
    assert record["reviews_read"] + record["reviews_broken_lines"] == not_blank(files[REVIEWS][0])
    assert record["metadata_cleaned"] + record["metadata_broken_lines"] == not_blank(files[METADATA][0])
    assert record["reviews_read"] == sum(
        record[name] for name in ("duplicate_reviews", "reviews_on_dropped_items", "recommendation_interactions")
    )
    if not searched:
        return
    for name in ("qrels_train", "qrels_test"):
        lines = not_blank(files[TRAIN if name == "qrels_train" else TEST][0])
        assert record[name] + record[f"{name}_broken_lines"] == lines
    assert record["search_pairs_one_query"] == sum(
        record[name] for name in ("search_pairs_on_dropped_items", "search_pairs_without_review", "search_interactions")
    )


LOG_ITEMS = [{"item_id": item, "title": f"Kite {item}", "categories": "Toys > Kites"} for item in ITEMS]
LOG_EVENTS = [
    {"user_id": user, "time": str(1_300_000_000 + place), "kind": kind, "item_id": item, "query": query, "session_id": "s"}
    for place, item in enumerate(ITEMS)
    for user in USERS[:3]
    for kind, query in (("recommendation", ""), ("search", "red kite"))
]  # fmt: skip


def csv_lines(rows: list[dict]) -> list[str]:
    def cell(text):
        return '"' + text.replace('"', '""') + '"' if '"' in text else text

    return [",".join(rows[0]), *(",".join(map(cell, row.values())) for row in rows)]


def json_lines(rows: list[dict]) -> list[str]:
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def event_log_counts(paths: list[Path], output: Path) -> dict | None:
    log_settings = EventLogSettings(min_interactions=0)
    return counts_or_refusal(lambda: canonicalize_events(*paths, log_settings, output, 1), paths, output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "lines_of"), [(".csv.gz", csv_lines), (".jsonl.gz", json_lines), (".csv", csv_lines)]
)
def test_event_log_becomes_sound_tables_or_is_refused(tmp_path_factory, suffix, lines_of):
    folder = tmp_path_factory.mktemp("fuzz")
    sound = {folder / f"items{suffix}": lines_of(LOG_ITEMS), folder / f"events{suffix}": lines_of(LOG_EVENTS)}

    @settings(max_examples=75, **quick)
    @given(*map(raw_file, sound.values()), st.booleans())
    def check(items, events, header_first):
        for (path, sound_lines), (lines, whole) in zip(sound.items(), (items, events), strict=True):
            # Shuffled lines rarely begin with the header.
            write(path, [sound_lines[0].encode(), *lines] if header_first else lines, whole)
        record = event_log_counts(list(sound), folder / "out")
        if record is not None:
            skipped = [*EVENT_FAULTS, "unknown_item", "item_without_text", "duplicate"]
            used = record["recommendation_interactions"] + record["search_interactions"]
            assert record["events_read"] == used + sum(record[f"events_{reason}"] for reason in skipped)

    with working_in(folder):
        check()


@pytest.mark.slow
@pytest.mark.parametrize(("place", "rows"), [(0, LOG_ITEMS), (1, LOG_EVENTS)])
def test_each_odd_record_of_an_event_log_is_used_or_counted_or_the_file_refused(tmp_path, place, rows):
    paths = [tmp_path / "items.jsonl", tmp_path / "events.jsonl"]
    for path, sound in zip(paths, (LOG_ITEMS, LOG_EVENTS), strict=True):
        path.write_text("\n".join(json_lines(sound)))
    sound = [line.encode() for line in json_lines(rows)]
    with working_in(tmp_path):
        for odd in odd_lines(sound[-1].decode(), len(rows[0])):
            paths[place].write_bytes(b"\n".join([*sound, *odd, *sound]))
            event_log_counts(paths, tmp_path / "out")


LEVELS = [f"{level}_level_category_{part}" for level in ("first", "second", "third", "fourth") for part in ("id", "name_en")]  # fmt: skip
KUAISAR = {
    "rec_inter.csv": ["user_id,item_id,timestamp,click", *(f"{user},{item},1684742000{user}{item}0.0,1" for user in (1, 2, 3) for item in (7, 8, 9))],
    "src_inter.csv": ["user_id,search_session_id,search_session_timestamp,keyword,item_id,click_cnt",
                      *(f'{user},{user},16847420{user}{item}000,"[20, {item}]",{item},1' for user in (1, 2, 3) for item in (7, 8, 9))],
    "item_features.csv": [f"item_id,caption,{','.join(LEVELS)}", *(f'{item},"[1, 2]",9,Funny,0,empty,5,Tea,0,empty' for item in (7, 8, 9))],
}  # fmt: skip


@pytest.mark.slow
def test_kuaisar_files_become_sound_tables_or_are_refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    raw, output = folder / "raw", folder / "out"
    raw.mkdir()
    every_item = KuaiSARSettings(min_interactions=0)

    @settings(max_examples=75, **quick)
    @given(st.fixed_dictionaries({name: raw_file(lines[1:]) for name, lines in KUAISAR.items()}), st.integers(0, 9))
    def check(files, headless):
        for place, (name, (lines, whole)) in enumerate(files.items()):
            write(raw / name, lines if place == headless else [KUAISAR[name][0].encode(), *lines], whole)
        record = counts_or_refusal(lambda: canonicalize_kuaisar(raw, every_item, output, 1), [raw], output)
        for kind in ("recommendation", "search") if record else ():
            read = record.pop(f"{kind}_clicks_read")
            skipped = sum(value for name, value in record.items() if name.startswith(f"{kind}_clicks_"))
            assert read == record[f"{kind}_interactions"] + skipped

    with working_in(folder):
        check()

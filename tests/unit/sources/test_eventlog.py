"""A log of one's own becomes canonical tables: known answers, every kind of bad input, and what must not matter."""

import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.config.datasets import EventLogSettings
from gensar_core.config.experiments import load_experiments
from gensar_core.errors import UserError
from gensar_core.sources.eventlog import canonicalize_events
from gensar_core.sources.shared import raw_tables as tabular
from gensar_core.sources.shared.category_paths import category_paths
from gensar_core.sources.shared.k_core import interaction_core
from gensar_core.sources.shared.normalization import normalized, unix_seconds

ROOT = Path(__file__).parents[3]
ALL = EventLogSettings(min_interactions=0)
NAMES = ("users", "items", "queries", "events")

ITEMS = [
    {"item_id": "b", "title": " Green\ttea ", "description": "Loose leaf,\n100 g", "brand": "Kaki", "categories": "Food > Tea"},
    {"item_id": "c", "title": "中国　茶", "description": None, "brand": None, "categories": None},
    {"item_id": "10", "title": "Mug", "description": None, "brand": None, "categories": '["Home", "Kitchen"]'},
    {"item_id": "9", "title": "Cup", "description": None, "brand": None, "categories": None},
]  # fmt: skip


def event(user, time, kind, item, query=None, session=None):
    kind = {"r": "recommendation", "s": "search"}.get(kind, kind)
    return {"user_id": user, "time": time, "kind": kind, "item_id": item, "query": query, "session_id": session}


EVENTS = [
    event("u2", "300", "s", "c", "绿　茶", "x"),
    event("u2", "200", "s", "10", "mug"),
    event("u2", "300", "r", "b"),
    event("u2", "300", "s", "b", "绿 茶", "x"),
    event("u1", "200", "s", "10", "mug"),
    event("u1", "100", "r", "9"),
]


def write(rows, path):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    frame = pl.DataFrame([[row.get(name) for name in columns] for row in rows], schema=columns, orient="row")
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    match plain.suffix:
        case ".csv":
            data = frame.write_csv().encode()
        case ".jsonl":
            data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        case _:
            frame.write_parquet(path)
            return path
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def run(folder, items=ITEMS, events=EVENTS, settings=ALL, suffix=".csv", seed=1):
    folder.mkdir(exist_ok=True)
    items_file = items if isinstance(items, Path) else write(items, folder / f"items{suffix}")
    events_file = events if isinstance(events, Path) else write(events, folder / f"events{suffix}")
    canonicalize_events(items_file, events_file, settings, folder / "out", seed)
    return folder / "out"


def tables(out):
    return {name: schema.TABLES[name].read(out / f"{name}.parquet") for name in NAMES}


def counts(out):
    return json.loads((out / "stage.json").read_text())["counts"]


def test_a_small_log_gives_the_tables_written_here(tmp_path):
    out = run(tmp_path)
    found = tables(out)
    assert found["users"].rows() == [(0, "u1"), (1, "u2")]
    assert found["items"].rows() == [
        (0, "10", "Mug", "", "", [["Home", "Kitchen"]], "Mug"),
        (1, "9", "Cup", "", "", [], "Cup"),
        (2, "b", "Green tea", "Loose leaf, 100 g", "Kaki", [["Food", "Tea"]], "Green tea Loose leaf, 100 g"),
        (3, "c", "中国 茶", "", "", [], "中国 茶"),
    ]
    assert found["queries"].rows() == [(0, "mug"), (1, "绿 茶")]
    # u2's session "x" has two clicks at one time, in file order and after the recommendation click of that time.
    assert found["events"].rows() == [
        (0, 0, 100, "rec", 1, None, None),
        (1, 0, 200, "search", 0, 0, 0),
        (2, 1, 200, "search", 0, 0, 1),
        (3, 1, 300, "rec", 2, None, None),
        (4, 1, 300, "search", 3, 1, 2),
        (5, 1, 300, "search", 2, 1, 2),
    ]
    assert sorted(path.name for path in out.iterdir()) == sorted([*(f"{name}.parquet" for name in NAMES), "stage.json"])
    record = counts(out)
    assert record["skipped_rows"] == {}
    expected = {"users": 2, "items": 4, "queries": 2, "events_read": 6, "items_read": 4, "search_sessions": 3}
    assert {name: record[name] for name in expected} == expected
    assert (record["recommendation_interactions"], record["search_interactions"]) == (2, 4)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv.gz", ".jsonl.gz"])
def test_every_format_gives_the_tables_of_the_csv(tmp_path, suffix):
    expected = tables(run(tmp_path / "csv"))
    for name, found in tables(run(tmp_path / "other", suffix=suffix)).items():
        assert found.equals(expected[name]), name


def test_typed_columns_give_the_tables_of_their_text(tmp_path):
    items = [{"item_id": str(number), "title": f"t{number}", "categories": '["A", "B"]'} for number in (7, 10)]
    events = [event("3", "86400", "r", "7"), event("3", "90000", "s", "10", "q", "5")]
    expected = tables(run(tmp_path / "text", items, events))

    typed_items = [{"item_id": number, "title": f"t{number}", "categories": ["A", "B"]} for number in (7, 10)]
    typed_events = [event(3, 86400, "r", 7), event(3, 90000, "s", 10, "q", 5)]
    assert_same(tables(run(tmp_path / "json", typed_items, typed_events, suffix=".jsonl")), expected)

    frame = pl.DataFrame(typed_events).with_columns(
        pl.from_epoch("time").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Shanghai"),
        pl.col("item_id", "session_id").cast(pl.Float64),
    )
    frame.write_parquet(tmp_path / "events.parquet")
    pl.DataFrame(typed_items).write_parquet(tmp_path / "items.parquet")
    assert_same(tables(run(tmp_path / "typed", tmp_path / "items.parquet", tmp_path / "events.parquet")), expected)


def assert_same(found, expected):
    for name in NAMES:
        assert found[name].equals(expected[name]), name


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1684742000", 1684742000), (" 1684742000.9 ", 1684742000), ("1.684742e9", 1684742000),
        ("2023-05-22T07:53:20Z", 1684742000), ("2023-05-22 07:53:20", 1684742000), ("2023-05-22T07:53:20.999", 1684742000),
        ("2023-05-22T15:53:20+08:00", 1684742000), ("2023-05-22T15:53:20 +0800", 1684742000),
        ("2023-05-22T05:23:20-02:30", 1684742000), ("2023-05-22T07:53", 1684741980), ("2023-05-22", 1684713600),
        ("2000-02-29", 951782400), ("1970-01-01T00:00:01Z", 1), ("4102444799", 4102444799),
        ("1970-01-01", None), ("0", None), ("-5", None), ("4102444800", None), ("1684742000000", None),
        ("2023-13-22", None), ("2023-02-29", None), ("2023-05-22T25:00", None), ("22.05.2023", None), ("yesterday", None),
        ("", None), ("nan", None), ("inf", None), (None, None),
    ],
)  # fmt: skip
def test_times(text, seconds):
    found = pl.DataFrame({"time": [text]}, schema={"time": pl.String}).select(unix_seconds(pl.col("time")))
    assert found.rows() == [(seconds,)]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a \t\r\n b  ", "a b"), ("全　角\u00a0空", "全 角 空"), ("a\x00 \x07 b\x7f", "a b"), ("e\u0301te\u0301", "été"),
        ("Füße  RUNNING accessories", "Füße RUNNING accessories"), ("e\x07\u0301", "é"), ("\u2003", ""), (None, ""),
        ("👩\u200d💻 \u0645\u06cc\u200c\u062e", "👩\u200d💻 \u0645\u06cc\u200c\u062e"),
    ],
)  # fmt: skip
def test_text_is_normalized_in_any_language(raw, clean):
    frame = pl.DataFrame({"text": [raw]}, schema={"text": pl.String})
    once = frame.select(normalized(pl.col("text")))
    assert once.rows() == [(clean,)]


@given(st.lists(st.one_of(st.none(), st.text()), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_normalizing_twice_changes_nothing_and_leaves_no_white_space_but_single_blanks(texts):
    once = pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(normalized(pl.col("text")))
    assert once.select(normalized(pl.col("text"))).equals(once)
    for text in once["text"]:
        assert text == " ".join(text.split(" "))
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u3000\xa0]|^ | $|  ", text)


@pytest.mark.parametrize(
    ("raw", "paths"),
    [
        ("Root > Child>Leaf", [["Root", "Child", "Leaf"]]), ("Root", [["Root"]]), ("", []), (" > ", []),
        ('["Root", "Child"]', [["Root", "Child"]]), ('[["A", "B"], ["C"]]', [["A", "B"], ["C"]]),
        ('["A > B", "C"]', [["A", "B"], ["C"]]), ("[]", []), ("[[]]", []), ('["A", null, 3]', [["A", "3"]]),
        ("[Sale] > Shoes", [["[Sale]", "Shoes"]]), ("null", [["null"]]), ("家 > 茶", [["家", "茶"]]),
        ("[" * 9000, [["[" * 9000]]), (f"[{'9' * 9000}]", [[f"[{'9' * 9000}]"]]),
    ],
)  # fmt: skip
def test_category_paths(raw, paths):
    assert category_paths(raw) == paths


def test_lists_of_paths_are_read_from_parquet_and_json_lines_alike(tmp_path):
    items = [
        {"item_id": "b", "title": "t", "categories": [["A", "B > C"], ["D"]]},
        {"item_id": "c", "title": "t", "categories": []},
        {"item_id": "10", "title": "t", "categories": None},
        {"item_id": "9", "title": "t", "categories": [["家"]]},
    ]
    found = [tables(run(tmp_path / s[1:], items, suffix=s))["items"]["categories"] for s in (".parquet", ".jsonl")]
    for column in found:
        assert column.to_list() == [[], [["家"]], [["A", "B > C"], ["D"]], []]


# Rows that cannot be used.


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (event("u1", "noon", "r", "9"), "events_bad_time"), (event("u1", None, "r", "9"), "events_bad_time"),
        (event("u1", "1684742000000", "r", "9"), "events_bad_time"), (event("u1", "-3", "r", "9"), "events_bad_time"),
        (event("", "5", "r", "9"), "events_empty_user_id"), (event(None, "5", "r", "9"), "events_empty_user_id"),
        (event("u1", "5", "r", " "), "events_empty_item_id"), (event("u1", "5", "r", "11"), "events_unknown_item"),
        (event("u1", "5", "s", "9"), "events_search_without_query"),
        (event("u1", "5", "s", "9", " \x07\t"), "events_search_without_query"),
        (event("u1", "100", "r", "9", "a query that means nothing here"), "events_duplicate"),
        (event("u2", "1970-01-01T00:05:00Z", "s", "b", "绿\n茶", "another session"), "events_duplicate"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_counted_by_its_number_and_skipped(tmp_path, bad, reason):
    expected = tables(run(tmp_path / "clean"))
    out = run(tmp_path / "dirty", events=[*EVENTS, bad])
    record = counts(out)
    assert_same(tables(out), expected)
    assert record[reason] == 1
    assert record["skipped_rows"] == {reason: [7]}
    assert record["events_read"] == 7


def test_only_the_first_five_row_numbers_are_kept_and_each_row_counts_once(tmp_path):
    bad = [event("", "never", "view", "", None)] * 7
    record = counts(run(tmp_path, events=[*bad, *EVENTS, *EVENTS]))
    assert record["events_empty_user_id"] == 7
    assert record["events_duplicate"] == 6
    assert record["skipped_rows"] == {
        "events_empty_user_id": [1, 2, 3, 4, 5],
        "events_duplicate": [14, 15, 16, 17, 18],
    }
    assert record["events_bad_time"] == record["events_empty_item_id"] == 0


# Kinds.


def test_kinds_are_read_in_any_case_and_with_blanks_around_them(tmp_path):
    written = {"recommendation": " Recommendation", "search": "SEARCH "}
    events = [row | {"kind": written[row["kind"]]} for row in EVENTS]
    assert_same(tables(run(tmp_path / "other", events=events)), tables(run(tmp_path / "plain")))


def test_unknown_kinds_are_one_error_that_counts_them_and_names_the_known_ones(tmp_path):
    kinds = ["rec", "rec", None, "view", "rec", "a", "b", "c", "x" * 99]
    events = [*EVENTS, *(event("u1", str(place), kind, "9") for place, kind in enumerate(kinds, 1))]
    with pytest.raises(UserError) as caught:
        run(tmp_path, events=events)
    assert str(caught.value) == (
        f"{tmp_path / 'events.csv'}: 9 rows have an unknown kind ('rec': 3, empty: 1, 'a': 1, 'b': 1, 'c': 1, 2 others; "
        "row 7 is the first); write recommendation or search"
    )
    with pytest.raises(UserError, match=r"\('x{30}': 1; row 1 is"):
        run(tmp_path / "long", events=[event("u1", "1", "x" * 99, "9"), *EVENTS])


def warnings(out):
    return json.loads((out / "stage.json").read_text())["warnings"]


def recent(rows):
    return [row | {"time": str(1_700_000_000 + int(row["time"]))} for row in rows]


def test_a_sound_log_warns_of_nothing(tmp_path):
    assert warnings(run(tmp_path, events=recent(EVENTS))) == []


def test_a_kind_without_events_is_a_warning(tmp_path):
    searches = [row for row in EVENTS if row["kind"] == "search"]
    clicks = [row for row in EVENTS if row["kind"] != "search"]
    assert warnings(run(tmp_path / "log", events=recent(clicks))) == [
        f"{tmp_path / 'log' / 'events.csv'}: holds no search events; nothing can be trained or measured on them"
    ]
    lost = [*searches, event("u1", "100", "r", "no such item")]
    assert warnings(run(tmp_path / "lost", events=recent(lost))) == [
        f"{tmp_path / 'lost' / 'events.csv'}: 1 of 5 rows were skipped (unknown item: 1)",
        f"{tmp_path / 'lost' / 'events.csv'}: of 1 recommendation events none is left; nothing can be trained or "
        "measured on them",
    ]


def test_more_than_a_tenth_of_rows_skipped_is_a_warning(tmp_path):
    good = [event("u1", str(time), "r", "9") for time in range(1, 10)]
    bad = event("u1", "noon", "r", "9")
    assert len(warnings(run(tmp_path / "tenth", events=[*recent(good), bad]))) == 1  # of searches, which lack
    assert warnings(run(tmp_path / "more", events=[*recent(good), bad, bad]))[0] == (
        f"{tmp_path / 'more' / 'events.csv'}: 2 of 11 rows were skipped (bad time: 2)"
    )


def test_times_before_2000_are_a_warning_because_a_log_may_count_from_its_own_beginning(tmp_path):
    # 20240301 as seconds is a day in August 1970.
    events = [row | {"time": "20240301"} for row in EVENTS[:4]] + recent(EVENTS[4:])
    assert warnings(run(tmp_path, events=events)) == [
        f"{tmp_path / 'events.csv'}: column 'time': most times lie before the year 2000 (the median is 1970-08-23); if "
        "they should not, give unix seconds or ISO date-times (2024-03-01, not 20240301)"
    ]
    half = [row | {"time": "20240301"} for row in EVENTS[:3]] + recent(EVENTS[3:])
    assert warnings(run(tmp_path / "half", events=half)) == []


# Ids.


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_whole_numbers_written_as_floats_are_one_id_within_a_file_and_between_files(tmp_path, suffix):
    def log(user, item, session):
        return [
            event(user(7), "1", "r", item(10)), event(user(7), "2", "s", item(9), "q", session(3)),
            event(7, "2", "s", 10, "q", 3), event(-8, "5", "r", 9),
        ]  # fmt: skip

    def items(form):
        return [{"item_id": form(10), "title": "a"}, {"item_id": 9, "title": "b"}, {"item_id": 10, "title": "c"}]

    expected = tables(run(tmp_path / "whole", items(int), log(int, int, int), suffix=suffix))
    assert expected["users"]["raw_id"].to_list() == ["-8", "7"]
    for name, item_form, event_form in (("events", int, float), ("items", float, int), ("both", float, float)):
        out = run(tmp_path / name, items(item_form), log(event_form, event_form, event_form), suffix=suffix)
        assert_same(tables(out), expected)
        assert counts(out)["items_duplicate"] == 1


def test_ids_that_are_not_all_whole_numbers_stay_as_they_are(tmp_path):
    events = [event("1.0", "1", "r", "9"), event("2.5", "2", "r", "9"), event("x", "3", "r", "b")]
    assert tables(run(tmp_path, events=events))["users"]["raw_id"].to_list() == ["1.0", "2.5", "x"]


def test_a_float_and_its_whole_number_among_other_ids_are_one_error(tmp_path):
    events = [event("1", "1", "r", "9"), event("x", "3", "r", "b"), event("1.0", "2", "r", "9")]
    with pytest.raises(UserError) as caught:
        run(tmp_path / "users", events=events)
    assert str(caught.value) == (
        f"{tmp_path / 'users' / 'events.csv'}: row 3: the user id '1.0' may be '1', which occurs as well; write every id "
        "in one form"
    )
    with pytest.raises(UserError, match=r"items\.csv: row 5: the item id '9\.0' may be '9'"):
        run(tmp_path / "items", [*ITEMS, {"item_id": "9.0", "title": "t"}])
    with pytest.raises(UserError, match=r"events\.csv: row 7: the item id '9\.0' may be '9'"):
        run(tmp_path / "events", events=[*EVENTS, event("u1", "5", "r", "9.0")])


def test_of_equal_clicks_the_first_stays_also_when_others_stand_between(tmp_path):
    events = [
        event("u", "5", "r", "9"),
        event("u", "5", "r", "b"),
        event("u", "5", "r", "9"),
        event("u", "6", "r", "9"),
    ]
    out = run(tmp_path, events=events)
    assert tables(out)["events"].select("time", "item_id").rows() == [(5, 0), (5, 1), (6, 0)]
    assert counts(out)["skipped_rows"] == {"events_duplicate": [3]}


def test_clicks_that_differ_in_item_query_or_kind_alone_are_no_duplicates(tmp_path):
    events = [
        event("u", "5", "s", "9", "cup"), event("u", "5", "s", "9", "mug"), event("u", "5", "s", "10", "cup"),
        event("u", "5", "r", "9"), event("v", "5", "r", "9"),
    ]  # fmt: skip
    out = run(tmp_path, events=events)
    found = tables(out)["events"]
    assert found.select("user_id", "task", "item_id", "query_id").rows() == [
        (0, "rec", 1, None), (0, "search", 1, 0), (0, "search", 1, 1), (0, "search", 0, 0), (1, "rec", 1, None),
    ]  # fmt: skip
    assert counts(out)["skipped_rows"] == {}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_are_counted_from_one_in_every_format(tmp_path, suffix):
    bad = [event("u1", "noon", "r", "9")]
    items = [{"item_id": None, "title": "nameless"}, *ITEMS]
    record = counts(run(tmp_path, items, bad + EVENTS + bad, suffix=suffix))
    assert record["skipped_rows"] == {"items_empty_item_id": [1], "events_bad_time": [1, 8]}


def test_of_items_with_one_id_the_first_stays_and_items_without_id_or_text_are_dropped(tmp_path):
    items = [
        *ITEMS,
        {"item_id": " b ", "title": "again"},
        {"item_id": "", "title": "nameless"},
        {"item_id": "t", "title": "\x00 "},
    ]
    out = run(tmp_path, items, [*EVENTS, event("u1", "5", "r", "t")])
    record = counts(out)
    assert_same(tables(out), tables(run(tmp_path / "clean")))
    assert (record["items_duplicate"], record["items_empty_item_id"], record["items_without_text"]) == (1, 1, 1)
    assert record["events_item_without_text"] == 1
    assert record["skipped_rows"] == {
        "items_duplicate": [5],
        "items_empty_item_id": [6],
        "events_item_without_text": [7],
    }


def test_items_without_text_stay_when_asked_for(tmp_path):
    chosen = EventLogSettings(min_interactions=0, keep_textless_items=True)
    found = tables(run(tmp_path, [*ITEMS, {"item_id": "t"}], [*EVENTS, event("u1", "5", "r", "t")], chosen))
    assert found["items"].row(4) == (4, "t", "", "", "", [], "")
    assert found["events"].row(0) == (0, 0, 5, "rec", 4, None, None)


# Files that cannot be used.

GOOD_ITEMS = b"item_id,title\n1,a\n"
HEADER = b"user_id,time,kind,item_id,query\n"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("log.csv", None, "no such file"), ("log.xlsx", b"x", "unknown kind of file; its name must end in one of .parquet"),
        ("log.csv", b"", "the file is empty"), ("log.csv", HEADER, "holds no rows"),
        ("log.csv", b"user_id,time,kind,query\nu,5,recommendation,\n", "lacks the column 'item_id'; rename or add it (there: user_id, time"),
        ("log.csv", b"user_id;time;kind;item_id;query\nu;5;search;1;q\n", "lacks the column 'user_id'"),
        ("log.csv", HEADER + b"u,5,search,1,gr\xfcn\n", "line 2: not UTF-8; save the file in the encoding UTF-8"),
        ("log.csv", (HEADER + b"u,5,search,1,q\n").decode().encode("utf-16"), "line 1: not UTF-8"),
        ("log.csv", HEADER + b"u,5,search,1,q\nu,6,search,1,tea, green\n", "line 3: 6 fields where the header has 5"),
        ("log.csv", HEADER + b'u,5,search,1,q\nu,6,search,1,"tea\nu,7,search,1,q\n', "line 3: the double quote that opens a text here is never closed; put a"),
        ("log.csv", HEADER + b'u,6,search,1,"tea\nu,7,search,1,"mug"\n', "line 2: a text goes on after its closing double quote in line 3; put a"),
        ("log.csv", HEADER + b'u,6,search,1,"two\n"lines"\nu,7,search,1,"x"y"\n', "line 2: a text goes on after its closing double quote in line 3; put a"),
        ("log.csv", HEADER + b'u,5,search,1,q\nu,6,search,1,5" pipe\nu,6,search,1,6" pipe\n', "line 3: a single double quote stands inside a text; put a"),
        ("log.csv", b"user_id,time,kind,item_id,query,item_id\n1,5,search,1,q,7\n", "2 columns are named 'item_id'; rename or remove all but one"),
        ("log.csv", b'\xef\xbb\xbf"user_id",time,kind,item_id,query,user_id\n1,5,search,1,q,7\n', "2 columns are named 'user_id'; rename"),
        ("log.jsonl", b'{"user_id": 1}\n{"user_id": 1, "time": 5, "time": 6}\n', "line 2: the key 'time' stands there twice; write it once"),
        ("log.csv.gz", gzip.compress(HEADER + b"u,5,search,1,q\n" * 99, mtime=0)[:-9], "gzip file is cut off or damaged"),
        ("log.jsonl", b"", "the file is empty"), ("log.jsonl", b"\n \n", "holds no records"),
        ("log.jsonl", b'{"user_id": 1, "time": 5, "kind": "search", "query": "q"}\n', "lacks the column 'item_id'"),
        ("log.jsonl", b'{"user_id": 1}\n{"user_id":\n', "line 2: not a JSON object (Expecting value)"),
        ("log.jsonl", b'{"user_id": 1}\n' + b"[" * 9000 + b"\n", "line 2: not a JSON object (nested too deep)"),
        ("log.jsonl", b'{"user_id": 1}\n{"user_id": ' + b"9" * 9000 + b"}\n", "line 2: not a JSON object (a number is too long)"),
        ("log.jsonl", b'{"user_id": 1}\n[1]\n', "line 2: not a JSON object; write one object a line"),
        ("log.jsonl", b'{"user_id": 1}\n{"user_id": "\xff"}\n', "line 2: not UTF-8"),
        ("log.jsonl", b'\xef\xbb\xbf{"user_id": 1}\n', "line 1: begins with a byte order mark; save the file as UTF-8 without one"),
        ("log.jsonl.gz", gzip.compress(b'{"user_id": 1}\n' * 99, mtime=0)[:-9], "gzip file is cut off or damaged"),
        ("log.parquet", b"PAR1 and nothing else", "not a readable Parquet file"),
        ("log.csv", HEADER + b"u,5,search,1,q\nu,1684742000000,search,1,q\nu,1684742000001,search,1,q\n",
         "2 of 3 rows cannot be used, most for bad time (row 2 is the first); give the time in unix seconds (not milliseconds)"),
        ("log.csv", HEADER + b"u,5,search,2,q\n", "no event is left (events unknown item: 1)"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_line_with_file_place_and_cure(tmp_path, name, data, message):
    items, events = tmp_path / "items.csv", tmp_path / name
    items.write_bytes(GOOD_ITEMS)
    if data is not None:
        events.write_bytes(data)
    with pytest.raises(UserError) as caught:
        canonicalize_events(items, events, ALL, tmp_path / "out", 1)
    assert str(caught.value).startswith(f"{events}: ")
    assert message in str(caught.value)
    out = tmp_path / "out"
    assert not out.exists() or not list(out.iterdir())


def test_a_broken_line_far_down_a_json_lines_file_is_found(tmp_path):
    good = json.dumps(event("u1", 5, "r", "9")) + "\n"
    (tmp_path / "log.jsonl").write_text(good * 2500 + '{"user_id" 3}\n' + good)
    with pytest.raises(UserError, match=r"log\.jsonl: line 2501: not a JSON object"):
        run(tmp_path, events=tmp_path / "log.jsonl")


def test_a_key_of_json_lines_may_appear_late(tmp_path):
    clicks = [event("u1", str(time), "r", "9") for time in range(1, 1500)]
    for row in clicks:
        del row["query"], row["session_id"]
    clicks[3]["device"] = 'says "query" here'
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in [*clicks, event("u1", "2000", "s", "9", "tea")]))
    assert tables(run(tmp_path, events=log))["queries"]["text"].to_list() == ["tea"]
    log.write_text("".join(json.dumps(row) + "\n" for row in clicks))
    with pytest.raises(UserError, match="lacks the column 'query'"):
        run(tmp_path, events=log)


@pytest.mark.parametrize("table", ["items", "events"])
@pytest.mark.parametrize(
    ("suffix", "quoted"),
    [(".csv", False), (".csv.gz", False), (".jsonl", False), (".jsonl.gz", False), (".csv", True), (".csv.gz", True)],
)
def test_a_row_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, table, suffix, quoted):
    monkeypatch.setattr("gensar_core.sources.shared.lines.LONGEST_LINE", 1 << 16)
    monkeypatch.setattr(tabular, "_CHUNK_BYTES", 1 << 12)
    given = {"items": write(ITEMS, tmp_path / f"i{suffix}"), "events": write(EVENTS, tmp_path / f"e{suffix}")}
    path = given[table]
    packed = suffix.endswith(".gz")
    sound = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    bomb = sound + (b'"' + b"x\n" * (1 << 23) if quoted else b"\0" * (1 << 24))
    path.write_bytes(gzip.compress(bomb, 1, mtime=0) if packed else bomb)
    read = 0

    def opened(path, plain=tabular._opened):
        stream = plain(path)
        take = stream.read

        def counted(size=-1):
            nonlocal read
            data = take(size)
            read += len(data)
            return data

        monkeypatch.setattr(stream, "read", counted, raising=False)
        return stream

    monkeypatch.setattr(tabular, "_opened", opened)
    message = "the double quote that opens a text here is never closed" if quoted else "no line break within"
    with pytest.raises(UserError, match=rf"{path.name}: line {sound.count(chr(10).encode()) + 1}: {message}"):
        run(tmp_path, given["items"], given["events"])
    assert 1 << 16 < read < 1 << 18


def test_an_unusable_item_table_is_named(tmp_path):
    for number, (data, message) in enumerate(
        [(b"item_id,title\n", "holds no rows"), (b"item_id\n1\n", "lacks the column 'title'")]
    ):
        path = tmp_path / f"{number}.csv"
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            run(tmp_path, items=path)
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)


def test_a_log_that_the_core_empties_says_so(tmp_path):
    with pytest.raises(UserError, match=r"no event is left.*lower min_interactions"):
        run(tmp_path, settings=EventLogSettings(min_interactions=5))


def test_optional_columns_may_be_missing_and_others_are_ignored(tmp_path):
    items = [{"item_id": row["item_id"], "price": 3, "title": row["title"]} for row in ITEMS]
    events = [{k: v for k, v in row.items() if k != "session_id"} | {"row": 9, "device": "x"} for row in EVENTS]
    found = tables(run(tmp_path, items, events))
    assert found["items"]["description"].to_list() == [""] * 4
    # Without session ids each search click is a session of its own.
    assert found["events"]["session_id"].to_list() == [None, 0, 1, None, 2, 3]


def test_byte_order_mark_and_windows_line_ends_are_no_matter(tmp_path):
    expected = tables(run(tmp_path))
    for name in ("items.csv", "events.csv"):
        file = tmp_path / name
        text = file.read_text()
        # Line breaks inside quoted texts become CR LF as well; both are white space.
        file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert_same(tables(run(tmp_path, tmp_path / "items.csv", tmp_path / "events.csv")), expected)


# Sessions.


def test_a_session_is_one_users_clicks_for_one_query_under_one_id(tmp_path):
    events = [
        event("u", "1", "s", "9", "tea", "x"),
        event("u", "2", "r", "b"),
        event("u", "3", "s", "b", "tea", "x"),
        event("u", "4", "s", "b", "cup", "x"),
        event("u", "5", "s", "c", "tea", "y"),
        event("u", "6", "s", "c", "tea", ""),
        event("u", "7", "s", "c", "tea", ""),
        event("v", "1", "s", "9", "tea", "x"),
    ]
    found = tables(run(tmp_path, events=events))["events"]
    assert found["session_id"].to_list() == [0, None, 0, 1, 2, 3, 4, 5]


# The core.


def plain_core(pairs, minimum):
    alive = set(range(len(pairs)))
    while True:
        users, items = (Counter(pairs[i][side] for i in alive) for side in (0, 1))
        bad = {i for i in alive if users[pairs[i][0]] < minimum or items[pairs[i][1]] < minimum}
        if not bad:
            return alive
        # One at a time, so that this shares nothing with rounds over arrays.
        alive.remove(min(bad))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=50), st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_the_core_equals_that_of_a_plain_loop(pairs, minimum):
    users, items = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    inside, _ = interaction_core(users, items, minimum)
    assert set(np.flatnonzero(inside)) == plain_core(pairs, minimum)


def test_the_core_counts_both_kinds_and_is_repeated_until_stable(tmp_path):
    events = [
        event("u1", "1", "r", "9"), event("u1", "2", "s", "b", "q"),
        event("u2", "1", "r", "9"), event("u2", "2", "r", "b"),
        # v loses "c", which only it clicked, and then has too few clicks itself; so then has item 10.
        event("v", "1", "r", "c"), event("v", "2", "r", "10"), event("u1", "3", "r", "10"),
    ]  # fmt: skip
    out = run(tmp_path, events=events, settings=EventLogSettings(min_interactions=2))
    found = tables(out)
    assert found["users"]["raw_id"].to_list() == ["u1", "u2"]
    assert found["items"]["raw_id"].to_list() == ["9", "b"]
    assert found["events"].select("user_id", "time", "task", "item_id").rows() == [
        (0, 1, "rec", 0), (0, 2, "search", 1), (1, 1, "rec", 0), (1, 2, "rec", 1),
    ]  # fmt: skip
    record = counts(out)
    assert (record["core_rounds"], record["events_outside_core"]) == (3, 3)
    assert (record["users_outside_core"], record["items_outside_core"]) == (1, 2)


# What must not matter, and what must.


def many(n, seed=0):
    draw = random.Random(seed)
    times = draw.sample(range(1, 10**6), n)
    return [
        event(f"u{draw.randrange(20)}", str(time), draw.choice("rs"), draw.choice("bc") if draw.random() < 0.8 else "10", f"q {draw.randrange(9)}", draw.choice(["", "x", "y"]))
        for time in times
    ]  # fmt: skip


def test_row_order_is_no_matter_when_times_are_distinct(tmp_path):
    events = many(300)
    expected = run(tmp_path / "a", events=events, settings=EventLogSettings(min_interactions=3))
    turned = run(
        tmp_path / "b", ITEMS[::-1], random.Random(1).sample(events, 300), EventLogSettings(min_interactions=3)
    )
    assert len(tables(expected)["events"]) > 250
    for name in NAMES:
        assert (expected / f"{name}.parquet").read_bytes() == (turned / f"{name}.parquet").read_bytes()


def test_the_same_run_gives_the_same_bytes(tmp_path):
    first, second = (run(tmp_path / name, events=many(300)) for name in "ab")
    for name in NAMES:
        assert (first / f"{name}.parquet").read_bytes() == (second / f"{name}.parquet").read_bytes()


def test_the_configuration_entry_gives_the_stage_its_settings():
    values = {"datasets": {"shop": {"source": "eventlog", "items": "i.csv", "events": "e.csv", "min_interactions": 2}}}
    dataset = load_experiments(values | {"tables": {"overall": {"rows": []}}}).datasets["shop"]
    assert dataset.part(EventLogSettings) == EventLogSettings(min_interactions=2, keep_textless_items=False)


# The walk-through in the documentation.


def test_the_walk_through_runs_as_written(tmp_path):
    text = (ROOT / "docs" / "own-data.md").read_text()
    files = dict(re.findall(r"cat > (\S+) <<'END'\n(.*?)END\n", text, flags=re.DOTALL))
    assert set(files) == {"shop/items.csv", "shop/events.csv"}
    (tmp_path / "shop").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    entry = yaml.safe_load(re.search(r"```yaml\n(datasets:.*?)```", text, flags=re.DOTALL).group(1))
    dataset = load_experiments(entry | {"tables": {"overall": {"rows": []}}}).datasets["shop"]
    assert {dataset.items, dataset.events} == set(files)
    out = tmp_path / "out"
    canonicalize_events(tmp_path / dataset.items, tmp_path / dataset.events, dataset.part(EventLogSettings), out, 42)
    # The page shows what the record says.
    shown = json.loads(re.search(r"```json\n(.*?)```", text, flags=re.DOTALL).group(1))
    record = counts(out)
    assert {name: record[name] for name in shown} == shown
    assert len(shown) > 5

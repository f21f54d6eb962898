"""The user's own log becomes canonical tables: known answers, bad input, and invariances."""

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

from gensar_core.config.datasets import EventLogSettings
from gensar_core.config.experiments import load_experiments
from gensar_core.errors import UserError
from gensar_core.sources.eventlog import canonicalize_events
from gensar_core.sources.shared import event_blocks, raw_tables
from gensar_core.sources.shared.category_paths import category_paths
from gensar_core.sources.shared.k_core import interaction_core
from gensar_core.sources.shared.normalization import normalized, unix_seconds
from tests.support.sources_files import NAMES, assert_same, counts, table_bytes, tables, warnings

ROOT = Path(__file__).parents[3]
ALL = EventLogSettings(min_interactions=0)

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


def test_small_log_gives_the_tables_written_here(tmp_path):
    out = run(tmp_path)
    canonical = tables(out)
    assert canonical["users"].rows() == [(0, "u1"), (1, "u2")]
    assert canonical["items"].rows() == [
        (0, "10", "Mug", "", "", [["Home", "Kitchen"]], "Mug"),
        (1, "9", "Cup", "", "", [], "Cup"),
        (2, "b", "Green tea", "Loose leaf, 100 g", "Kaki", [["Food", "Tea"]], "Green tea Loose leaf, 100 g"),
        (3, "c", "中国 茶", "", "", [], "中国 茶"),
    ]
    assert canonical["queries"].rows() == [(0, "mug"), (1, "绿 茶")]
    # u2's session "x" has two clicks at one time, in file order and after the recommendation click of that time.
    assert canonical["events"].rows() == [
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


def test_result_is_the_same_for_every_size_of_blocks(tmp_path, monkeypatch):
    draw = random.Random(5)
    # The first user has no search, and many have fewer than five events.
    rows = [event("a", str(time), "r", "b") for time in range(1, 6)] + [
        event(f"u{int(40 * draw.random() ** 2)}", str(draw.randrange(1, 40)), draw.choice("rs"), draw.choice("bc9xx"), "tea", draw.choice("st"))
        for _ in range(600)
    ]  # fmt: skip
    found = []
    for size in (1, 100, event_blocks.BLOCK):
        monkeypatch.setattr(event_blocks, "BLOCK", size)
        out = run(tmp_path, events=rows, settings=EventLogSettings(min_interactions=5), suffix=".parquet")
        found.append(([(out / f"{name}.parquet").read_bytes() for name in NAMES], json.dumps(counts(out))))
    assert found[0] == found[1] == found[2]
    searches = tables(out)["events"].filter(task="search")["session_id"]
    assert searches.unique(maintain_order=True).to_list() == list(range(counts(out)["search_sessions"]))
    assert all(
        counts(out)[name] for name in ("core_rounds", "events_unknown_item", "events_duplicate", "search_sessions")
    )
    first = [place for place, row in enumerate(rows, start=1) if row["item_id"] == "x"][:5]
    assert counts(out)["skipped_rows"]["events_unknown_item"] == first


WRITTEN = {"recommendation": " Recommendation", "search": "SEARCH "}


@pytest.mark.parametrize(
    "changes",
    [
        *({"suffix": suffix} for suffix in (".jsonl", ".parquet", ".csv.gz", ".jsonl.gz")),
        # Kinds in any case and with blanks around them.
        {"events": [row | {"kind": WRITTEN[row["kind"]]} for row in EVENTS]},
    ],
)
def test_a_log_in_another_form_gives_the_tables_of_the_csv(tmp_path, changes):
    assert_same(tables(run(tmp_path / "other", **changes)), tables(run(tmp_path / "csv")))


def test_typed_columns_give_the_tables_of_their_text(tmp_path):
    categories = {7: [["A", "B > C"], ["D"]], 10: [["家"]], 11: [], 12: None}
    items = [{"item_id": str(i), "title": f"t{i}", "categories": json.dumps(c or [])} for i, c in categories.items()]
    events = [event("3", "86400", "r", "7"), event("3", "90000", "s", "10", "q", "5")]
    events += [event("3", "90000", "r", "11"), event("3", "90000", "r", "12")]
    expected = tables(run(tmp_path / "text", items, events))
    assert expected["items"]["categories"].to_list() == [[["家"]], [], [], [["A", "B > C"], ["D"]]]

    typed_items = [{"item_id": i, "title": f"t{i}", "categories": c} for i, c in categories.items()]
    typed_events = [event(3, 86400, "r", 7), event(3, 90000, "s", 10, "q", 5)]
    typed_events += [event(3, 90000, "r", 11), event(3, 90000, "r", 12)]
    assert_same(tables(run(tmp_path / "json", typed_items, typed_events, suffix=".jsonl")), expected)

    frame = pl.DataFrame(typed_events).with_columns(
        pl.from_epoch("time").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Shanghai"),
        pl.col("item_id", "session_id").cast(pl.Float64),
    )
    frame.write_parquet(tmp_path / "events.parquet")
    pl.DataFrame(typed_items).write_parquet(tmp_path / "items.parquet")
    assert_same(tables(run(tmp_path / "typed", tmp_path / "items.parquet", tmp_path / "events.parquet")), expected)


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
    frame = pl.DataFrame({"time": [text]}, schema={"time": pl.String})
    assert frame.select(unix_seconds(pl.col("time"))).item() == seconds


def test_text_of_any_language_is_normalized():
    clean = {
        "  a \t\r\n b  ": "a b", "全　角\u00a0空": "全 角 空", "a\x00 \x07 b\x7f": "a b", "e\u0301te\u0301": "été",
        "Füße  RUNNING accessories": "Füße RUNNING accessories", "e\x07\u0301": "é", "\u2003": "", None: "",
        "👩\u200d💻 \u0645\u06cc\u200c\u062e": "👩\u200d💻 \u0645\u06cc\u200c\u062e",
    }  # fmt: skip
    texts = pl.DataFrame({"text": list(clean)}).select(normalized(pl.col("text")))
    assert texts["text"].to_list() == list(clean.values())


@given(st.lists(st.one_of(st.none(), st.text()), min_size=1, max_size=20))
@settings(max_examples=100)
def test_normalizing_twice_changes_nothing_and_leaves_single_blanks_alone(texts):
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
def test_unusable_row_is_skipped_and_counted_with_its_number(tmp_path, bad, reason):
    out = run(tmp_path / "dirty", events=[*EVENTS, bad])
    assert_same(tables(out), tables(run(tmp_path / "clean")))
    record = counts(out)
    assert (record[reason], record["skipped_rows"], record["events_read"]) == (1, {reason: [7]}, 7)


def test_five_row_numbers_are_listed_and_each_row_counts_once(tmp_path):
    bad = [event("", "never", "view", "", None)] * 7
    record = counts(run(tmp_path, events=[*bad, *EVENTS, *EVENTS]))
    assert (record["events_empty_user_id"], record["events_duplicate"]) == (7, 6)
    assert record["skipped_rows"] == {"events_empty_user_id": [1, 2, 3, 4, 5], "events_duplicate": [14, 15, 16, 17, 18]}
    assert record["events_bad_time"] == record["events_empty_item_id"] == 0


def test_unknown_kinds_are_one_error_with_counts(tmp_path):
    kinds = ["rec", "rec", None, "view", "rec", "a", "b", "c", "x" * 99]
    events = [*EVENTS, *(event("u1", str(place), kind, "9") for place, kind in enumerate(kinds, 1))]
    with pytest.raises(UserError) as caught:
        run(tmp_path, events=events)
    assert str(caught.value) == (
        f"{tmp_path / 'events.csv'}: 9 rows have an unknown kind ('rec': 3, empty: 1, 'a': 1, 'b': 1, 'c': 1, 2 others; "
        "row 7 is the first); write recommendation or search, or say under `kinds` what they are"
    )
    with pytest.raises(UserError, match=r"\('x{30}': 1; row 1 is"):
        run(tmp_path / "long", events=[event("u1", "1", "x" * 99, "9"), *EVENTS])


def recent(rows):
    return [row | {"time": str(1_700_000_000 + int(row["time"]))} for row in rows]


SEARCHES, CLICKS = ([row for row in EVENTS if row["kind"] == kind] for kind in ("search", "recommendation"))
MORE = recent([event("u1", str(time), "r", "9") for time in range(1, 9)]) + recent(EVENTS[3:4])
BAD = event("u1", "noon", "r", "9")
#: 20240301 as seconds is a day in August 1970; a log may count from its own beginning, so this is no error.
EARLY = [row | {"time": "20240301"} for row in EVENTS]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (recent(EVENTS), []),
        (recent(CLICKS), ["holds no search events; nothing can be trained or measured on them"]),
        (recent([*SEARCHES, event("u1", "100", "r", "no such item")]),
         ["1 of 5 rows were skipped (unknown item: 1)", "of 1 recommendation events none is left; nothing can be trained or measured on them"]),
        # One of ten rows is no more than a tenth; two of eleven are.
        ([*MORE, BAD], []),
        ([*MORE, BAD, BAD], ["2 of 11 rows were skipped (bad time: 2)"]),
        (EARLY[:3] + recent(EVENTS[3:]), []),
        (EARLY[:4] + recent(EVENTS[4:]),
         ["column 'time': most times lie before the year 2000 (the median is 1970-08-23); if they should not, give "
          "unix seconds or ISO date-times (2024-03-01, not 20240301)"]),
    ],
)  # fmt: skip
def test_warnings(tmp_path, events, expected):
    assert warnings(run(tmp_path, events=events)) == [f"{tmp_path / 'events.csv'}: {text}" for text in expected]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_whole_numbers_written_as_floats_are_one_id(tmp_path, suffix):
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


@pytest.mark.parametrize(
    ("items", "events", "message"),
    [
        (ITEMS, [event("1", "1", "r", "9"), event("x", "3", "r", "b"), event("1.0", "2", "r", "9")],
         "events.csv: row 3: the user id '1.0' may be '1', which occurs as well; write every id in one form"),
        ([*ITEMS, {"item_id": "9.0", "title": "t"}], EVENTS, "items.csv: row 5: the item id '9.0' may be '9', which"),
        (ITEMS, [*EVENTS, event("u1", "5", "r", "9.0")], "events.csv: row 7: the item id '9.0' may be '9', which"),
    ],
)  # fmt: skip
def test_float_and_its_whole_number_among_other_ids_are_one_error(tmp_path, items, events, message):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/{message}")):
        run(tmp_path, items, events)


def test_equal_clicks_are_duplicates_of_the_first(tmp_path):
    # Others may come between; a click that differs in item, query, kind or user alone is no duplicate.
    events = [
        event("u", "5", "s", "9", "cup"), event("u", "5", "s", "9", "mug"), event("u", "5", "s", "10", "cup"),
        event("u", "5", "r", "9"), event("u", "5", "r", "b"), event("v", "5", "r", "9"), event("u", "5", "r", "9"), event("u", "6", "r", "9"),
    ]  # fmt: skip
    out = run(tmp_path, events=events)
    assert tables(out)["events"].select("user_id", "time", "task", "item_id", "query_id").rows() == [
        (0, 5, "rec", 1, None), (0, 5, "rec", 2, None), (0, 5, "search", 1, 0), (0, 5, "search", 1, 1), (0, 5, "search", 0, 0),
        (0, 6, "rec", 1, None), (1, 5, "rec", 1, None),
    ]  # fmt: skip
    assert counts(out)["skipped_rows"] == {"events_duplicate": [7]}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_are_counted_from_one_in_every_format(tmp_path, suffix):
    bad = [event("u1", "noon", "r", "9")]
    items = [{"item_id": None, "title": "nameless"}, *ITEMS]
    record = counts(run(tmp_path, items, bad + EVENTS + bad, suffix=suffix))
    assert record["skipped_rows"] == {"items_empty_item_id": [1], "events_bad_time": [1, 8]}


def test_items_with_an_earlier_id_or_without_id_or_text_are_dropped(tmp_path):
    items = [{"item_id": item, "title": title} for item, title in ((" b ", "again"), ("", "nameless"), ("t", "\x00 "))]
    log = [*ITEMS, *items], [*EVENTS, event("u1", "5", "r", "t")]
    out = run(tmp_path / "dropped", *log)
    record = counts(out)
    assert_same(tables(out), tables(run(tmp_path / "clean")))
    reasons = ("items_duplicate", "items_empty_item_id", "items_without_text", "events_item_without_text")
    assert [record[reason] for reason in reasons] == [1, 1, 1, 1]
    skipped = {"items_duplicate": [5], "items_empty_item_id": [6], "events_item_without_text": [7]}
    assert record["skipped_rows"] == skipped
    canonical = tables(run(tmp_path / "kept", *log, EventLogSettings(min_interactions=0, keep_textless_items=True)))
    assert canonical["items"].row(4) == (4, "t", "", "", "", [], "")
    assert canonical["events"].row(0) == (0, 0, 5, "rec", 4, None, None)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".jsonl.gz"])
def test_columns_kinds_and_units_may_be_the_files_own(tmp_path, suffix):
    columns = {
        "user_id": "Kunde",
        "item_id": "user_id",
        "time": "Zeit",
        "kind": "Art",
        "query": "Suche",
        "session_id": "session_id",
    }
    written = {"search": "SUCHE", "recommendation": "Klick"}
    rows = [event("u1", "90", "view", "b"), *EVENTS]
    own = [
        {
            columns[name]: {"time": f"{value}500", "kind": written.get(value, value)}.get(name, value)
            for name, value in row.items()
        }
        for row in rows
    ]
    items = [{"sku": row["item_id"], "description": row["title"], "text": row["description"]} for row in ITEMS]
    settings = EventLogSettings(
        min_interactions=0,
        item_columns={"item_id": "sku", "title": "description", "description": "text"},
        event_columns={name: name_there for name, name_there in columns.items() if name != name_there},
        kinds={"suche": "search", "klick": "recommendation", "VIEW": None},
        time_unit="milliseconds",
    )
    mapped = tables(run(tmp_path / "mapped", items, own, settings, suffix))
    plain = tables(run(tmp_path / "plain", [row | {"brand": None, "categories": None} for row in ITEMS]))
    assert {name: table.rows() for name, table in mapped.items()} == {
        name: table.rows() for name, table in plain.items()
    }


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_the_header_tells_the_delimiter(tmp_path, mark):
    files = {}
    for name, rows in (("items", ITEMS), ("events", [*EVENTS, event("u1", "400", "s", "9", f'a "b", c{mark}\n d')])):
        files[name] = tmp_path / f"{name}.tsv"
        pl.DataFrame(rows).write_csv(files[name], separator=mark)
        write(rows, tmp_path / f"{name}.csv")
    canonical = tables(run(tmp_path, **files))
    assert table_bytes(run(tmp_path / "comma", tmp_path / "items.csv", tmp_path / "events.csv")) == table_bytes(
        tmp_path / "out"
    )
    assert normalized_text(f'a "b", c{mark}\n d') in canonical["queries"]["text"].to_list()


def normalized_text(text):
    return pl.select(normalized(pl.lit(text))).item()


def test_without_kinds_an_event_with_a_query_is_a_search(tmp_path):
    by_query = EventLogSettings(min_interactions=0, kinds="by_query")
    events = [{name: value for name, value in row.items() if name != "kind"} for row in EVENTS]
    assert table_bytes(run(tmp_path / "a", events=events, settings=by_query)) == table_bytes(run(tmp_path / "b"))
    clicks = [{name: row[name] for name in ("user_id", "time", "item_id")} for row in EVENTS]
    assert set(tables(run(tmp_path / "c", events=clicks, settings=by_query))["events"]["task"]) == {"rec"}


def test_a_column_named_in_the_settings_must_be_there(tmp_path):
    for columns, name in (
        ({"event_columns": {"session_id": "visit"}}, "visit"),
        ({"item_columns": {"brand": "maker"}}, "maker"),
    ):
        with pytest.raises(UserError, match=f"lacks the column '{name}'"):
            run(tmp_path, settings=EventLogSettings(min_interactions=0, **columns))


GOOD_ITEMS = b"item_id,title\n1,a\n"
HEADER = b"user_id,time,kind,item_id,query\n"
GOOD_EVENTS = HEADER + b"u,5,recommendation,1,\n"
GOOD_RECORD = json.dumps(event("u1", 5, "r", "1")).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("log.csv", None, "no such file"), ("log.xlsx", b"x", "unknown kind of file; its name must end in one of .parquet"),
        ("log.csv", b"", "the file is empty"), ("log.csv", HEADER, "holds no rows"),
        ("log.csv", b"user_id,time,kind,query\nu,5,recommendation,\n", "lacks the column 'item_id'; rename or add it (there: user_id, time"),
        ("log.csv", b"user_id;time;kind;product;query\nu;5;search;1;q\n", "lacks the column 'item_id'; rename or add it (there: user_id, time"),
        ("log.csv", HEADER.replace(b",", b";") + b'u;5;search;1;q\nu;6;search;1;"tea";green\n', "line 3: 6 fields where the header has 5"),
        ("log.tsv", HEADER.replace(b",", b"\t") + b'u\t5\tsearch\t1\t"tea" green\n', "line 2: a text goes on after its closing double quote"),
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
         "2 of 3 rows cannot be used, most for bad time (row 2 is the first); give the time in unix seconds (or set time_unit to milliseconds)"),
        ("log.csv", HEADER + b"u,5,search,2,q\n", "no event is left (events unknown item: 1)"),
        ("log.jsonl", b'{"user_id": 1}\n' * 2500 + b'{"user_id" 3}\n{"user_id": 1}\n', "lacks the column 'time'"),
        ("log.jsonl", GOOD_RECORD * 2500 + b'{"user_id" 3}\n' + GOOD_RECORD, "line 2501: not a JSON object"),
        ("items.csv", b"item_id,title\n", "holds no rows"),
        ("items.csv", b"item_id\n1\n", "lacks the column 'title'"),
    ],
)  # fmt: skip
def test_unusable_file_is_one_line_with_file_place_and_cure(tmp_path, name, data, message):
    contents = {"items.csv": GOOD_ITEMS, "events.csv": GOOD_EVENTS} | {name: data}
    for file, content in contents.items():
        if content is not None:
            (tmp_path / file).write_bytes(content)
    events = "events.csv" if name == "items.csv" else name
    with pytest.raises(UserError) as caught:
        canonicalize_events(tmp_path / "items.csv", tmp_path / events, ALL, tmp_path / "out", 1)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert message in str(caught.value)
    assert not list(tmp_path.glob("out/*"))


def test_key_of_json_lines_may_appear_late(tmp_path):
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


@pytest.mark.parametrize(
    ("suffix", "quoted"),
    [(".csv", False), (".csv.gz", False), (".jsonl", False), (".jsonl.gz", False), (".csv", True), (".csv.gz", True)],
)
def test_endless_row_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, suffix, quoted):
    monkeypatch.setattr("gensar_core.sources.shared.lines.LONGEST_LINE", 1 << 16)
    monkeypatch.setattr(raw_tables, "_CHUNK_BYTES", 1 << 12)
    path = write(EVENTS, tmp_path / f"log{suffix}")
    packed = suffix.endswith(".gz")
    sound = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    bomb = sound + (b'"' + b"x\n" * (1 << 21) if quoted else b"\0" * (1 << 22))
    path.write_bytes(gzip.compress(bomb, 1, mtime=0) if packed else bomb)
    sizes = []

    def opened(path, plain=raw_tables._opened):
        stream = plain(path)
        take = stream.read

        def counted(size=-1):
            data = take(size)
            sizes.append(len(data))
            return data

        monkeypatch.setattr(stream, "read", counted, raising=False)
        return stream

    monkeypatch.setattr(raw_tables, "_opened", opened)
    message = "the double quote that opens a text here is never closed" if quoted else "no line break within"
    with pytest.raises(UserError, match=rf"{path.name}: line {len(sound.splitlines()) + 1}: {message}"):
        run(tmp_path, events=path)
    assert 1 << 16 < sum(sizes) < 1 << 18


def test_log_without_a_core_is_one_error(tmp_path):
    with pytest.raises(UserError, match=r"no event is left.*lower min_interactions"):
        run(tmp_path, settings=EventLogSettings(min_interactions=5))


def test_optional_columns_may_be_missing_and_others_are_ignored(tmp_path):
    items = [{"item_id": row["item_id"], "price": 3, "title": row["title"]} for row in ITEMS]
    events = [{k: v for k, v in row.items() if k != "session_id"} | {"row": 9, "device": "x"} for row in EVENTS]
    canonical = tables(run(tmp_path, items, events))
    assert canonical["items"]["description"].to_list() == [""] * 4
    # Without session ids each search click is a separate session.
    assert canonical["events"]["session_id"].to_list() == [None, 0, 1, None, 2, 3]


def test_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path):
    expected = tables(run(tmp_path))
    for name in ("items.csv", "events.csv"):
        file = tmp_path / name
        text = file.read_text()
        # Line breaks inside quoted texts become CR LF as well; both are white space.
        file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert_same(tables(run(tmp_path, tmp_path / "items.csv", tmp_path / "events.csv")), expected)


def test_session_is_one_users_clicks_for_one_query_under_one_id(tmp_path):
    events = [
        event("u", "1", "s", "9", "tea", "x"), event("u", "2", "r", "b"), event("u", "3", "s", "b", "tea", "x"),
        event("u", "4", "s", "b", "cup", "x"), event("u", "5", "s", "c", "tea", "y"), event("u", "6", "s", "c", "tea", ""),
        event("u", "7", "s", "c", "tea", ""), event("v", "1", "s", "9", "tea", "x"),
    ]  # fmt: skip
    assert tables(run(tmp_path, events=events))["events"]["session_id"].to_list() == [0, None, 0, 1, 2, 3, 4, 5]


def plain_core(pairs, minimum):
    core = set(range(len(pairs)))
    while True:
        users, items = (Counter(pairs[i][side] for i in core) for side in (0, 1))
        outside = {i for i in core if users[pairs[i][0]] < minimum or items[pairs[i][1]] < minimum}
        if not outside:
            return core
        # Remove one event at a time, unlike the code under test.
        core.remove(min(outside))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=50), st.integers(0, 5))
@settings(max_examples=300)
def test_core_equals_that_of_a_plain_loop(pairs, minimum):
    users, items = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    inside, _ = interaction_core(users, items, minimum)
    assert set(np.flatnonzero(inside)) == plain_core(pairs, minimum)


def test_core_counts_both_kinds_and_is_repeated_until_stable(tmp_path):
    events = [
        event("u1", "1", "r", "9"), event("u1", "2", "s", "b", "q"),
        event("u2", "1", "r", "9"), event("u2", "2", "r", "b"),
        # v loses "c", which only it clicked, and then has too few clicks itself; so then has item 10.
        event("v", "1", "r", "c"), event("v", "2", "r", "10"), event("u1", "3", "r", "10"),
    ]  # fmt: skip
    out = run(tmp_path, events=events, settings=EventLogSettings(min_interactions=2))
    canonical = tables(out)
    assert canonical["users"]["raw_id"].to_list() == ["u1", "u2"]
    assert canonical["items"]["raw_id"].to_list() == ["9", "b"]
    assert canonical["events"].select("user_id", "time", "task", "item_id").rows() == [
        (0, 1, "rec", 0), (0, 2, "search", 1), (1, 1, "rec", 0), (1, 2, "rec", 1),
    ]  # fmt: skip
    record = counts(out)
    names = ("core_rounds", "events_outside_core", "users_outside_core", "items_outside_core")
    assert [record[name] for name in names] == [3, 3, 1, 2]


def test_files_give_equal_bytes_in_any_order_of_rows(tmp_path):
    rng = random.Random(0)
    events = [
        event(f"u{rng.randrange(20)}", str(time), rng.choice("rs"), rng.choice(["b"] * 4 + ["c"] * 4 + ["10"] * 2), f"q {rng.randrange(9)}", rng.choice(["", "x", "y"]))
        for time in rng.sample(range(1, 10**6), 300)
    ]  # fmt: skip
    core = EventLogSettings(min_interactions=3)
    first, second = (run(tmp_path / name, events=events, settings=core) for name in "ab")
    shuffled = run(tmp_path / "c", ITEMS[::-1], rng.sample(events, 300), core)
    assert len(tables(first)["events"]) > 250
    assert table_bytes(first) == table_bytes(second) == table_bytes(shuffled)


def test_walk_through_runs_as_written(tmp_path):
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

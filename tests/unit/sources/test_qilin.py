"""Qilin's published files become canonical tables: known answers, comparison with a plain loop, and bad input."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from gensar_core.config.datasets import QilinSettings
from gensar_core.errors import UserError
from gensar_core.sources.qilin import FOLDERS, canonicalize_qilin
from tests.support.sources_files import counts, raw_events, tables, warnings

ALL = QilinSettings(min_interactions=0)
NIGHT = 1_700_000_000


def note(number, title="茶", content="好喝", taxonomy=("美食", "nan", "")):
    return {"note_idx": number, "note_title": title, "note_content": content, "note_type": 1, "image_num": 2,
            **{f"taxonomy{level}_id": name for level, name in enumerate(taxonomy, 1)}}  # fmt: skip


def shown(stamp, *results):
    """The details of a request: each result is (note, click) or (note, click, time)."""
    return [
        {"note_idx": number, "click": float(click), "like": 0.0, "page_time": -1.0, "position": float(place), stamp: float(time[0] if time else NIGHT)}
        for place, (number, click, *time) in enumerate(results)
    ]  # fmt: skip


def request(user, *results, number=0):
    return {"user_idx": user, "request_idx": number, "session_idx": 1, "query": None, "recent_clicked_note_idxs": [1],
            "rec_result_details_with_idx": shown("request_timestamp", *results)}  # fmt: skip


def search(user, query, *results, number=0):
    return {"user_idx": user, "search_idx": number, "session_idx": 1, "query": query, "query_from_type": 1.0,
            "search_result_details_with_idx": shown("search_timestamp", *results)}  # fmt: skip


PUBLISHED = {
    "notes": [note(1), note(2, "壶", None, ("家居", "厨房", "nan")), note(3, " ", ""), note(4, "杯")],
    "recommendation_train": [request(7, (1, 1), (2, 0)), request(8, (2, 1, NIGHT + 9))],
    "recommendation_test": [request(7, (4, 1, NIGHT + 60), number=5)],
    "search_train": [search(7, "红茶\n杯", (4, 1, NIGHT + 5), (1, 2, NIGHT + 5), (3, 0, NIGHT + 5), number=3)],
    "search_test": [search(8, "茶壶", (2, 1, NIGHT + 7), number=3)],
    "dqa": [{**search(8, "怎么泡茶", (1, 1, NIGHT + 8)), "dqa_output": "用热水"}],
}


def write(folder, files):
    """Write each folder of the data set, its rows spread over two files as the larger ones are published."""
    for name, rows in files.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        table = pl.DataFrame(rows, infer_schema_length=None)
        half = (len(table) + 1) // 2
        parts = [table[:half], table[half:]] if len(table) > 1 else [table]
        for place, part in enumerate(parts):
            part.write_parquet(folder / name / f"train-{place:05}-of-{len(parts):05}.parquet")
    return folder


def run(folder, settings=ALL, **changed):
    write(folder / "raw", PUBLISHED | changed)
    canonicalize_qilin(folder / "raw", settings, folder / "out", 1)
    return folder / "out"


def events(out):
    """`raw_events`, with times from NIGHT on."""
    return [(user, time - NIGHT, *others) for user, time, *others in raw_events(out)]


def test_published_format_gives_the_tables_written_here(tmp_path):
    out = run(tmp_path)
    assert tables(out)["items"].rows() == [
        (0, "1", "茶", "好喝", "", [["美食"]], "茶 好喝"),
        (1, "2", "壶", "", "", [["家居", "厨房"]], "壶"),
        (2, "4", "杯", "好喝", "", [["美食"]], "杯 好喝"),
    ]
    # The clicks of one search are a session, in the order in which they were shown.
    assert events(out) == [
        ("7", 0, "rec", "1", None, None), ("7", 5, "search", "4", "红茶 杯", 0), ("7", 5, "search", "1", "红茶 杯", 0),
        ("7", 60, "rec", "4", None, None),
        ("8", 7, "search", "2", "茶壶", 1), ("8", 8, "search", "1", "怎么泡茶", 2), ("8", 9, "rec", "2", None, None),
    ]  # fmt: skip
    expected = {"items_read": 4, "items_without_text": 1, "recommendation_clicks_read": 3}
    expected |= {"search_clicks_read": 4, "search_sessions": 3}
    assert {name: counts(out)[name] for name in expected} == expected
    assert warnings(out) == []


results = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 1), st.integers(NIGHT, NIGHT + 3)), min_size=1, max_size=4
)


@budget(max_examples=25)
@given(
    st.lists(
        st.tuples(st.sampled_from(FOLDERS[1:]), st.integers(1, 2), st.sampled_from(["茶", "壶"]), results), max_size=12
    )
)
def test_events_equal_those_of_a_plain_loop(tmp_path_factory, requests):
    folder = tmp_path_factory.mktemp("qilin")
    rows = {name: list(PUBLISHED[name]) for name in FOLDERS}
    rows["notes"] = [note(number) for number in range(1, 5)]
    for number, (name, user, query, details) in enumerate(requests):
        searched = not name.startswith("recommendation")
        row = search(user, query, *details, number=number) if searched else request(user, *details, number=number)
        rows[name].append(row | ({"dqa_output": ""} if name == "dqa" else {}))
    expected = set()
    for name in FOLDERS[1:]:
        searched = not name.startswith("recommendation")
        for row in rows[name]:
            for result in row["search_result_details_with_idx" if searched else "rec_result_details_with_idx"]:
                if result["click"] > 0:
                    time = int(result["search_timestamp" if searched else "request_timestamp"]) - NIGHT
                    query = row["query"].replace("\n", " ") if searched else None
                    task = "search" if searched else "rec"
                    expected.add((str(row["user_idx"]), time, task, str(result["note_idx"]), query))
    assert sorted(map(str, expected)) == sorted(str(event[:5]) for event in events(run(folder, **rows)))


def test_each_unusable_click_is_counted_with_its_number_among_the_shown_notes(tmp_path):
    odd = [(1, 0), (99, 1), (3, 1), (1, -1), (1, 1, 0), (1, 1), (1, 1)]
    bad_note = {**note(1), "note_idx": None}
    out = run(
        tmp_path,
        notes=[*PUBLISHED["notes"], bad_note, note(1, "again")],
        recommendation_train=[*PUBLISHED["recommendation_train"], request(9, *odd), *map(request, range(20, 30), [(1, 1)] * 10)],
        search_test=[search(8, " ", (2, 1)), search(8, None, (2, 1)), search(8, "茶壶", (2, 1)), {**search(8, "茶", (1, 1)), "user_idx": None}],
    )  # fmt: skip
    expected = {
        "items_empty_item_id": 1, "items_duplicate": 1, "recommendation_clicks_unknown_item": 1,
        "recommendation_clicks_item_without_text": 1, "recommendation_clicks_bad_click": 1, "recommendation_clicks_bad_time": 1,
        "recommendation_clicks_duplicate": 1, "search_clicks_without_query": 2, "search_clicks_empty_user_id": 1,
    }  # fmt: skip
    record = counts(out)
    assert {name: record[name] for name in expected} == expected
    # Two requests show three notes before these; the three of search_train come before those of search_test.
    assert record["skipped_rows"]["recommendation_clicks_unknown_item"] == [5]
    assert record["skipped_rows"]["recommendation_clicks_bad_click"] == [7]
    assert record["skipped_rows"]["search_clicks_without_query"] == [4, 5]


def test_the_core_and_textless_notes_follow_the_settings(tmp_path):
    wide = [request(user, (1, 1), (3, 1)) for user in (1, 2)]
    out = run(tmp_path, QilinSettings(min_interactions=2, keep_textless_items=True), recommendation_train=wide)
    # User 8 loses note 2, which nobody else clicked, and then has one click left.
    assert {event[0] for event in events(out)} == {"1", "2", "7"}
    assert {event[3] for event in events(out)} == {"1", "3", "4"}
    assert counts(out)["events_outside_core"] == 2


def test_missing_and_broken_files_are_named(tmp_path):
    raw = write(tmp_path / "raw", PUBLISHED)

    def message():
        with pytest.raises(UserError) as caught:
            canonicalize_qilin(raw, ALL, tmp_path / "out", 1)
        return str(caught.value)

    (raw / "dqa" / "train-00000-of-00001.parquet").rename(tmp_path / "kept")
    assert message() == f"{raw}/dqa: holds no Parquet files; put the published ones there"
    pl.DataFrame({"user_idx": [1], "query": ["茶"]}).write_parquet(raw / "dqa" / "train-00000-of-00001.parquet")
    assert message().startswith(f"{raw}/dqa: lacks the column 'search_result_details_with_idx'")
    data = (tmp_path / "kept").read_bytes()
    (raw / "dqa" / "train-00000-of-00001.parquet").write_bytes(data[: len(data) // 2])
    assert "dqa" in message()
    assert "not a readable Parquet file; write it again" in message()
    milliseconds = [search(8, "茶", (1, 1, 1000 * NIGHT)) for _ in range(9)]
    write(raw, {"dqa": PUBLISHED["dqa"], "search_train": milliseconds})
    assert "most for bad time" in message()
    assert "should be unix seconds" in message()

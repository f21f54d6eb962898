"""KuaiSAR's published files become canonical tables: known answers and bad input."""

import pytest

from gensar_core.config.datasets import EventLogSettings, KuaiSARSettings
from gensar_core.config.experiments import load_experiments
from gensar_core.errors import UserError
from gensar_core.sources.kuaisar import canonicalize_kuaisar
from tests.support.sources_files import assert_same, counts, tables

ALL = KuaiSARSettings(min_interactions=0)

REC = (
    "user_id,item_id,playing_time,duration_ms,time,timestamp,click,forward,like,follow,search,search_item_related\n"
    "10,7,60792.0,45400.0,2023-05-22 15:53:20,1684742000000.0,1,0,0,0,0,0\n"
    "10,8,0.0,45400.0,2023-05-22 15:53:20,1684742000000.0,0,0,0,0,0,0\n"
    "9,8,60792.0,45400.0,2023-05-22 15:53:21,1684742001999.0,1,0,0,0,0,0\n"
    "10,8,1.0,45400.0,2023-05-22 15:53:20,1684742000000.0,1,0,0,0,0,0\n"
)
SRC = (
    "user_id,search_session_id,search_session_time,search_session_timestamp,keyword,search_source,item_id,click_cnt,item_type\n"
    '10,1,2023-05-22 15:53:20,1684742000000,"[20, 34, 3]",USER_INPUT,103656000000,1,VIDEO\n'
    '10,1,2023-05-22 15:53:20,1684742000000,"[20, 34, 3]",USER_INPUT,8,0,VIDEO\n'
    '10,1,2023-05-22 15:53:20,1684742000000,"[20, 34, 3]",USER_INPUT,7,2,VIDEO\n'
    '9,1,2023-05-22 15:53:22,1684742002000,"[20, 34, 3]",USER_INPUT,7,1,VIDEO\n'
)
LEVELS = [f"{level}_level_category_{part}" for level in ("first", "second", "third", "fourth") for part in ("id", "name", "name_en")]  # fmt: skip
ITEMS = (
    f"item_id,caption,author_id,item_type,upload_time,upload_type,{','.join(LEVELS)}\n"
    '7,"[1, 213, 24]",10,NORMAL,2023-04-22,LongImport,9,搞笑,Funny,136,搞笑段子,Funny joke,0,空,empty,0,茶,Tea\n'
    "8,[],0,NORMAL,1970-01-01,UNKNOWN,0,空,empty,5,茶,Tea, 0,空,UNKNOWN,4,UNKNOWN,UNKNOWN\n"
    "103656000000,[5],0,NORMAL,1970-01-01,UNKNOWN,0,空,empty,0,空,empty,0,空,empty,0,空,empty\n"
    "11,[5],0,NORMAL,1970-01-01,UNKNOWN,0,空,empty,0,空,empty,0,空,empty,0,空,empty\n"
)
SHORT = ",0,NORMAL,1970-01-01,UNKNOWN,0,空,empty,0,空,empty,0,空,empty,0,空,empty\n"


def run(folder, rec=REC, src=SRC, items=ITEMS, settings=ALL, users=None):
    folder.mkdir(exist_ok=True)
    files = {"rec_inter.csv": rec, "src_inter.csv": src, "item_features.csv": items, "user_features.csv": users}
    for name, text in files.items():
        if text is not None:
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    canonicalize_kuaisar(folder, settings, folder / "out", 1)
    return folder / "out"


def test_published_format_gives_the_tables_written_here(tmp_path):
    users = "user_id,search_active_level,rec_active_level,onehot_feat1,onehot_feat2\n10,1,1,0,3\n9,1,2,0,3\n4,1,2,0,3\n"
    # A shown item without a click is no event, even when its row is odd.
    out = run(tmp_path, users=users, src=SRC + "10,1,never,never,[],USER_INPUT,98,0,USER\n")
    canonical = tables(out)
    # Raw ids are text: "10" precedes "9".
    assert canonical["users"].rows() == [(0, "10"), (1, "9")]
    assert canonical["items"].rows() == [
        (0, "103656000000", "5", "", "", [], "5"),
        (1, "7", "1 213 24", "Funny > Funny joke", "", [["Funny", "Funny joke"]], "1 213 24 Funny > Funny joke"),
        (2, "8", "", "Tea", "", [["Tea"]], "Tea"),
    ]
    assert canonical["queries"].rows() == [(0, "20 34 3")]
    assert canonical["events"].rows() == [
        (0, 0, 1684742000, "rec", 1, None, None),
        (1, 0, 1684742000, "rec", 2, None, None),
        (2, 0, 1684742000, "search", 0, 0, 0),
        (3, 0, 1684742000, "search", 1, 0, 0),
        (4, 1, 1684742001, "rec", 2, None, None),
        (5, 1, 1684742002, "search", 1, 0, 1),
    ]
    record = counts(out)
    expected = {
        "recommendation_rows": 4, "search_rows": 5, "users_with_features": 3, "recommendation_clicks_read": 3,
        "search_clicks_read": 3, "items_read": 4, "items_without_text": 0, "users": 2, "items": 3, "queries": 1,
        "recommendation_interactions": 3, "search_interactions": 3, "search_sessions": 2,
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected
    assert record["skipped_rows"] == {}


def rec_row(user, item, time, click):
    return f"{user},{item},1.0,1.0,2023-05-22 15:53:20,{time},{click},0,0,0,0,0\n"


def src_row(session, time, words, item):
    return f"10,{session},2023-05-22 15:53:20,{time},{words},USER_INPUT,{item},1,VIDEO\n"


@pytest.mark.parametrize(
    ("file", "row", "reason"),
    [
        ("rec", rec_row(10, 7, "", 1), "recommendation_clicks_bad_time"),
        ("rec", rec_row(10, 7, "1684742000.0e9", 1), "recommendation_clicks_bad_time"),
        ("rec", rec_row(10, 7, 1684742000000.0, "yes"), "recommendation_clicks_bad_click"),
        ("rec", rec_row(10, 7, 1684742000000.0, -1), "recommendation_clicks_bad_click"),
        ("src", src_row(1, 1684742000000, "[]", 8), "search_clicks_without_query"),
        ("src", src_row(1, 1684742000000, "tea", 8), "search_clicks_without_query"),
        ("src", src_row(1, 1684742000000, "[20]", 98), "search_clicks_unknown_item"),
        ("src", src_row(1, 1684742000000, "[20]", ""), "search_clicks_empty_item_id"),
        ("src", src_row(1, "soon", "[20]", 8), "search_clicks_bad_time"),
        ("src", src_row(2, 1684742000000, '"[20, 34, 3]"', 7), "search_clicks_duplicate"),
        ("items", "7,[3]" + SHORT, "items_duplicate"),
        ("items", ",[3]" + SHORT, "items_empty_item_id"),
    ],
)
def test_unusable_row_is_skipped_and_counted_with_its_number(tmp_path, file, row, reason):
    texts = {"rec": REC, "src": SRC, "items": ITEMS}
    out = run(tmp_path / "dirty", **(texts | {file: texts[file] + row}))
    assert_same(tables(out), tables(run(tmp_path / "clean")))
    record = counts(out)
    assert (record[reason], record["skipped_rows"]) == (1, {reason: [5]})


def test_items_without_caption_and_category_are_dropped_by_default(tmp_path):
    files = {"items": ITEMS + "12,[]" + SHORT, "rec": REC + rec_row(9, 12, 1684742009000.0, 1)}
    record = counts(run(tmp_path / "dropped", **files))
    assert record["items_without_text"] == record["recommendation_clicks_item_without_text"] == 1
    textless = KuaiSARSettings(min_interactions=0, keep_textless_items=True)
    assert "12" in tables(run(tmp_path / "kept", **files, settings=textless))["items"]["raw_id"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rec": None}, "lacks rec_inter.csv; put the published files of KuaiSAR there"),
        ({"src": None, "items": None}, "lacks src_inter.csv and item_features.csv"),
        ({"rec": REC.replace("timestamp", "stamp")}, "rec_inter.csv: lacks the column 'timestamp'"),
        ({"items": ITEMS.replace("caption", "text")}, "item_features.csv: lacks the column 'caption'"),
        ({"src": SRC.split("\n")[0] + "\n"}, "src_inter.csv: holds no rows"),
        ({"src": ""}, "src_inter.csv: the file is empty"),
        ({"rec": REC.replace("16847420", "later")}, "rec_inter.csv: 3 of 3 rows cannot be used, most for bad time (row 1 is the first)"),
        ({"rec": REC.replace("000.0,", ".0,").replace("1999.0,", "1.0,")}, "rec_inter.csv: column 'timestamp': most times lie before the year 2000 (the median is 1970-01-20), as unix seconds do when they are read as milliseconds; give unix milliseconds"),
        ({"src": SRC.replace("000,", ",")}, "src_inter.csv: column 'search_session_timestamp': most times lie before the year 2000 (the median is 1970-01-20)"),
        ({"users": "name\nx\n"}, "user_features.csv: lacks the column 'user_id'"),
        ({"src": SRC.encode() + b"1,\xff\n"}, "src_inter.csv: line 6: not UTF-8"),
    ],
)  # fmt: skip
def test_unusable_file_is_one_line(tmp_path, change, message):
    with pytest.raises(UserError) as caught:
        run(tmp_path, **change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "settings"),
    [
        ({"source": "kuaisar", "raw": "/data/kuaisar", "keep_textless_items": True},
         KuaiSARSettings(min_interactions=5, keep_textless_items=True)),
        ({"source": "eventlog", "items": "i.csv", "events": "e.csv", "min_interactions": 2},
         EventLogSettings(min_interactions=2, keep_textless_items=False)),
    ],
)  # fmt: skip
def test_configuration_entry_gives_the_stage_its_settings(entry, settings):
    experiments = load_experiments({"datasets": {"log": entry}, "tables": {"overall": {"rows": []}}})
    assert experiments.datasets["log"].part(type(settings)) == settings

"""KuaiSAR's published files become canonical tables: known answers and bad input."""

import json

import pytest

from gensar_core import schema
from gensar_core.config.datasets import KuaiSARSettings
from gensar_core.config.experiments import load_experiments
from gensar_core.errors import UserError
from gensar_core.sources.kuaisar import canonicalize_kuaisar

ALL = KuaiSARSettings(min_interactions=0)
NAMES = ("users", "items", "queries", "events")

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
            (folder / name).write_text(text)
    canonicalize_kuaisar(folder, settings, folder / "out", 1)
    return folder / "out"


def tables(out):
    return {name: schema.TABLES[name].read(out / f"{name}.parquet") for name in NAMES}


def counts(out):
    return json.loads((out / "stage.json").read_text())["counts"]


def test_the_published_format_gives_the_tables_written_here(tmp_path):
    users = "user_id,search_active_level,rec_active_level,onehot_feat1,onehot_feat2\n10,1,1,0,3\n9,1,2,0,3\n4,1,2,0,3\n"
    out = run(tmp_path, users=users)
    found = tables(out)
    # Raw ids are text: "10" stands before "9".
    assert found["users"].rows() == [(0, "10"), (1, "9")]
    assert found["items"].rows() == [
        (0, "103656000000", "5", "", "", [], "5"),
        (1, "7", "1 213 24", "Funny > Funny joke", "", [["Funny", "Funny joke"]], "1 213 24 Funny > Funny joke"),
        (2, "8", "", "Tea", "", [["Tea"]], "Tea"),
    ]
    assert found["queries"].rows() == [(0, "20 34 3")]
    assert found["events"].rows() == [
        (0, 0, 1684742000, "rec", 1, None, None),
        (1, 0, 1684742000, "rec", 2, None, None),
        (2, 0, 1684742000, "search", 0, 0, 0),
        (3, 0, 1684742000, "search", 1, 0, 0),
        (4, 1, 1684742001, "rec", 2, None, None),
        (5, 1, 1684742002, "search", 1, 0, 1),
    ]
    record = counts(out)
    expected = {
        "recommendation_rows": 4, "search_rows": 4, "users_with_features": 3, "recommendation_clicks_read": 3,
        "search_clicks_read": 3, "items_read": 4, "items_without_text": 0, "users": 2, "items": 3, "queries": 1,
        "recommendation_interactions": 3, "search_interactions": 3, "search_sessions": 2,
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected
    assert record["skipped_rows"] == {}


@pytest.mark.parametrize(
    ("file", "row", "reason", "number"),
    [
        ("rec", "10,99,1.0,1.0,2023-05-22 15:53:20,1684742000000.0,1,0,0,0,0,0\n", "recommendation_clicks_unknown_item", 5),
        ("rec", "10,7,1.0,1.0,2023-05-22 15:53:20,1684742000000.0,1,0,0,0,0,0\n", "recommendation_clicks_duplicate", 5),
        ("rec", "10,7,1.0,1.0,2023-05-22 15:53:20,,1,0,0,0,0,0\n", "recommendation_clicks_bad_time", 5),
        ("rec", "10,7,1.0,1.0,2023-05-22 15:53:20,1684742000.0e9,1,0,0,0,0,0\n", "recommendation_clicks_bad_time", 5),
        ("rec", ",7,1.0,1.0,2023-05-22 15:53:20,1684742000000.0,1,0,0,0,0,0\n", "recommendation_clicks_empty_user_id", 5),
        ("rec", "10,7,1.0,1.0,2023-05-22 15:53:20,1684742000000.0,yes,0,0,0,0,0\n", "recommendation_clicks_bad_click", 5),
        ("rec", "10,7,1.0,1.0,2023-05-22 15:53:20,1684742000000.0,-1,0,0,0,0,0\n", "recommendation_clicks_bad_click", 5),
        ("src", "10,1,2023-05-22 15:53:20,1684742000000,[],USER_INPUT,8,1,VIDEO\n", "search_clicks_without_query", 5),
        ("src", "10,1,2023-05-22 15:53:20,1684742000000,tea,USER_INPUT,8,1,VIDEO\n", "search_clicks_without_query", 5),
        ("src", "10,1,2023-05-22 15:53:20,1684742000000,[20],USER_INPUT,98,1,USER\n", "search_clicks_unknown_item", 5),
        ("src", "10,1,2023-05-22 15:53:20,1684742000000,[20],USER_INPUT,,1,VIDEO\n", "search_clicks_empty_item_id", 5),
        ("src", "10,1,2023-05-22 15:53:20,soon,[20],USER_INPUT,8,1,VIDEO\n", "search_clicks_bad_time", 5),
        ("src", '10,2,2023-05-22 15:53:20,1684742000000,"[20, 34, 3]",USER_INPUT,7,1,VIDEO\n', "search_clicks_duplicate", 5),
        ("items", "7,[3]" + SHORT, "items_duplicate", 5),
        ("items", ",[3]" + SHORT, "items_empty_item_id", 5),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_counted_by_its_number_and_skipped(tmp_path, file, row, reason, number):
    expected = tables(run(tmp_path / "clean"))
    texts = {"rec": REC, "src": SRC, "items": ITEMS}
    out = run(tmp_path / "dirty", **(texts | {file: texts[file] + row}))
    for name, found in tables(out).items():
        assert found.equals(expected[name])
    record = counts(out)
    assert record[reason] == 1
    assert record["skipped_rows"] == {reason: [number]}


def test_a_shown_item_without_a_click_is_no_event_even_when_its_row_is_odd(tmp_path):
    row = "10,1,never,never,[],USER_INPUT,98,0,USER\n"
    record = counts(run(tmp_path, src=SRC + row))
    assert (record["search_rows"], record["search_clicks_read"], record["skipped_rows"]) == (5, 3, {})


def test_items_without_caption_and_category_go_with_their_clicks_unless_kept(tmp_path):
    items, rec = ITEMS + "12,[]" + SHORT, REC + "9,12,1.0,1.0,2023-05-22 15:53:20,1684742009000.0,1,0,0,0,0,0\n"
    record = counts(run(tmp_path / "dropped", rec=rec, items=items))
    assert record["items_without_text"] == record["recommendation_clicks_item_without_text"] == 1
    kept = KuaiSARSettings(min_interactions=0, keep_textless_items=True)
    assert "12" in tables(run(tmp_path / "kept", rec=rec, items=items, settings=kept))["items"]["raw_id"]


def test_the_core_counts_both_kinds_of_clicks(tmp_path):
    found = tables(run(tmp_path, settings=KuaiSARSettings(min_interactions=2)))
    # Item 103656000000 has one click; user 10 keeps three, user 9 two, item 7 three, item 8 two.
    assert found["items"]["raw_id"].to_list() == ["7", "8"]
    assert len(found["events"]) == 5


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
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, change, message):
    with pytest.raises(UserError) as caught:
        run(tmp_path, **change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_utf8_is_named_by_file_and_line(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError):
        run(tmp_path / "raw", src="")
    (tmp_path / "raw" / "src_inter.csv").write_bytes(SRC.encode() + b"1,\xff\n")
    with pytest.raises(UserError, match=r"src_inter\.csv: line 6: not UTF-8"):
        run(tmp_path / "raw", src=None)


def test_the_configuration_entry_gives_the_stage_its_settings():
    values = {"datasets": {"kuai": {"source": "kuaisar", "raw": "/data/kuaisar", "keep_textless_items": True}}}
    dataset = load_experiments(values | {"tables": {"overall": {"rows": []}}}).datasets["kuai"]
    assert dataset.part(KuaiSARSettings) == KuaiSARSettings(min_interactions=5, keep_textless_items=True)

"""`gensar init`: what it finds in two tables, what it asks back, and the configuration that it writes."""

import gzip
import json

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from gensar_core.cli.language import languages
from gensar_core.cli.main import app
from gensar_core.cli.preset import ENGLISH, MULTILINGUAL, choose_encoder, estimate, preset_values, write_preset
from gensar_core.cli.survey import TableSurvey, survey_tables
from gensar_core.config.experiments import read_experiments
from gensar_core.errors import UserError
from tests.workflow.planning import ROOT

ITEMS = [
    {"sku": f"i{k}", "name": "the green tea from Japan", "text": "a leaf in the water", "weight": "5"} for k in range(4)
]
EVENTS = [
    {"customer": f"u{user}", "ts": str(1_700_000_000 + 60 * step), "type": ("click", "search")[step % 2], "sku": f"i{step % 4}",
     "q": "green tea" if step % 2 else None}
    for user in range(3) for step in range(8)
]  # fmt: skip
COLUMNS = {
    "item_columns": {"item_id": "sku", "title": "name", "description": "text"},
    "event_columns": {"user_id": "customer", "time": "ts", "kind": "type", "item_id": "sku", "query": "q"},
}


def write(folder, name, rows):
    file = folder / name
    match name.split(".")[1]:
        case "csv":
            data = pl.DataFrame(rows).write_csv(separator=";").encode()
        case "tsv":
            data = pl.DataFrame(rows).write_csv(separator="\t").encode()
        case "jsonl":
            data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        case _:
            pl.DataFrame(rows).write_parquet(file)
            return file
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return file


def look(folder, items=ITEMS, events=EVENTS, columns=(), kinds=(), suffix="csv"):
    files = write(folder, f"items.{suffix}", items), write(folder, f"events.{suffix}", events)
    return survey_tables(*files, columns, kinds)


def found(surveyed, what):
    return next(text for name, text in surveyed.found if name.strip() == what)


def renamed(rows, **names):
    return [{names.get(name, name): value for name, value in row.items() if names.get(name, name)} for row in rows]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Die Lampe steht auf dem Schreibtisch", "German"),
        ("The lamp stands on the desk", "English"),
        ("La lampe est sur la table de la cuisine", "French"),
        ("机の上のランプ", "Japanese"),
        ("中国茶壶", "Chinese"),
        ("녹차 주전자", "Korean"),
        ("Зелёный чай", "Cyrillic"),
        ("USBケーブル", "Japanese"),
    ],
)
def test_a_text_has_its_language(text, language):
    assert languages([text]) == {language: 1.0}


def test_languages_are_shares_of_the_texts_that_have_one():
    texts = ["Die Lampe steht auf dem Schreibtisch"] * 3 + ["机の上のランプ", "Xyzzy Qwrtz 300", "12 / 5", ""]
    assert languages(texts) == {"German": 0.75, "Japanese": 0.25}
    assert languages(["Xyzzy Qwrtz", ""]) == {}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_all_formats_give_the_same_settings(tmp_path, suffix):
    surveyed = look(tmp_path, suffix=suffix)
    assert surveyed.settings == {
        "source": "eventlog",
        "items": f"{tmp_path}/items.{suffix}",
        "events": f"{tmp_path}/events.{suffix}",
        **COLUMNS,
        "kinds": {"click": "recommendation"},
        "min_interactions": 5,
    }
    assert (surveyed.users, surveyed.items, surveyed.recommendations, surveyed.searches, surveyed.queries) == (
        3,
        4,
        12,
        12,
        1,
    )
    assert surveyed.languages == {"English": 1.0}
    name = {"csv": "CSV with semicolons", "tsv": "CSV with tabs", "jsonl": "JSON lines", "parquet": "Parquet"}[
        suffix.split(".")[0]
    ]
    assert name in found(surveyed, "items")
    assert ("gzipped" in found(surveyed, "items")) == suffix.endswith("gz")
    assert found(surveyed, "not read") == "weight"


def test_of_several_columns_the_choice_and_the_others_are_told(tmp_path):
    events = [row | {"visitor_id": "v", "Event Time": "2024-01-01"} for row in EVENTS]
    surveyed = look(tmp_path, events=events)
    assert found(surveyed, "user_id") == "customer (or visitor_id? then --column user_id=visitor_id)"
    assert found(surveyed, "time") == "Event Time (or ts? then --column time=ts)"
    surveyed = look(tmp_path, events=events, columns=["user=visitor_id", "time=ts"])
    assert surveyed.settings["event_columns"] == COLUMNS["event_columns"] | {"user_id": "visitor_id"}
    assert surveyed.users == 1


def test_columns_of_any_name_can_be_given(tmp_path):
    items, events = renamed(ITEMS, sku="Nummer", name="Titel"), renamed(EVENTS, customer="Kunde", sku="Ware")
    for columns, missing in (
        ([], "items.csv: no column has a name that is common for item_id (there: Nummer, Titel, text, weight); say which one holds it: --column items.item_id=COLUMN"),
        (["items.item=Nummer"], "common for title"),
        (["items.item=Nummer", "title=Titel"], "common for user_id"),
        (["items.item=Nummer", "title=Titel", "user=Kunde"], "--column events.item_id=COLUMN"),
        (["item=Nummer"], "--column item=Nummer: both tables have it; write items.item_id or events.item_id"),
        (["items.item=Nummer", "title=Titel", "user=Kunden"], "has no such column (there: Kunde, ts, type, Ware, q); did you mean 'Kunde'?"),
        (["colour=x"], "--column colour=x: write NAME=COLUMN, NAME being one of items.item_id, items.title"),
        (["title"], "--column title: write NAME=COLUMN"),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            look(tmp_path, items, events, columns)
        assert missing in str(caught.value)
    surveyed = look(tmp_path, items, events, ["items.item=Nummer", "title=Titel", "user=Kunde", "events.item_id=Ware"])
    assert (surveyed.users, surveyed.items) == (3, 4)


def test_kinds_are_known_given_or_asked_for(tmp_path):
    shown = [row | {"type": "IMPRESSION"} for row in EVENTS]
    with pytest.raises(
        UserError,
        match=r"column 'type': what are events of these kinds \('impression': 24\)\? .*--kind KIND=recommendation",
    ):
        look(tmp_path, events=EVENTS + shown)
    surveyed = look(tmp_path, events=EVENTS + shown, kinds=["Impression=none"])
    assert surveyed.settings["kinds"] == {"click": "recommendation", "impression": None}
    assert (surveyed.recommendations, surveyed.searches) == (12, 12)
    assert found(surveyed, "kinds") == "impression: 24, left out; search: 12, search; click: 12, recommendation"
    for kind in ("impression", "impression=shown"):
        with pytest.raises(UserError, match=f"--kind {kind}: write KIND=recommendation"):
            look(tmp_path, events=EVENTS + shown, kinds=[kind])


def test_queries_tell_searches_where_no_kind_does(tmp_path):
    clicks = [row | {"type": "click"} for row in EVENTS]
    for events in (clicks, renamed(EVENTS, type=None)):
        surveyed = look(tmp_path, events=events)
        assert surveyed.settings["kinds"] == "by_query"
        assert (surveyed.recommendations, surveyed.searches) == (12, 12)
    assert "none of click says search, and 12 events have a query" in found(look(tmp_path, events=clicks), "kinds")
    assert look(tmp_path, events=clicks, kinds=["click=recommendation"]).searches == 0
    assert look(tmp_path, events=renamed(EVENTS, type=None, q=None)).searches == 0
    with pytest.raises(UserError, match="has no column of kinds"):
        look(tmp_path, events=renamed(EVENTS, type=None), kinds=["click=search"])


@pytest.mark.parametrize(
    ("times", "unit", "told"),
    [
        (lambda time: time, None, "unix seconds"),
        (lambda time: time + "250", "milliseconds", "unix milliseconds"),
        (lambda time: f"2024-03-0{1 + int(time) % 7}", None, "dates, UTC where they carry no offset"),
    ],
)
def test_units_of_time_are_recognized(tmp_path, times, unit, told):
    surveyed = look(tmp_path, events=[row | {"ts": times(row["ts"])} for row in EVENTS])
    assert surveyed.settings.get("time_unit") == unit
    assert found(surveyed, "times") == told


def test_small_logs_get_a_smaller_core(tmp_path):
    assert look(tmp_path, events=EVENTS[:8]).settings["min_interactions"] == 2
    assert look(tmp_path, events=EVENTS[:4]).settings["min_interactions"] == 0


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("events.csv", "customer;ts;type;sku;q\nGrün;5;click;1;\n".encode("cp1252"), "line 2: not UTF-8; save the file in the encoding UTF-8"),
        ("events.csv", b'customer;ts;type;sku;q\nu;5;search;1;"tea\n', "line 2: the double quote that opens a text here is never closed"),
        ("events.csv", b"customer;ts;type;sku;q\nu;5;click;1;;;\n", "line 2: 7 fields where the header has 5"),
        ("events.csv", b"", "the file is empty"),
        ("events.csv", b"customer;ts;type;sku;q\n" + b"u;5000000000000000;click;i1;\n" * 9, "9 of 9 rows cannot be used, most for bad time"),
        ("events.csv.gz", gzip.compress(b"customer;ts;type;sku;q\nu;5;click;1;\n" * 99, mtime=0)[:-9], "the gzip file is cut off or damaged"),
        ("events.xlsx", b"x", "unknown kind of file"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_line_with_place_and_cure(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        survey_tables(write(tmp_path, "items.csv", ITEMS), tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert message in str(caught.value)


SMALL = TableSurvey({"source": "eventlog", "items": "i.csv", "events": "e.csv", "min_interactions": 5}, [], [], {"English": 0.9},
               500, 300, 3000, 3000, 20, 130)  # fmt: skip


def with_numbers(**numbers):
    return TableSurvey(**(vars(SMALL) | numbers))


def test_the_encoder_follows_the_languages():
    shares = [
        ({"English": 0.9}, ENGLISH),
        ({}, ENGLISH),
        ({"English": 0.7, "German": 0.3}, MULTILINGUAL),
        ({"Japanese": 1.0}, MULTILINGUAL),
    ]
    assert [choose_encoder(with_numbers(languages=found)) for found, _ in shares] == [encoder for _, encoder in shares]


def test_the_preset_is_valid_over_config_yaml_and_overwrites_nothing(tmp_path):
    output = tmp_path / "config.laden.yaml"
    assert write_preset(output, SMALL, ENGLISH, ROOT / "config.yaml") == "laden"
    experiments = read_experiments(ROOT / "config.yaml", output)
    dataset, generator = experiments.datasets["laden"], experiments.generators["gensar_laden"]
    assert (dataset.source, dataset.table, generator.backbone) == ("eventlog", "laden", "causal")
    rows = experiments.tables["laden"].rows
    assert rows == ["popularity", "itemknn", "sasrec", "query_frequency", "bm25", "gensar_laden"]
    assert experiments.embeddings["laden"].model == ENGLISH
    with pytest.raises(UserError, match="is there already; delete it"):
        write_preset(output, SMALL, ENGLISH, ROOT / "config.yaml")
    with pytest.raises(UserError, match=r"config.yaml has datasets.demo already; give another --output"):
        write_preset(tmp_path / "config.demo.yaml", SMALL, ENGLISH, ROOT / "config.yaml")
    with pytest.raises(UserError, match=r"config.a b.yaml: datasets"):
        write_preset(tmp_path / "config.a b.yaml", SMALL, ENGLISH, ROOT / "config.yaml")
    with pytest.raises(UserError, match="run this in the folder of the workflow"):
        write_preset(tmp_path / "config.x.yaml", SMALL, ENGLISH, tmp_path / "config.yaml")
    assert [file.name for file in tmp_path.iterdir()] == ["config.laden.yaml"]


def test_large_logs_get_fewer_epochs_and_larger_tables():
    large = with_numbers(users=100_000, items=50_000, recommendations=10**6, searches=10**6, characters=3000)
    small, large = (preset_values("shop", one, ENGLISH) for one in (SMALL, large))
    assert small["generators"]["gensar_shop"]["epochs"] > large["generators"]["gensar_shop"]["epochs"] == 1.0
    assert [one["identifiers"]["shop"]["codebook_size"] for one in (small, large)] == [16, 256]
    # A quarter of the vocabulary holds all characters.
    assert [one["corpora"]["shop"]["vocabulary_size"] for one in (small, large)] == [1000, 12_000]


def test_the_estimate_grows_with_the_numbers():
    def minutes(encoder=ENGLISH, **numbers):
        return sum(estimate(with_numbers(**numbers), encoder).values())

    for numbers in ({"items": 30_000}, {"users": 50_000}, {"searches": 10**6}, {"queries": 10**5}):
        assert minutes(**numbers) > minutes() + 1
    assert minutes(MULTILINGUAL, queries=10**5) > 1.5 * minutes(queries=10**5)
    assert "SASRec on 1,003,000 events in 4 epochs" in "".join(estimate(with_numbers(searches=10**6), ENGLISH))


def test_the_command_says_what_it_found_and_what_comes_next(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").symlink_to(ROOT / "config.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    for name, rows in (("items.csv", ITEMS), ("events.csv", EVENTS)):
        write(tmp_path / "shop", name, rows)
    arguments = ["init", "--items", "shop/items.csv", "--events", "shop/events.csv", "--output", "config.tee.yaml"]
    done = CliRunner().invoke(
        app, [*arguments, "--encoder", "my/model", "--column", "brand=weight"], catch_exceptions=False
    )
    assert done.exit_code == 0
    for line in (
        "shop/items.csv: CSV with semicolons, UTF-8, 4 columns",
        "weight (given)",
        "my/model",
        "config.tee.yaml -- results/tables/tee.csv",
    ):
        assert line in done.stdout
    written = yaml.safe_load((tmp_path / "config.tee.yaml").read_text())
    assert written["datasets"]["tee"]["items"] == "shop/items.csv"
    assert written["embeddings"]["tee"]["model"] == "my/model"

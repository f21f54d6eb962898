"""`gensar report`: hits and misses as counted by hand, lists, escaping; and the page in a real browser."""

import json
import re
import shutil
from html import escape

import pytest
from typer.testing import CliRunner

from gensar_core import schema
from gensar_core.cli.main import app
from gensar_core.errors import UserError
from gensar_core.evaluation.ranked_candidates import ranked_candidates
from gensar_core.evaluation.report import write_report
from gensar_core.evaluation.tables import metric_table
from tests.support.shop import Q, R, S, sample, write_items, write_queries, write_rows, write_users

#: A title and a query that would be programs, were they read as HTML.
EVIL = "<img src=x onerror=\"document.title='taken'\"> & co"
ITEMS, CANDIDATES = 30, 20
TITLES = [EVIL, "", *(f"thing {item}" for item in range(2, ITEMS))]
HISTORY = [(R, 3), (Q, 0), (S, 0)]
SAMPLES = [
    sample(0, "rec", "train", 4, None, []),
    sample(1, "rec", "test", 5, None, HISTORY),
    sample(2, "rec", "test", 6, None, HISTORY),
    sample(3, "rec", "test", 7, None, []),
    sample(4, "search", "test", 0, 0, HISTORY),
]
#: Row -> its kind of method, and the rank that it gives the target of each sample.
RANKS = {
    "random": ("random_order", {1: 11, 2: 12, 3: 13, 4: 14}),
    "clicks": ("popularity", {1: 1, 2: 1, 3: 1}),
    "transformer": ("sasrec", {1: 2, 2: 15, 3: 20}),
    "words": ("bm25", {4: 20}),
    "made": (None, {1: 10, 2: 11, 3: 1, 4: 1}),
    "worse": (None, {1: 20, 2: 20, 3: 20, 4: 20}),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A data set of which every row ranks the target and 19 other items, and its table."""
    folder = tmp_path_factory.mktemp("run") / "results"
    dataset = folder / "shop"
    write_items(dataset / "canonical", TITLES)
    write_queries(dataset / "canonical", [f"{EVIL} of a query"])
    write_users(dataset / "canonical", ["anna", "<b>bert</b>", "carl"])
    write_rows(schema.SAMPLES, dataset / "samples", SAMPLES)
    held_out = [row for row in SAMPLES if row["split"] == "test"]
    others = {
        row["sample_id"]: [item for item in range(ITEMS) if item != row["target_item"]][: CANDIDATES - 1]
        for row in held_out
    }
    write_rows(schema.CANDIDATES, dataset / "samples", list(others.items()))
    files = []
    for name, (kind, ranks) in RANKS.items():
        asked = [row for row in held_out if row["sample_id"] in ranks]
        rows = [
            (row["task"], "test", number, row["user_id"], row["target_item"], ranks[number], CANDIDATES)
            for row in asked
            for number in [row["sample_id"]]
        ]
        write_rows(schema.RANKS, dataset / "ranks", rows, name)
        # The other candidates in their order, and the target between them.
        scores = [
            (row["sample_id"], [0.5 - ranks[row["sample_id"]], *(-float(place) for place in range(1, CANDIDATES))])
            for row in asked
        ]
        write_rows(schema.SCORES, dataset / "ranks", scores, f"{name}.scores")
        (dataset / "models" / name).mkdir(parents=True)
        record = {"settings": {"kind": kind} if kind else {"backbone": "causal"}}
        (dataset / "models" / name / "stage.json").write_text(json.dumps(record))
        files.append(dataset / "ranks" / f"{name}.parquet")
    metric_table(files, list(RANKS), folder / "tables" / "shop")
    (folder / "overview").mkdir()
    (folder / "overview" / "shop.html").write_text('<!DOCTYPE html><h1 id="part0">The page of the shop</h1>')
    return folder


def row_of(page, target):
    """The body of a target's table: its marks, and the entries of each list."""
    (body,) = re.findall(
        rf'<tbody data-hits="(\w+)">((?:(?!</tbody>).)*<td>{re.escape(target)}</td>.*?)</tbody>', page, re.DOTALL
    )
    lists = re.findall(r"<h4>(.*?)</h4><ol>(.*?)</ol>", body[1], re.DOTALL)
    return body[0], {name: re.findall(r"<li>(.*?)</li>", entries) for name, entries in lists}


def test_hits_and_misses_of_the_best_generator_stand_beside_sasrec_and_bm25(results):
    page = ranked_candidates(results / "shop")
    assert "Recommendation: made beside transformer and clicks" in page
    assert "Search: made beside words<" in page
    assert "made hits 2 of 3 test targets at 10; 1 that transformer misses, which hits 0 others; 0 that clicks" in page
    assert "misses, which hits 1 others. Shown are 3" in page
    marks, lists = row_of(page, "thing 5")
    assert marks == "hhh"
    first = [escape(EVIL), "i1", "thing 2", "thing 3"]
    assert lists["made"] == [*first, "thing 4"]
    assert lists["clicks"] == ["✔ thing 5", *first]
    assert lists["transformer"] == [first[0], "✔ thing 5", *first[1:]]
    assert lists["history, oldest first"] == [
        "clicked thing 3", f"searched {escape(EVIL)} of a query", f"found {escape(EVIL)}",
    ]  # fmt: skip
    assert row_of(page, "thing 6")[0] == "mmh"


def test_nothing_from_a_log_is_read_as_html(results, tmp_path):
    done = CliRunner().invoke(
        app, ["report", str(results), "--output", str(tmp_path / "r.html")], catch_exceptions=False
    )
    assert "Table: shop, Hits and misses: shop, Data set: shop" in done.stdout
    text = (tmp_path / "r.html").read_text()
    assert "<img" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "<b>bert" not in text
    assert not list(tmp_path.glob(".*"))


def test_a_data_set_without_scores_shows_its_tables_alone(results, tmp_path):
    shutil.copytree(results / "tables", tmp_path / "tables")
    (tmp_path / "shop" / "samples").mkdir(parents=True)
    assert write_report(tmp_path, tmp_path / "r.html") == ["Table: shop"]


def test_a_folder_without_tables_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"no metric table in tables/; build one, such as gensar run"):
        write_report(tmp_path, tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.long
@pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_sorts_filters_and_opens_in_a_browser(results, tmp_path, width):
    playwright = pytest.importorskip("playwright.sync_api")
    write_report(results, tmp_path / "report.html")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked, troubles = [], []
        page.on("request", lambda one: asked.append(one.url))
        page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto((tmp_path / "report.html").as_uri())
        # Bars of both tasks, of one metric at a time.
        page.locator(".js-plotly-plot .bars path").first.wait_for(state="attached")
        shown = page.evaluate("document.querySelector('.js-plotly-plot').data.filter(d => d.visible).map(d => d.name)")
        assert shown == ["NDCG@5", "NDCG@5"]

        table = page.locator("table").first
        head = table.locator("th", has_text="ndcg@10")
        head.press("Enter")
        values = [float(cell.split("*")[0]) for cell in table.locator("tbody td:nth-child(7)").all_inner_texts()]
        assert values == sorted(values, reverse=True)
        head.click()
        assert [float(c.split("*")[0]) for c in table.locator("tbody td:nth-child(7)").all_inner_texts()] == values[
            ::-1
        ]

        answers = page.locator(".answers").first
        targets = answers.locator("tbody:visible tr:first-child td:nth-child(2)")
        answers.locator("th", has_text="transformer").click()
        assert targets.all_inner_texts() == ["thing 5", "thing 6", "thing 7"]
        answers.locator("select").select_option("hit")
        assert targets.all_inner_texts() == ["thing 5", "thing 7"]
        answers.locator("select").select_option("lost")
        assert targets.all_inner_texts() == ["thing 6"]
        answers.locator("button").nth(1).press("Enter")
        assert answers.get_by_text("history, oldest first").nth(1).is_visible()
        answers.locator("select").select_option("")
        answers.locator("input").fill("THING 7")
        assert targets.all_inner_texts() == ["thing 7"]

        assert page.frame_locator("iframe").get_by_text("The page of the shop").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.title() == "GenSAR: report"
        assert not troubles
        assert {url.split(":")[0] for url in asked} <= {"file", "about", "data", "blob"}
        page.screenshot(path=tmp_path / "report.png", full_page=True)
        browser.close()

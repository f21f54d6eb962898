"""The pages that people read, opened in a real browser on a desktop and on a phone."""

import shutil

import pytest

from .conftest import PAGE

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.long, pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium")]

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
#: For each figure: its width, the height of its smallest text, and how many texts leave it.
MEASURE = """[...document.querySelectorAll('figure svg')].map(svg => {
    const all = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect()).filter(box => box.width);
    const outside = texts.filter(box => box.left < all.left - 2 || box.right > all.right + 2
        || box.top < all.top - 2 || box.bottom > all.bottom + 2);
    return {width: all.width, smallest: Math.min(...texts.map(box => box.height)), outside: outside.length};
})"""


@pytest.fixture(scope="module")
def pages(tiny_demo):
    """The demo's page, and the report of the run."""
    tiny_demo.run(PAGE, options=("--report", "report.html"))
    return tiny_demo.folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_of_a_data_set_fits_the_screen_and_can_be_read(pages, browser, screen):
    page = browser.new_page(viewport=screen)
    page.goto((pages / PAGE).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= screen["width"]
    titles = [heading.inner_text() for heading in page.query_selector_all("h2")]
    assert {"Data", "Leak audit", "Identifiers", "Training", "Table: demo", "Settings and versions"} <= set(titles)
    # Under every heading a paragraph says what is shown and how it was made.
    captions = page.evaluate("[...document.querySelectorAll('h2')].map(h => h.nextElementSibling.textContent)")
    assert all(len(caption) > 100 for caption in captions)
    figures = page.evaluate(MEASURE)
    assert len(figures) >= 3
    for figure in figures:
        assert figure["outside"] == 0
        assert figure["width"] <= screen["width"]
        # Pixels, to a browser's rounding.
        assert round(figure["smallest"], 2) >= (10 if screen == DESKTOP else 6)
    links = page.evaluate("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
    assert links
    assert len(page.screenshot(full_page=True)) > 20_000


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_report_leads_to_every_kind_of_result(pages, browser, screen):
    page = browser.new_page(viewport=screen)
    page.goto((pages / "report.html").as_uri())
    page.get_by_text("generative model that searches and recommends").first.wait_for(timeout=20_000)
    for category in ("Overview", "Tables", "Figures"):
        assert page.get_by_text(category, exact=True).first.is_visible()
    page.get_by_text("Tables", exact=True).first.click()
    page.get_by_text("overall", exact=True).first.wait_for(timeout=20_000)
    assert page.get_by_text("demo", exact=True).first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= screen["width"]
    assert len(page.screenshot()) > 5_000


def test_the_report_holds_its_captions(pages):
    report = (pages / "report.html").read_text()
    assert "paired t-test over targets" in report
    assert "Training curves" in report

"""The page, tried in a real browser by keyboard, on a desktop and on a phone."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from gensar_core.service.app import Service, create_app
from tests.support.dataset_folder import MODEL, write_dataset
from tests.support.shop import QUERIES, TEXTS

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.long, pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium")]

#: A title that would be a program, were it read as HTML.
EVIL = "Sheet music: <img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    texts = [*TEXTS[:3], EVIL, *TEXTS[4:]]
    dataset = write_dataset(tmp_path_factory.mktemp("run") / "demo", texts)
    service = Service.open(dataset, MODEL, beams=50, batch=8, most_waiting=64)
    server = uvicorn.Server(uvicorn.Config(create_app(service), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_one_searches_and_looks_around_by_keyboard(address: str, browser: Any, width: int, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked, troubles = [], []
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(address)
    page.get_by_text("gensar_demo, 5 items").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "user"
    page.keyboard.type("an")
    page.locator("#users option[value=anna]").wait_for(state="attached")
    page.keyboard.type("na")
    page.keyboard.press("Tab")
    page.get_by_text("5 things done by anna.").wait_for()
    # The latest first, but items found below their query.
    shown = [line.inner_text().split(maxsplit=1) for line in page.locator("#history li").all()]
    assert shown == [
        ["clicked", "(no title) i1"],
        ["searched", QUERIES[1]],
        ["found", EVIL],
        ["found", TEXTS[4]],
        ["clicked", TEXTS[2]],
    ]
    page.keyboard.type("oak piano")
    page.keyboard.press("Enter")
    page.get_by_text("5 items for “oak piano” to anna").wait_for()
    assert page.locator("#hits > li").count() == 5
    codes = {
        hit.locator(".soft").first.inner_text(): [code.inner_text() for code in hit.locator(".path .code").all()]
        for hit in page.locator("#hits > li").all()
    }
    assert codes["i0"] == ["M1_0", "M2_1", "S1_2", "S2_3"]
    titles = [title.inner_text() for title in page.locator("#hits .title").all()]
    assert sorted(titles) == sorted([*TEXTS[:1], "(no title)", TEXTS[2], EVIL, TEXTS[4]])
    # Down to item 0, open it, and see item 1 on its path.
    place = list(codes).index("i0")
    for _ in range(place + 1):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    opened = page.locator("#hits > li").nth(place)
    opened.get_by_text("Collaborative identifier").wait_for()
    assert opened.get_by_text("(no title) i1").count() == 2
    assert opened.get_by_text("1 other on this path").count() == 5
    for _ in range(place + 1):
        page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "query"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    page.get_by_role("button", name="Recommend").press("Enter")
    page.get_by_text("1 item recommended to anna").wait_for()
    page.locator("#user").fill("")
    page.get_by_role("button", name="Recommend").press("Enter")
    page.get_by_text("history: is empty").wait_for()
    assert page.title() == "GenSAR"
    assert all(url.startswith((address, "data:")) for url in asked)
    # The refused recommendation is the one line of the console.
    assert len(troubles) == 1
    page.goto(f"{address}/docs")
    page.get_by_text("POST /recommend").wait_for()
    assert page.get_by_text("POST /search").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width

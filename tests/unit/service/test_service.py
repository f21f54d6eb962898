"""The service answers as the model does, together what arrives together, and drops nothing when it reloads or stops."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from gensar_core.generator.live_questions import Hit, LiveQuestion
from gensar_core.generator.trained import TrainedGenerator
from gensar_core.service.app import Service, create_app
from gensar_core.service.requests import MAX_BODY
from tests.support.dataset_folder import ANNA, MODEL, write_dataset, write_model
from tests.support.shop import QUERIES, TEXTS


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("run") / "results" / "demo")


@pytest.fixture(scope="module")
def generator(dataset: Path) -> TrainedGenerator:
    return TrainedGenerator.load(dataset / "models" / MODEL, dataset / "corpora" / "demo")


Client = httpx.AsyncClient


@contextlib.asynccontextmanager
async def running(dataset: Path, client: str = "127.0.0.1", **options: Any) -> AsyncIterator[tuple[Client, Service]]:
    """A service that answers in this process."""
    settings = {"beams": 50, "batch": 32, "most_waiting": 64, "watch_seconds": 0.05, **options}
    service = Service.open(dataset, MODEL, **settings)
    app = create_app(service)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            yield http, service


def ask(dataset: Path, talk: Callable[[Client, Service], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Run a conversation with a service of its own."""

    async def whole() -> Any:
        async with running(dataset, **options) as (client, service):
            return await asyncio.wait_for(talk(client, service), 120)

    return asyncio.run(whole())


def post(dataset: Path, path: str, body: Any, **options: Any) -> httpx.Response:
    """The answer to one request."""

    async def talk(client: Client, _: Service) -> httpx.Response:
        return await client.post(path, json=body)

    return ask(dataset, talk, **options)


def items(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [hit["item"] for hit in response.json()["hits"]]


def names(hits: list[Hit]) -> list[str]:
    return [f"i{hit.item}" for hit in hits]


class Held:
    """Hold a model back until it is let go, to see what waits for it."""

    def __init__(self, service: Service) -> None:
        self.free, self.begun = threading.Event(), threading.Event()
        answer = service.model.generator.answer

        def held(*arguments: Any, **options: Any) -> Any:
            self.begun.set()
            assert self.free.wait(60)
            return answer(*arguments, **options)

        service.model.generator.answer = held  # type: ignore[method-assign]


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something to be so."""
    ends = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < ends
        await asyncio.sleep(0.01)


def test_it_answers_what_the_model_finds(dataset: Path, generator: TrainedGenerator) -> None:
    answer = post(dataset, "/search", {"query": "oak zither", "top": 3})
    hits = generator.search("oak zither", top=3)
    assert items(answer) == names(hits)
    rows = answer.json()["hits"]
    assert [row["score"] for row in rows] == pytest.approx([hit.score for hit in hits], abs=1e-3)
    assert [row["title"] for row in rows] == [TEXTS[hit.item] for hit in hits]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    # Search writes semantic identifiers, and recommendation collaborative ones.
    codes = {row["item"]: row["identifier"] for row in post(dataset, "/search", {"query": "piano"}).json()["hits"]}
    assert codes["i1"] == ["<M1_0>", "<M2_1>", "<S1_2>", "<S2_4>"]
    codes = {r["item"]: r["identifier"] for r in post(dataset, "/recommend", {"user": "bert"}).json()["hits"]}
    assert codes["i1"] == ["<M1_0>", "<M2_1>", "<R1_6>", "<R2_6>"]


def test_a_user_and_a_told_history_are_one(dataset: Path, generator: TrainedGenerator) -> None:
    told = [{"clicked": "i2"}, {"query": QUERIES[1]}, {"found": "i3"}, {"found": "#4"}, {"clicked": "i1"}]
    expected = names(generator.recommend(ANNA))
    for known in ({"user": "anna"}, {"user": "#0"}, {"history": told}):
        assert items(post(dataset, "/recommend", {**known, "again": True})) == expected
        assert items(post(dataset, "/recommend", known)) == ["i0"]
        assert items(post(dataset, "/search", {"query": "piano", **known})) == names(generator.search("piano", ANNA))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"only": ["i1", "i3", "none"]}, {"i1", "i3"}),
        ({"category": "Pianos"}, {"i0", "i3", "i4"}),
        ({"category": "Pianos", "only": ["i1", "i3"]}, {"i3"}),
        ({"excluded": ["i0", "#1"]}, {"i2", "i3", "i4"}),
        ({"excluded": ["i3"], "category": "Pianos"}, {"i0", "i4"}),
    ],
)
def test_what_may_be_returned_is_each_requests_own(dataset: Path, limits: dict[str, Any], expected: set[str]) -> None:
    async def talk(client: Client, _: Service) -> list[httpx.Response]:
        bodies = [{"query": "piano", **limits}, {"query": "piano"}]
        return await asyncio.gather(*(client.post("/search", json=body) for body in bodies))

    limited, free = ask(dataset, talk)
    assert set(items(limited)) == expected
    assert len(items(free)) == len(TEXTS)


def test_questions_that_arrive_together_are_answered_together(dataset: Path, generator: TrainedGenerator) -> None:
    queries = [f"piano {number}" for number in range(6)]

    async def talk(client: Client, service: Service) -> list[httpx.Response]:
        held = Held(service)
        first = asyncio.create_task(client.post("/search", json={"query": queries[0]}))
        await until(held.begun.is_set)
        rest = [asyncio.create_task(client.post("/search", json={"query": query})) for query in queries[1:]]
        await until(lambda: service.monitor.waiting() == 5)
        held.free.set()
        answers = [await task for task in (first, *rest)]
        metrics = (await client.get("/metrics")).text
        # One by itself, then four of the five that wait, then the last.
        assert 'gensar_batch_questions_bucket{le="1"} 2\n' in metrics
        assert 'gensar_batch_questions_bucket{le="4"} 3\n' in metrics
        assert "gensar_batch_questions_sum 6.0" in metrics
        return answers

    for query, answer in zip(queries, ask(dataset, talk, batch=4), strict=True):
        assert items(answer) == names(generator.search(query))


def test_a_full_queue_tells_when_to_come_back_and_a_stop_answers_what_waits(dataset: Path) -> None:
    waiting: list[asyncio.Task[httpx.Response]] = []

    async def talk(client: Client, service: Service) -> None:
        held = Held(service)
        waiting.append(asyncio.create_task(client.post("/search", json={"query": "piano"})))
        await until(held.begun.is_set)
        waiting.extend(asyncio.create_task(client.post("/search", json={"query": "piano"})) for _ in range(2))
        await until(lambda: service.monitor.waiting() == 2)
        refused = await client.post("/search", json={"query": "piano"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "too many questions wait" in refused.json()["error"]
        assert (await client.get("/health")).json() == {"status": "ok", "generator": MODEL, "items": 5}
        threading.Timer(0.3, held.free.set).start()

    async def whole() -> None:
        async with running(dataset, most_waiting=2) as (client, service):
            await talk(client, service)
            closing = service.queue.drain()
            await closing
            for task in waiting:
                assert items(await task)

    asyncio.run(whole())


def test_one_bad_question_fails_alone(dataset: Path) -> None:
    async def talk(_: Client, service: Service) -> list[Any]:
        generator = service.model.generator
        questions = [LiveQuestion(query="piano"), LiveQuestion(query=" "), LiveQuestion(ANNA)]
        asked = (service.queue.ask(question, generator) for question in questions)
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third = ask(dataset, talk)
    assert len(first) == len(third) == 5
    assert "holds no word" in str(second)


def test_a_new_model_is_served_without_a_dropped_request(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "demo")

    def found() -> list[str]:
        return names(TrainedGenerator.load(folder / "models" / MODEL, folder / "corpora" / "demo").search("piano"))

    async def talk(client: Client, service: Service) -> None:
        def search() -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.post("/search", json={"query": "piano"}))

        before, old = found(), service.model
        held = Held(service)
        waiting = [search()]
        await until(held.begun.is_set)
        waiting += [search() for _ in range(3)]
        await until(lambda: service.monitor.waiting() == 3)
        for seed in range(1, 50):
            write_model(folder, seed)
            if found() != before:
                break
        await until(lambda: service.model is not old and service.monitor.reloads["done"] >= 1)
        late = search()
        await until(lambda: service.monitor.waiting() == 4)
        held.free.set()
        assert [items(await task) for task in waiting] == [before] * 4
        assert items(await late) == found() != before
        # A model that does not load changes nothing.
        newest = service.model
        (folder / "models" / MODEL / "config.json").write_text("{")
        refused = await client.post("/reload")
        assert refused.status_code == 409
        assert "the model in use stays" in refused.json()["error"]
        assert service.model is newest
        assert items(await search()) == items(await late)
        write_model(folder, 0)
        assert (await client.post("/reload")).json() == {"status": "reloaded"}
        assert items(await search()) == before

    ask(folder, talk)


@pytest.mark.parametrize(("client", "headers"), [("10.0.0.7", {}), ("127.0.0.1", {"origin": "http://evil.example"})])
def test_reload_is_for_programs_on_this_machine(dataset: Path, client: str, headers: dict[str, str]) -> None:
    async def talk(http: Client, _: Service) -> httpx.Response:
        return await http.post("/reload", headers=headers)

    assert ask(dataset, talk, client=client).status_code == 403


def test_an_item_shows_its_path_and_what_stands_beside_it(dataset: Path) -> None:
    async def talk(client: Client, _: Service) -> Any:
        return (await client.get("/items/i0")).json(), (await client.get("/items/%234?beside=0")).json()

    first, second = ask(dataset, talk)
    assert first["title"] == TEXTS[0]
    assert first["categories"] == [["Music", "Pianos"]]
    # Of the five items' semantic codes, only those of item 1 begin as 0, 1, 2 do; it leaves at the last code.
    beside = {"item": "i1", "title": TEXTS[1]}
    assert first["identifiers"]["semantic"] == {
        "moved": False,
        "path": [
            {"code": "<M1_0>", "others": 1, "beside": []},
            {"code": "<M2_1>", "others": 1, "beside": []},
            {"code": "<S1_2>", "others": 1, "beside": [beside]},
            {"code": "<S2_3>", "others": 0, "beside": []},
        ],
    }
    path = first["identifiers"]["collaborative"]["path"]
    assert [code["beside"] for code in path] == [[], [beside], [], []]
    assert second["item"] == "i4"
    assert all(not code["beside"] for code in second["identifiers"]["semantic"]["path"])


def test_users_are_found_by_how_their_ids_begin(dataset: Path) -> None:
    async def talk(client: Client, _: Service) -> Any:
        asked = ["/users", "/users?prefix=b", "/users?prefix=.*", "/users?limit=1", "/users/anna"]
        return [(await client.get(path)).json() for path in asked]

    everyone, some, none, one, anna = ask(dataset, talk)
    assert (everyone, some, none, one) == (["anna", "bert"], ["bert"], [], ["anna"])
    assert anna["history"] == [
        {"clicked": "i2", "title": TEXTS[2]},
        {"query": QUERIES[1]},
        {"found": "i3", "title": TEXTS[3]},
        {"found": "i4", "title": TEXTS[4]},
        {"clicked": "i1", "title": TEXTS[1]},
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "sentence"),
    [
        ("POST", "/recommend", {}, 400, "history: is empty"),
        ("POST", "/recommend", {"user": "carl"}, 400, "user 'carl': there is none among the 2"),
        ("POST", "/recommend", {"user": "anna", "history": []}, 422, "give user or history, not both"),
        ("POST", "/recommend", {"history": [{"bought": "i1"}]}, 422, "history.0.bought"),
        ("POST", "/recommend", {"history": [{}]}, 422, "write one of clicked, query and found"),
        ("POST", "/recommend", {"history": [{"found": "i1"}]}, 400, "comes before any query"),
        ("POST", "/recommend", {"history": [{"clicked": "i1"}] * 501}, 422, "history: "),
        ("POST", "/search", {"query": "  "}, 422, "query: "),
        ("POST", "/search", {"query": "w" * 501}, 422, "query: "),
        ("POST", "/search", {"query": "piano", "top": 51}, 422, "top: "),
        ("POST", "/search", {"query": "piano", "top": 0}, 422, "top: "),
        ("POST", "/search", {"query": "piano", "only": ["none"]}, 400, "no item is left"),
        ("POST", "/search", {"query": "piano", "excluded": ["../../etc/passwd"]}, 400, "item '../../etc/passwd'"),
        ("POST", "/search", {"query": "piano", "beams": 3}, 422, "beams: "),
        ("POST", "/search", [1], 422, ""),
        ("GET", "/items/../secret", None, 404, ""),
        ("GET", "/items/i9", None, 404, "item 'i9': there is none among the 5"),
        ("GET", "/users/carl", None, 404, "user 'carl'"),
        ("GET", "/nowhere", None, 404, "Not Found"),
        ("GET", "/search", None, 405, "Method Not Allowed"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    dataset: Path, method: str, path: str, body: Any, code: int, sentence: str
) -> None:
    async def talk(client: Client, _: Service) -> httpx.Response:
        return await client.request(method, path, json=body)

    answer = ask(dataset, talk)
    assert answer.status_code == code
    assert set(answer.json()) == {"error"}
    assert sentence in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_not_read(dataset: Path, chunked: bool) -> None:
    read = 0

    async def talk(client: Client, _: Service) -> httpx.Response:
        async def chunks() -> AsyncIterator[bytes]:
            nonlocal read
            for _ in range(100):
                read += MAX_BODY // 4
                yield b" " * (MAX_BODY // 4)

        content = chunks() if chunked else b" " * (MAX_BODY + 1)
        return await client.post("/search", content=content, headers={"content-type": "application/json"})

    answer = ask(dataset, talk)
    assert answer.status_code == 413
    assert "larger than 1,048,576 bytes" in answer.json()["error"]
    assert read <= 2 * MAX_BODY


def test_a_failure_is_told_without_its_inside(dataset: Path) -> None:
    async def talk(client: Client, service: Service) -> Any:
        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("secret inside")

        service.model.generator.answer = broken  # type: ignore[method-assign]
        failed = await client.post("/search", json={"query": "piano"})
        return failed, (await client.get("/metrics")).text

    answer, metrics = ask(dataset, talk)
    assert answer.status_code == 500
    assert answer.json() == {"error": "the service failed; its log tells why"}
    assert 'gensar_requests_total{path="/search",code="500"} 1\n' in metrics


def test_metrics_count_routes_and_never_hold_a_requests_text(dataset: Path) -> None:
    async def talk(client: Client, _: Service) -> str:
        for path in ("/items/i1", "/items/i9", '/items/x"} 1', "/nowhere/evil"):
            await client.get(path)
        await client.post("/search", json={"query": "piano"})
        return (await client.get("/metrics")).text

    text = ask(dataset, talk)
    values = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = re.fullmatch(r"(\w+(?:\{(?:\w+=\"[^\"]*\",?)*\})?) ([\d.e+-]+)", line).groups()  # type: ignore[union-attr]
            values[name] = float(value)
    assert values['gensar_requests_total{path="/items/{name:path}",code="200"}'] == 1
    assert values['gensar_requests_total{path="/items/{name:path}",code="404"}'] == 2
    assert values['gensar_requests_total{path="other",code="404"}'] == 1
    buckets = [value for name, value in values.items() if name.startswith('gensar_request_seconds_bucket{path="/items')]
    assert buckets == sorted(buckets)
    assert buckets[-1] == values['gensar_request_seconds_count{path="/items/{name:path}"}'] == 3
    assert values["gensar_questions_waiting"] == 0
    assert "evil" not in text


def test_pages_load_nothing_from_elsewhere_and_the_reference_names_every_route(dataset: Path) -> None:
    async def talk(client: Client, _: Service) -> Any:
        pages = [await client.get(path) for path in ("/", "/docs")]
        return pages, (await client.get("/openapi.json")).json()

    pages, reference = ask(dataset, talk)
    for page in pages:
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert not re.search(r"(?:src|href)=\"(?!/|data:,)", page.text)
        assert "://" not in page.text
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", page.text)
    assert {"/recommend", "/search", "/items/{name}", "/health", "/metrics", "/reload"} <= set(reference["paths"])

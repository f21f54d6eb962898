"""Serve a trained model over HTTP: questions, items, a page to try it, health and metrics."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gensar_core import __version__
from gensar_core.errors import UserError
from gensar_core.runtime.progress import say
from gensar_core.service.model import ServedModel
from gensar_core.service.monitoring import Monitor
from gensar_core.service.queue import Busy, QuestionQueue
from gensar_core.service.requests import (
    MAX_BODY,
    AnswerBody,
    ErrorBody,
    ItemBody,
    QuestionBody,
    RecommendBody,
    SearchBody,
    UserBody,
)

_LOCAL = {"127.0.0.1", "::1"}


@dataclass
class Service:
    """Hold the model that is served now, and what answers questions to it."""

    dataset: Path
    name: str | None
    model: ServedModel
    queue: QuestionQueue
    monitor: Monitor
    #: Seconds between looks at the model's folder.
    watch_seconds: float
    _stamp: tuple[tuple[int, int] | None, ...] | None = None
    _reloading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def open(
        cls, dataset: Path, name: str | None, *, beams: int, batch: int, most_waiting: int, watch_seconds: float = 2.0
    ) -> Service:
        """Load a generator. Raises UserError when it cannot be served."""
        monitor = Monitor()
        model = ServedModel.load(dataset, name)
        queue = QuestionQueue(batch, most_waiting, beams, monitor)
        service = cls(dataset, name, model, queue, monitor, watch_seconds)
        service._stamp = service._stamp_now()
        return service

    async def answer(self, body: QuestionBody) -> dict[str, Any]:
        """Answer a request; a reload meanwhile does not touch it."""
        model = self.model
        # A thread would scatter questions that arrive together over several batches.
        question = model.question(body)
        hits = await self.queue.ask(question, model.generator)
        return {"hits": model.rows(question, hits[: body.top])}

    async def reload(self) -> None:
        """Load the model anew beside the one in use, then change over. A model that does not load changes nothing."""
        async with self._reloading:
            stamp = self._stamp_now()
            try:
                self.model = await asyncio.to_thread(ServedModel.load, self.dataset, self.name)
            except Exception as error:
                self.monitor.reload(done=False)
                say(f"reload: the model in use stays: {error}")
                raise
            finally:
                self._stamp = stamp
            self.monitor.reload(done=True)
            say(f"reload: {self.model.name} is served anew")

    async def watch(self) -> None:
        """Reload whenever the record of the model, or of the items added to it, changes: a stage writes it last."""
        while True:
            await asyncio.sleep(self.watch_seconds)
            stamp = self._stamp_now()
            if stamp is not None and stamp != self._stamp:
                await _quietly(self.reload())

    def _stamp_now(self) -> tuple[tuple[int, int] | None, ...] | None:
        model, *added = (_stamp(record) for record in self.model.records)
        return None if model is None else (model, *added)


def _stamp(record: Path) -> tuple[int, int] | None:
    """Tell one state of a file from another; None when there is none."""
    try:
        state = record.stat()
    except FileNotFoundError:
        return None
    return state.st_mtime_ns, state.st_ino


async def _quietly(reload: Awaitable[None]) -> None:
    """Await a reload whose failure has been told."""
    with contextlib.suppress(Exception):
        await reload


class Guard:
    """Limit the size of bodies, count requests, and keep browsers from guessing types."""

    def __init__(self, app: ASGIApp, monitor: Monitor) -> None:
        self._app, self._monitor = app, monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, code, read = time.perf_counter(), 500, 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY:
                raise StarletteHTTPException(413, f"the body is larger than {MAX_BODY:,} bytes")
            return message

        async def counted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self._app(scope, limited, counted)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._monitor.request(path, code, time.perf_counter() - started)


def create_app(service: Service) -> FastAPI:
    """Build the application around a service."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(service.queue.work()), asyncio.create_task(service.watch())]
        reloads: set[asyncio.Task[None]] = set()

        def hang_up() -> None:
            task = asyncio.create_task(_quietly(service.reload()))
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
        yield
        await service.queue.drain()
        for task in tasks:
            task.cancel()

    app = FastAPI(
        title="GenSAR",
        version=__version__,
        summary=f"Search and recommendation by the generator {service.model.name}.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={"4XX": {"model": ErrorBody}, 503: {"model": ErrorBody}},
    )
    app.add_middleware(Guard, monitor=service.monitor)
    _add_errors(app)
    _add_questions(app, service)
    _add_state(app, service)
    for path, file in (("/", "page.html"), ("/docs", "reference.html")):
        _add_page(app, path, file)
    return app


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/recommend", response_model=AnswerBody)
    async def recommend(body: RecommendBody) -> dict[str, Any]:
        """Recommend items to a user or after a history."""
        return await service.answer(body)

    @app.post("/search", response_model=AnswerBody)
    async def search(body: SearchBody) -> dict[str, Any]:
        """Search for items, in the light of a user or a history if there is one."""
        return await service.answer(body)

    @app.get("/items/{name:path}", response_model=ItemBody)
    def item(name: str, beside: Annotated[int, Query(ge=0, le=20)] = 5) -> dict[str, Any]:
        """Describe an item and its identifiers, with some of the items under each prefix."""
        with _not_found():
            return service.model.item(name, beside)

    @app.get("/users", response_model=list[str])
    def users(
        prefix: Annotated[str, Query(max_length=200)] = "", limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> list[str]:
        """List the raw ids of users that begin with a prefix."""
        return service.model.users(prefix, limit)

    @app.get("/users/{name:path}", response_model=UserBody)
    def user(name: str) -> dict[str, Any]:
        """Tell a user's history, oldest first."""
        with _not_found():
            return {"user": name, "history": service.model.history(name)}


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> dict[str, str | int]:
        """Tell that questions are answered, and by which model."""
        model = service.model
        return {"status": "ok", "generator": model.name, "items": len(model.shop.items)}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Tell all counts in the text format of Prometheus."""
        return PlainTextResponse(service.monitor.text(), media_type="text/plain; version=0.0.4")

    @app.post("/reload")
    async def reload(request: Request) -> dict[str, str]:
        """Load the model's folder anew; only from this machine, and not from a web page."""
        if request.client is None or request.client.host not in _LOCAL or "origin" in request.headers:
            raise HTTPException(403, "reload is for programs on the machine that serves")
        try:
            await service.reload()
        except UserError as error:
            raise HTTPException(409, f"the model in use stays: {error}") from error
        return {"status": "reloaded"}


def _add_page(app: FastAPI, path: str, file: str) -> None:
    page = files("gensar_core.service").joinpath(file).read_text(encoding="utf-8")
    # The browser runs and paints this file's own script and style alone, whatever a title may hold.
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash_of('script', page)}",
            f"style-src {_hash_of('style', page)}",
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ]
    )

    @app.get(path, include_in_schema=False, response_class=HTMLResponse)
    async def show() -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})


def _hash_of(tag: str, page: str) -> str:
    inside = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    assert inside is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()}'"


@contextlib.contextmanager
def _not_found() -> Any:
    try:
        yield
    except UserError as error:
        raise HTTPException(404, str(error)) from error


def _add_errors(app: FastAPI) -> None:
    """Answer every error as JSON with one sentence."""

    def error(code: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, code, headers)

    @app.exception_handler(StarletteHTTPException)
    async def http(_: Request, raised: StarletteHTTPException) -> JSONResponse:
        return error(raised.status_code, str(raised.detail), dict(raised.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, raised: RequestValidationError) -> JSONResponse:
        first = raised.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return error(422, ": ".join(filter(None, [place, first["msg"].removeprefix("Value error, ")])))

    @app.exception_handler(UserError)
    async def wrong(_: Request, raised: UserError) -> JSONResponse:
        return error(400, str(raised))

    @app.exception_handler(Busy)
    async def busy(_: Request, raised: Busy) -> JSONResponse:
        return error(503, str(raised), {"retry-after": str(raised.seconds)})

    @app.exception_handler(Exception)
    async def failed(_: Request, _raised: Exception) -> JSONResponse:
        return error(500, "the service failed; its log tells why")

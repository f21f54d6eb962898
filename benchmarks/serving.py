"""Compare a service that answers waiting questions together with one that answers them one at a time.

`python benchmarks/serving.py` builds a shop of 12,101 items (Beauty's number) with random identifiers, and models with
random weights: T5 of the paper's size and of a laptop's, and the causal model over user logs. Services hold the
same model; one takes up to 32 waiting questions at a time, the others one. Clients ask over the whole application, but
for the network: 1, 8 and 32 at once, each with its next question when it has the answer, searches and recommendations
in turn. The services alternate, and the fastest round of each counts. One question at a time is asked on all cores and
on one, and the faster of the two counts. The processor time of a request is told as well, which other programs of a
machine disturb less.

    --quick    2,000 items, the small models, 8 clients at once
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from _generator import SIZES
from _measure import claim, report
from _shop import CORPUS, SEED, write_identifiers
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from gensar_core import schema
from gensar_core.config.datasets import SampleSettings
from gensar_core.config.generators import TrainingSettings
from gensar_core.corpora.build import build_corpus
from gensar_core.generator.one_pass import one_pass_task
from gensar_core.runtime.stage import digest
from gensar_core.samples.build import build_samples
from gensar_core.service.app import Service, create_app

ITEMS, USERS, QUERIES, CLICKS = 12_101, 400, 500, 20
TOGETHER, BEAMS = 32, 50
MODELS = ("causal", "small", "t5_small")
CLIENTS = (1, 8, 32)
#: Number of questions that each way answers at a time, and of cores it uses (None: all). A small model answers a single
#: question faster on one core; batches are compared with the faster way of answering one at a time.
WAYS = {"together": (TOGETHER, None), "one_by_one": (1, None), "one_by_one_on_one_core": (1, 1)}
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("a", "e", "io", "u") for c in "dklmnrst"]
#: Rounds of each service, and requests of a round: at least so many in all and for each client.
ROUNDS, REQUESTS, REQUESTS_EACH = 2, 32, 4


def main() -> None:
    """Run the benchmark and print its claims."""
    parser = argparse.ArgumentParser(description="questions together against one at a time")
    parser.add_argument("--quick", action="store_true", help="a smoke size")
    quick = parser.parse_args().quick
    claims = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder) / "results" / "shop", 2_000 if quick else ITEMS)
        for model in ("causal", "small") if quick else MODELS:
            write_model(dataset, model)
            for clients in (8,) if quick else CLIENTS:
                rounds, requests = (1, 2) if quick else (ROUNDS, max(REQUESTS // clients, REQUESTS_EACH))
                claims += asyncio.run(compare(dataset, model, clients, rounds, requests))
    report("serving", claims)


def write_dataset(folder: Path, n_items: int) -> Path:
    """Write a shop with users who search and click at random, its samples, identifiers and corpus."""
    draw = np.random.default_rng(SEED)
    titles = [" ".join(row) for row in draw.choice(WORDS, (n_items, 6))]
    queries = sorted({" ".join(row) for row in draw.choice(WORDS, (QUERIES, 2))})
    rows: list[tuple[schema.Table, list[tuple[Any, ...]]]] = [
        (schema.ITEMS, [(i, f"item{i}", title, "", "", [["Shop"]], title) for i, title in enumerate(titles)]),
        (schema.USERS, [(user, f"user{user}") for user in range(USERS)]),
        (schema.QUERIES, list(enumerate(queries))),
        (schema.EVENTS, _events(draw, n_items, len(queries))),
    ]
    canonical = folder / "canonical"
    canonical.mkdir(parents=True)
    for table, content in rows:
        table.write(pl.DataFrame(content, schema=table.schema, orient="row"), canonical / f"{table.name}.parquet")
    build_samples(canonical, folder / "samples", SampleSettings(), SEED)
    identifiers = folder / "identifiers" / "random"
    write_identifiers(identifiers, n_items)
    build_corpus(canonical, folder / "samples", identifiers, folder / "corpora" / "shop", CORPUS, SEED)
    return folder


def _events(draw: np.random.Generator, n_items: int, n_queries: int) -> list[tuple[Any, ...]]:
    """Draw each user's clicks, every second one after a query."""
    events: list[tuple[Any, ...]] = []
    for user in range(USERS):
        for moment, item in enumerate(draw.integers(0, n_items, CLICKS).tolist()):
            number = len(events)
            searched = moment % 2 == 1
            query, session = (int(draw.integers(n_queries)), number) if searched else (None, None)
            events.append((number, user, moment, "search" if searched else "rec", item, query, session))
    return events


def write_model(dataset: Path, name: str) -> None:
    """Write a generator with random weights, its tokenizer and its record."""
    corpus, model = dataset / "corpora" / "shop", dataset / "models" / name
    model.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    if name == "causal":
        settings = TrainingSettings(backbone="causal", likelihood="catalogue")
        one_pass_task(corpus, dataset / "samples", settings, SEED).save(model)
    else:
        shape = {key: value for key, value in SIZES[name].items() if key != "words"}
        torch.manual_seed(SEED)
        config = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **shape)
        T5ForConditionalGeneration(config).save_pretrained(model)
    tokenizer.save_pretrained(model)
    items = corpus / "item_tokens.parquet"
    (model / "stage.json").write_text(json.dumps({"inputs": {str(items): digest(items)}}), encoding="utf-8")


class Round(NamedTuple):
    """Time of a round of requests: seconds and processor seconds of all, and the seconds of each."""

    seconds: float
    cpu_seconds: float
    latency: np.ndarray

    def claims(self, ending: str, how: str) -> list[dict[str, Any]]:
        """Return requests a second and latencies."""
        rate, latency = len(self.latency) / self.seconds, 1000 * np.quantile(self.latency, [0.5, 0.99])
        return [
            claim(f"requests_per_second_{ending}", rate, "requests/s", how),
            claim(f"p50_{ending}", latency[0], "ms", how),
            claim(f"p99_{ending}", latency[1], "ms", how),
        ]


async def compare(dataset: Path, name: str, clients: int, rounds: int, requests: int) -> list[dict[str, Any]]:
    """Measure the services with so many clients at once."""
    n_items = len(schema.ITEMS.read(dataset / "canonical" / "items.parquet"))
    best: dict[str, Round] = {}
    answers: dict[str, list[Any]] = {}
    async with contextlib.AsyncExitStack() as stack:
        services = {}
        for way, (batch, _) in WAYS.items():
            services[way] = create_app(Service.open(dataset, name, beams=BEAMS, batch=batch, most_waiting=1000))
            await stack.enter_async_context(services[way].router.lifespan_context(services[way]))
        for number in range(rounds + 1):
            for way, app in services.items():
                # The first round warms up; in it, the service's thread takes over how many cores it may use.
                with cores(WAYS[way][1]):
                    cpu, began = time.process_time(), time.perf_counter()
                    latency, answers[way] = await ask_round(app, clients, requests if number else 1)
                    took = Round(time.perf_counter() - began, time.process_time() - cpu, latency)
                if number and (way not in best or took.seconds < best[way].seconds):
                    best[way] = took
    same = np.mean([ours == alone for ours, alone in zip(answers["together"], answers["one_by_one"], strict=True)])
    # Scores of random weights may tie within rounding.
    if same < 0.9:
        raise SystemExit(f"{name}: questions together find other items than one at a time")
    together = best.pop("together")
    way, alone = min(best.items(), key=lambda entry: entry[1].seconds)
    how = f"{clients} at once, {n_items} items, {BEAMS} beams, {name}, {torch.get_num_threads()} threads, CPU"
    rates = [round.latency.size / round.seconds for round in (together, alone)]
    cpu = [1000 * round.cpu_seconds / round.latency.size for round in (together, alone)]
    print(
        f"{name}, {clients} at once: {rates[0]:.3g} requests/s, {way} {rates[1]:.3g}; "
        f"CPU ms each {cpu[0]:.3g}, {cpu[1]:.3g}",
        flush=True,
    )
    ratio = f"together / {way}, {how}"
    return [
        claim(f"work_{name}_{clients}", alone.cpu_seconds / together.cpu_seconds, "times", f"CPU seconds: {ratio}"),
        claim(f"speedup_{name}_{clients}", alone.seconds / together.seconds, "times", f"requests/s: {ratio}"),
        *together.claims(f"together_{name}_{clients}", how),
        *alone.claims(f"one_by_one_{name}_{clients}", f"{way}, {how}"),
    ]


@contextlib.contextmanager
def cores(most: int | None) -> Iterator[None]:
    """Give torch at most so many cores (None: all) in threads that compute for the first time."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(most or before, before))
    yield
    torch.set_num_threads(before)


async def ask(app: Any, path: str, body: dict[str, Any]) -> Any:
    """Ask the application as its server does (ASGI), since a client's own work would count as the service's."""
    content, told = json.dumps(body).encode(), bytearray()
    headers = {b"host": b"shop", b"content-type": b"application/json", b"content-length": b"%d" % len(content)}
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "client": None}
    scope |= {
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [*headers.items()],
    }
    requests = iter([{"type": "http.request", "body": content}])

    async def receive() -> Any:
        return next(requests, None) or await asyncio.Future()

    async def send(message: dict[str, Any]) -> None:
        told.extend(message.get("body", b""))

    await app(scope, receive, send)
    return json.loads(told)


async def ask_round(app: Any, clients: int, requests: int) -> tuple[np.ndarray, list[list[str]]]:
    """Return the seconds of every request, and the first items of each answer, in the order of clients."""

    async def talk(number: int) -> list[tuple[float, list[str]]]:
        answers = []
        for turn in range(requests):
            body = {"user": f"user{(number * requests + turn) % USERS}"}
            path, more = ("/search", {"query": f"{WORDS[number]} {WORDS[turn]}"}) if turn % 2 else ("/recommend", {})
            started = time.perf_counter()
            hits = (await ask(app, path, body | more))["hits"]
            answers.append((time.perf_counter() - started, [hit["item"] for hit in hits[:3]]))
        return answers

    told = [answer for answers in await asyncio.gather(*map(talk, range(clients))) for answer in answers]
    return np.array([seconds for seconds, _ in told]), [items for _, items in told]


if __name__ == "__main__":
    main()

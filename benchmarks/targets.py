"""Measure the memory and the CPU time of all stages that read or write a row for each ranked target.

`python benchmarks/targets.py` writes the tables of a million targets, half of them valid, half test, and runs each
stage in a process of its own: a ranking by a generator that scores at no cost, its gathering, a fusion of five parts
and popularity, a table of six rows, a table of cold items, the data set's statistics, the method `popularity` fitted
and ranked, full rankings by that method and by a search at no cost, fits that count clicks (ItemKNN, the counts of
EASE, query frequency), and one step of training on a target for each event (SASRec) and on a train sample for each
target (QEM, CoPPS, dense retrieval). The peak counts what the process holds, not what the system keeps of mapped files
and gives back when others need memory.

    --quick             a smoke size
    --targets 1000000   ranked targets
    --candidates 100    candidates of each
    --stages NAME ...   some of the stages, in their order
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _calm  # noqa: F401
import numpy as np
import polars as pl
from _measure import Peak, claim, options, report, run_child

from gensar_core import schema
from gensar_core.baselines.interface import MethodData, find
from gensar_core.baselines.methods.ease import users_in_common
from gensar_core.baselines.methods.popularity import PopularitySettings
from gensar_core.baselines.run import fit_and_rank, rank_catalogue_by_method
from gensar_core.config.datasets import FullRankingSettings
from gensar_core.config.fusions import WeightSettings
from gensar_core.config.generators import RankingSettings, RetrievalSettings
from gensar_core.corpora.read import load_prompts
from gensar_core.evaluation.cold_items import cold_table
from gensar_core.evaluation.statistics import data_statistics
from gensar_core.evaluation.tables import metric_table
from gensar_core.generator import rank
from gensar_core.generator.beam_search import RetrievedItems
from gensar_core.ranking.fusion import fuse
from gensar_core.ranking.parts import gather_rankings
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.reading import table_parts
from gensar_core.runtime.tensors import save_vectors
from gensar_core.runtime.writing import TableWriter
from gensar_core.samples.user_clicks import UserClicks

ITEMS, QUERIES, HISTORY, PROMPT, PARTS, ROWS = 12_101, 1_000, 10, 20, 5, 6
CHUNK = 1 << 16


def main() -> None:
    """Run the benchmark and print its claims."""
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), sys.argv[3])
        return
    parser = options("memory and CPU time of the stages that read or write a row for each target")
    parser.add_argument("--targets", type=int, default=1_000_000, help="ranked targets")
    parser.add_argument("--candidates", type=int, default=100, help="candidates of each")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="some of the stages")
    arguments = parser.parse_args()
    targets = 2_000 if arguments.quick else arguments.targets
    claims = []
    with tempfile.TemporaryDirectory(prefix="gensar-targets-", dir=".") as scratch:
        run_child(Path(__file__), "--measure", scratch, f"write:{targets}:{arguments.candidates}")
        for stage in arguments.stages:
            found = run_child(Path(__file__), "--measure", scratch, stage).result()
            print(f"{stage}: {found['gb']:.3f} GB, {found['seconds']:.1f} CPU s", file=sys.stderr, flush=True)
            how = f"{targets:,} ranked targets of {arguments.candidates} candidates"
            claims.append(claim(f"peak_gb_{stage}", found["gb"], "GB", how))
            claims.append(claim(f"seconds_{stage}", found["seconds"], "s", f"{how}; CPU seconds"))
    report("targets", claims)


def measure(folder: Path, stage: str) -> None:
    """Run one stage on the tables in ``folder``, or write these, and print its CPU seconds and peak."""
    name, *sizes = stage.split(":")
    peak, started = Peak(), time.process_time()
    if name == "write":
        write(folder, *map(int, sizes))
    else:
        STAGES[name](folder)
    print(json.dumps({"gb": peak.stop(), "seconds": time.process_time() - started}))


class FreeGenerator:
    """Score candidates at no cost, after prompts that are read as any other generator's."""

    precision = "float32"
    items = dict.fromkeys(schema.TASKS, range(ITEMS))

    def __init__(self, corpus: Path) -> None:
        self._corpus = corpus

    def asked(self) -> Any:
        """Load the prompts."""
        return load_prompts(self._corpus, ITEMS)

    def score(self, rows: Ragged, items: np.ndarray, *_: Any, **__: Any) -> np.ndarray:
        """Score by numbers that depend on prompt and item alone."""
        return ((items.astype(np.int64) + rows.values[rows.offsets[:-1], None]) * 7919 % 1009).astype(np.float32)

    def retrieve(self, rows: Ragged, *_: Any, beams: int, **__: Any) -> RetrievedItems:
        """Find the items that follow a prompt's first token, whatever is excluded."""
        items = (rows.values[rows.offsets[:-1], None] + np.arange(beams)) % ITEMS
        return RetrievedItems(items, np.tile(-np.arange(beams, dtype=np.float32), (len(items), 1)))


def _free_generator(folder: Path) -> None:
    rank.load_generator = lambda *_: FreeGenerator(folder)  # type: ignore[assignment]
    rank.prompted_tasks = lambda _: list(schema.TASKS)  # type: ignore[assignment]
    rank._inputs = lambda *_: []  # type: ignore[assignment]


def _rank(folder: Path) -> None:
    _free_generator(folder)
    rank.rank_candidates(folder, folder, folder, folder / "ranks", "free", RankingSettings())


def _full_rank(folder: Path) -> None:
    _free_generator(folder)
    (folder / "trie.safetensors").touch()
    settings, protocol = RetrievalSettings(beams=20), FullRankingSettings(unseen=True)
    rank.rank_catalogue(folder, folder, folder, folder / "full", "free", settings, protocol)


def _method(folder: Path) -> None:
    fit_and_rank("m", "popularity", {}, folder, folder, None, folder / "model", folder / "ranks", 1, None)


def _full_rank_method(folder: Path) -> None:
    data = folder, folder, None
    method = find("popularity")(PopularitySettings(), MethodData(*data), 1)
    method.fit(None, "")
    (folder / "fitted").mkdir()
    method.save(folder / "fitted")
    protocol = FullRankingSettings(unseen=True)
    rank_catalogue_by_method("m", "popularity", {}, *data, folder / "fitted", folder / "full", 1, protocol)


def _fit(kind: str, **changes: Any) -> Callable[[Path], None]:
    def fit(folder: Path) -> None:
        settings = find(kind).settings_model(**changes)
        method = find(kind)(settings, MethodData(folder, folder), 1)
        method.fit(None, "")
        (folder / kind).mkdir()
        method.save(folder / kind)

    return fit


def _ease_counts(folder: Path) -> None:
    # Without the inverse, whose cost has nothing to do with clicks.
    users_in_common(UserClicks.read(folder / "training_events.parquet", "rec").items, ITEMS)


def _train(kind: str, **changes: Any) -> Callable[[Path], None]:
    def step(folder: Path) -> None:
        # Its own folder, where valid targets are train targets but for a few.
        training = folder / kind
        training.mkdir()
        os.link(folder / "training_events.parquet", training / "training_events.parquet")
        os.link(folder / "candidates.parquet", training / "candidates.parquet")
        with TableWriter(schema.SAMPLES, training / "samples.parquet") as samples:
            for part in table_parts(folder / "samples.parquet", schema.SAMPLES):
                trained = (pl.col("split") == "test") | (pl.col("user_id") >= CHUNK)
                samples.write(part.with_columns(split=pl.when(trained).then(pl.lit("train")).otherwise("split")))
        negatives, embedding = training / "training_negatives.parquet", training / "vectors.safetensors"
        schema.TRAINING_NEGATIVES.write(schema.TRAINING_NEGATIVES.empty(), negatives)
        draw = np.random.default_rng(1)
        save_vectors({"items": draw.normal(size=(ITEMS, 8)), "queries": draw.normal(size=(QUERIES, 8))}, embedding)
        settings = find(kind).settings_model(**changes)
        method = find(kind)(settings, MethodData(folder, training, embedding, negatives), 1)
        task = method.training()
        task.backward(next(task.batches(0)))

    return step


def _gather(folder: Path) -> None:
    gather_rankings([folder / "ranks/free.parquet"], folder / "ranks", "gathered")


def _fuse(folder: Path) -> None:
    parts = {str(number): folder / "ranks/free.scores.parquet" for number in range(PARTS)}
    fuse(parts, folder, folder / "ranks", "fused", WeightSettings(popularity=True))


def _table(folder: Path) -> None:
    metric_table(_rows(folder), [str(number) for number in range(ROWS)], folder / "table")


def _cold(folder: Path) -> None:
    names = [str(number) for number in range(ROWS)]
    cold_table(_rows(folder), names, folder / "training_events.parquet", folder / "cold", folder / "cold_figure")


def _statistics(folder: Path) -> None:
    data_statistics("targets", folder, folder, folder / "statistics", folder / "distributions")


STAGES: dict[str, Callable[[Path], None]] = {
    "rank_generator": _rank,
    "rank_generator_gather": _gather,
    "fuse": _fuse,
    "table": _table,
    "cold_table": _cold,
    "statistics": _statistics,
    "method": _method,
    "full_rank_method": _full_rank_method,
    "full_rank_generator": _full_rank,
    "fit_itemknn": _fit("itemknn", neighbors=20),
    "ease_counts": _ease_counts,
    "fit_query_frequency": _fit("query_frequency"),
    "train_sasrec": _train("sasrec"),
    "train_qem": _train("qem"),
    "train_copps": _train("copps"),
    "train_dense": _train("dense", train="head", distinct_pairs=True, spare_clicked=True),
}


def _rows(folder: Path) -> list[Path]:
    """Return the ranks files of the table's rows, half the ranking's and half the fusion's."""
    paths = []
    for number in range(ROWS):
        paths.append(folder / "ranks" / f"row{number}.parquet")
        if not paths[-1].exists():
            source = "free" if number % 2 else "fused"
            os.link(folder / "ranks" / f"{source}.parquet", paths[-1])
            os.link(folder / "ranks" / f"{source}.stage.json", paths[-1].with_suffix(".stage.json"))
    return paths


def write(folder: Path, targets: int, candidates: int) -> None:
    """Write the tables that the stages read; a user has one target of each task and split, and four events."""
    draw = np.random.default_rng(0)
    words = np.full((2, ITEMS), "word")
    numbers = {"item_id": range(ITEMS), "raw_id": [str(item) for item in range(ITEMS)]}
    texts = {"title": words[0], "description": "", "brand": "", "categories": [[]] * ITEMS, "text": words[1]}
    schema.ITEMS.write(pl.DataFrame({**numbers, **texts}), folder / "items.parquet")
    queries = {"query_id": range(QUERIES), "text": [f"query {number}" for number in range(QUERIES)]}
    schema.QUERIES.write(pl.DataFrame(queries), folder / "queries.parquet")
    users = np.arange(max(targets // 4, 1))
    schema.USERS.write(pl.DataFrame({"user_id": users, "raw_id": users.astype(str)}), folder / "users.parquet")
    with TableWriter(schema.EVENTS, folder / "events.parquet") as events:
        for number in _chunks(targets):
            events.write(_events(number, draw))
    os.link(folder / "events.parquet", folder / "training_events.parquet")
    with (
        TableWriter(schema.SAMPLES, folder / "samples.parquet") as samples,
        TableWriter(schema.CANDIDATES, folder / "candidates.parquet") as lists,
        TableWriter(schema.PROMPTS, folder / "prompts.parquet") as prompts,
    ):
        groups = [(task, split) for task in schema.TASKS for split in ("valid", "test")]
        for place, (task, split) in enumerate(groups):
            for users in _chunks(targets // len(groups)):
                ids = place * (targets // len(groups)) + users
                samples.write(_samples(task, split, ids, users, draw))
                negatives = draw.integers(ITEMS, size=(len(ids), candidates - 1), dtype=np.int32)
                lists.write(_lists(ids, "negatives", negatives))
                tokens = draw.integers(1, ITEMS, size=(len(ids), PROMPT), dtype=np.int32)
                prompts.write(_lists(ids, "input_ids", tokens))


def _chunks(count: int) -> Iterator[np.ndarray]:
    for start in range(0, count, CHUNK):
        yield np.arange(start, min(start + CHUNK, count))


def _events(number: np.ndarray, draw: np.random.Generator) -> pl.DataFrame:
    searched = number % 2 == 1
    query = pl.Series(np.where(searched, draw.integers(QUERIES, size=len(number)), -1)).replace(-1, None)
    session = pl.Series(np.where(searched, number, -1)).replace(-1, None)
    columns = {"event_id": number, "user_id": number // 4, "time": number % 4, "query_id": query, "session_id": session}
    task = pl.Series(np.where(searched, "search", "rec"))
    return pl.DataFrame({**columns, "task": task, "item_id": draw.integers(ITEMS, size=len(number))})


def _samples(task: str, split: str, ids: np.ndarray, users: np.ndarray, draw: np.random.Generator) -> pl.DataFrame:
    size = (len(ids), HISTORY)
    behavior = Ragged.from_lengths(np.full(len(ids), HISTORY), draw.integers(2, size=size).ravel())
    of_history = Ragged.from_lengths(np.full(len(ids), HISTORY), draw.integers(QUERIES, size=size).ravel())
    constant = pl.DataFrame(
        {"task": [task], "split": [split], "time": [9], "query_id": [0 if task == "search" else None]}
    )
    targets = {"sample_id": ids, "user_id": users, "event_id": ids, "target_item": draw.integers(ITEMS, size=len(ids))}
    return pl.DataFrame(
        {
            **targets,
            "history_behavior": behavior.to_series("history_behavior", pl.UInt8()),
            "history_object": of_history.to_series("history_object", pl.Int32()),
        }
    ).join(constant, how="cross")


def _lists(ids: np.ndarray, name: str, values: np.ndarray) -> pl.DataFrame:
    rows = Ragged.from_lengths(np.full(len(ids), values.shape[1]), values.ravel())
    return pl.DataFrame({"sample_id": ids, name: rows.to_series(name, pl.Int32())})


if __name__ == "__main__":
    sys.exit(main())

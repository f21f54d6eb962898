"""A small shop whose tables are written into a folder: each table alone, or all that one stage reads.

`write_corpus_inputs` writes the five items that are described here by hand, `write_shop` as many as the clicks need.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.baselines.interface import MethodData
from gensar_core.runtime.tensors import save_vectors

TEXTS = ["Upright piano, 88 keys", "", "USB-C cable (2 m)", "Sheet music: 20 easy pieces", "piano stool"]
QUERIES = ["digital piano", "music stand"]
SEMANTIC = [[0, 1, 2, 3], [0, 1, 2, 4], [5, 0, 0, 0], [3, 3, 3, 3], [1, 2, 3, 4]]
COLLABORATIVE = [[0, 1, 7, 7], [0, 1, 6, 6], [5, 0, 1, 1], [3, 3, 5, 5], [1, 2, 0, 0]]
LEVELS = {"semantic": ["M1", "M2", "S1", "S2"], "collaborative": ["M1", "M2", "R1", "R2"]}

#: Codes of behaviors: a recommended item, a searched query, a searched item.
R, Q, S = range(len(schema.BEHAVIORS))

N_USERS, N_ITEMS, N_QUERIES, N_NEGATIVES = 64, 40, 5, 20
#: Negatives that are stored for each train target.
N_STORED = 4


def sample(
    sample_id: int, task: str, split: str, item: int, query: int | None, history: list[tuple[int, int]]
) -> dict[str, Any]:
    """A row of the samples table; ``history`` lists (behavior, object)."""
    behaviors, objects = zip(*history, strict=True) if history else ((), ())
    values = (sample_id, task, split, sample_id % 3, 1000 + sample_id, sample_id, item, query, [*behaviors], [*objects])
    return dict(zip(schema.SAMPLES.columns, values, strict=True))


SAMPLES = [
    sample(0, "rec", "train", 4, None, [(R, 0), (Q, 0), (S, 3), (R, 2)]),
    sample(1, "rec", "valid", 3, None, [(Q, 1), (S, 3), (R, 1)]),
    sample(2, "rec", "test", 2, None, [(Q, 1), (S, 3), (S, 4), (R, 1)]),
    sample(3, "search", "train", 3, 1, [(R, 0), (Q, 0), (S, 3), (R, 2)]),
    sample(4, "search", "valid", 0, 0, [(R, 2), (Q, 1), (S, 3)]),
    sample(5, "search", "test", 4, 0, [(R, 2), (Q, 1), (S, 3), (R, 3)]),
]


def write_rows(table: schema.Table, folder: Path, rows: Any, name: str = "") -> None:
    """Write rows (tuples in the order of the columns, or dicts) as the table's Parquet file, or as the file ``name``."""
    folder.mkdir(parents=True, exist_ok=True)
    table.write(pl.DataFrame(rows, schema=table.schema, orient="row"), folder / f"{name or table.name}.parquet")


def write_items(folder: Path, texts: Sequence[str], categories: Sequence[Sequence[str]] = ()) -> None:
    """Write items i0, i1, ... whose titles are their texts."""
    paths = [list(path) for path in categories]
    write_rows(schema.ITEMS, folder, [(item, f"i{item}", text, "", "", paths, text) for item, text in enumerate(texts)])


def write_queries(folder: Path, texts: Sequence[str]) -> None:
    write_rows(schema.QUERIES, folder, list(enumerate(texts)))


def write_users(folder: Path, raw_ids: Sequence[str]) -> None:
    write_rows(schema.USERS, folder, list(enumerate(raw_ids)))


def write_events(folder: Path, events: Sequence[tuple[Any, ...]], name: str = "training_events") -> None:
    """Write events (user, time, task, item, query, session), numbered in their order."""
    write_rows(schema.EVENTS, folder, [(number, *event) for number, event in enumerate(events)], name)


def write_identifiers(
    folder: Path, semantic: list[list[int]], collaborative: list[list[int]], levels: dict[str, list[str]], codes: int
) -> None:
    """Write both identifiers of every item, and the vocabulary of ``codes`` codes a level."""
    sides = zip(semantic, collaborative, strict=True)
    rows = [(item, *codes, False, False, None, None) for item, codes in enumerate(sides)]
    write_rows(schema.IDENTIFIERS, folder, rows)
    vocabulary = {side: {"levels": names, "sizes": [codes] * len(names)} for side, names in levels.items()}
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))


def write_corpus_inputs(
    folder: Path,
    *,
    texts: list[str] = TEXTS,
    queries: list[str] = QUERIES,
    semantic: list[list[int]] = SEMANTIC,
    collaborative: list[list[int]] = COLLABORATIVE,
    samples: list[dict[str, Any]] = SAMPLES,
    codes: int = 8,
    levels: dict[str, list[str]] = LEVELS,
) -> Path:
    """Write all that the stage `corpus` reads into one folder; return it."""
    write_items(folder, texts)
    write_queries(folder, queries)
    write_identifiers(folder, semantic, collaborative, levels, codes)
    write_rows(schema.SAMPLES, folder, samples)
    for name, splits in (("events", schema.SPLITS), ("training_events", ("train",))):
        write_rows(schema.EVENTS, folder, _events_of([row for row in samples if row["split"] in splits]), name)
    return folder


def _events_of(samples: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The clicks that samples predict, in the order of users and events; each search is a session of its own."""
    rows = sorted(samples, key=lambda row: (row["user_id"], row["event_id"]))
    names = ("event_id", "user_id", "time", "task", "target_item", "query_id")
    return [(*(row[n] for n in names), None if row["query_id"] is None else row["event_id"]) for row in rows]


def write_shop(
    folder: Path,
    clicks: list[list[int]],
    n_items: int,
    *,
    histories: list[list[int]] | None = None,
    targets: list[int] | None = None,
    negatives: int = N_NEGATIVES,
    searching: bool = False,
) -> MethodData:
    """Write all that methods read: each user has these recommendation clicks, each followed by a search for its item.

    All of these are training events. Every user has a train, a valid and a test target of both tasks: the last click,
    after the clicks before it, unless ``histories`` and ``targets`` say otherwise. ``searching`` puts the search for
    each item into the histories too.
    """
    canonical, samples = folder / "canonical", folder / "samples"
    n_queries = min(N_QUERIES, n_items)
    histories = [user_clicks[:-1] for user_clicks in clicks] if histories is None else histories
    targets = [user_clicks[-1] for user_clicks in clicks] if targets is None else targets
    write_items(canonical, [f"item {item}" for item in range(n_items)], [["shop"]])
    write_queries(canonical, [f"query {query}" for query in range(n_queries)])
    write_users(canonical, [f"user {user}" for user in range(len(clicks))])

    visits = [(user, time, item) for user, user_clicks in enumerate(clicks) for time, item in enumerate(user_clicks)]
    events = [
        event
        for number, (user, time, item) in enumerate(visits)
        for event in (
            (user, time, "rec", item, None, None),
            (user, time, "search", item, item % n_queries, 2 * number + 1),
        )
    ]
    write_events(samples, events)

    shown = [searched_history(items, n_queries) if searching else clicked_history(items) for items in histories]
    keys = [(task, split, user) for task in schema.TASKS for split in schema.SPLITS for user in range(len(clicks))]
    rows = [
        (number, task, split, user, 99, 0, target, target % n_queries if task == "search" else None, *shown[user])
        for number, (task, split, user) in enumerate(keys)
        for target in [targets[user]]
    ]
    write_rows(schema.SAMPLES, samples, rows)
    rng = np.random.default_rng(1)
    drawn = [
        (number, [item for item in rng.permutation(n_items).tolist() if item != targets[user]][:negatives])
        for number, (_, _, user) in enumerate(keys)
    ]
    splits = [split for _, split, _ in keys]
    held_out = [row for row, split in zip(drawn, splits, strict=True) if split != "train"]
    trained = [(row[0], row[1][:N_STORED]) for row, split in zip(drawn, splits, strict=True) if split == "train"]
    write_rows(schema.CANDIDATES, samples, held_out)
    write_rows(schema.TRAINING_NEGATIVES, samples, trained)
    vectors = {"items": rng.normal(size=(n_items, 7)), "queries": rng.normal(size=(n_queries, 7))}
    save_vectors(vectors, folder / "vectors.safetensors")
    return MethodData(canonical, samples, folder / "vectors.safetensors", samples / "training_negatives.parquet")


def read_samples(data: MethodData) -> pl.DataFrame:
    """All samples of a shop."""
    return schema.SAMPLES.read(data.samples_folder / "samples.parquet")


def read_events(data: MethodData) -> pl.DataFrame:
    """All training events of a shop."""
    return schema.EVENTS.read(data.events_file)


def clicked_history(items: list[int]) -> tuple[list[int], list[int]]:
    """Behaviors and objects of recommendation clicks."""
    return [R] * len(items), items


def searched_history(items: list[int], n_queries: int) -> tuple[list[int], list[int]]:
    """Behaviors and objects of recommendation clicks, each followed by the search for its item."""
    return [R, Q, S] * len(items), [value for item in items for value in (item, item % n_queries, item)]


def random_clicks() -> list[list[int]]:
    """Eight different items a user, in an order that only memory can know."""
    rng = np.random.default_rng(0)
    return [rng.permutation(N_ITEMS)[:8].tolist() for _ in range(N_USERS)]

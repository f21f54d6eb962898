"""Prepare histories and negatives row by row, as notebooks of this field do, as the peer of benchmarks/data.py.

It does the same as the stage `samples` under the strict protocol, except for the rule that training must not contain
held-out pairs: histories of all targets, and sampled and BM25 negatives of the last two targets of each user and task.
Run as a program, it checks that the histories of valid and test targets equal those of the finished samples. It then
prints rows, wall and CPU seconds of each step for some users as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pandas as pd
from _measure import fastest

MAX_HISTORY = 50
MIN_TARGETS = 3
NEGATIVES = 99


def histories(events: pd.DataFrame) -> list[dict[str, Any]]:
    """Return every click with an earlier recommendation click and an earlier search, together with its history."""
    targets = []
    for _, own in events.groupby("user_id", sort=False):
        clicks: list[Any] = []
        searches: list[Any] = []
        for row in own.itertuples():
            before = [
                [event for event in done if event.time != row.time or event.item_id != row.item_id][-MAX_HISTORY:]
                for done in (clicks, searches)
            ]
            if all(before):
                behavior, objects = [], []
                for event in sorted(before[0] + before[1], key=lambda event: event.event_id):
                    if event.task == "rec":
                        behavior += [0]
                        objects += [event.item_id]
                    else:
                        behavior += [1, 2]
                        objects += [int(event.query_id), event.item_id]
                targets.append({"row": row, "behavior": behavior, "object": objects})
            (clicks if row.task == "rec" else searches).append(row)
    return targets


def held_out(targets: list[dict[str, Any]]) -> list[Any]:
    """Return the last two targets of each user and task that have at least three."""
    table = pd.DataFrame({"row": [target["row"] for target in targets]})
    table["user_id"] = [row.user_id for row in table["row"]]
    table["task"] = [row.task for row in table["row"]]
    chosen: list[Any] = []
    for _, own in table.groupby(["user_id", "task"], sort=False):
        if len(own) >= MIN_TARGETS:
            chosen += own["row"].tolist()[-2:]
    return chosen


def sampled_negatives(rows: list[Any], seen: dict[int, set[int]], pool: np.ndarray) -> list[list[int]]:
    """Draw distinct unseen items by popularity until there are enough."""
    draw = np.random.default_rng(0)
    lists = []
    for row in rows:
        negatives: list[int] = []
        while len(negatives) < NEGATIVES:
            for item in draw.choice(pool, NEGATIVES).tolist():
                if item not in seen[row.user_id] and item not in negatives:
                    negatives.append(item)
        lists.append(negatives[:NEGATIVES])
    return lists


def bm25_negatives(rows: list[Any], queries: list[str], index: bm25s.BM25) -> list[list[int]]:
    """Return the best hits of each row's query, without the clicked item."""
    lists = []
    for row in rows:
        words = bm25s.tokenize(queries[int(row.query_id)], stopwords="en", show_progress=False)
        hits, _ = index.retrieve(words, k=NEGATIVES + 10, show_progress=False)
        lists.append([item for item in hits[0].tolist() if item != row.item_id][:NEGATIVES])
    return lists


def equal_to_samples(targets: list[dict[str, Any]], samples: pd.DataFrame) -> int:
    """Check that the samples' histories are equal and count the samples; exit if a history differs."""
    found = {target["row"].event_id: target for target in targets}
    for sample in samples.itertuples():
        target = found[sample.event_id]
        if target["behavior"] != list(sample.history_behavior) or target["object"] != list(sample.history_object):
            raise SystemExit(f"sample {sample.sample_id}: the row-by-row history differs")
    return len(samples)


def main(canonical: Path, samples: Path, n_users: int) -> None:
    """Time each step on ``n_users`` users."""
    events = pd.read_parquet(canonical / "events.parquet")
    pool = events.loc[events["task"] == "rec", "item_id"].to_numpy()
    users = np.random.default_rng(0).permutation(int(events["user_id"].max()) + 1)[:n_users]
    events = events[events["user_id"].isin(users)]
    steps: dict[str, tuple[int, float, float]] = {}

    def step(name: str, run: Callable[[], list[Any]]) -> list[Any]:
        seconds, cpu, results = fastest({name: run}, repeats=1)
        steps[name] = (len(results[name]), seconds[name], cpu[name])
        return results[name]

    targets = step("histories", lambda: histories(events))
    rows = held_out(targets)
    recommended = [row for row in rows if row.task == "rec"]
    searched = [row for row in rows if row.task == "search"]
    seen = events.groupby("user_id")["item_id"].agg(set).to_dict()
    step("sampled negatives", lambda: sampled_negatives(recommended, seen, pool))
    queries = pd.read_parquet(canonical / "queries.parquet")["text"].tolist()
    texts = pd.read_parquet(canonical / "items.parquet", columns=["text"])["text"].tolist()
    index = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    step("BM25 negatives", lambda: bm25_negatives(searched, queries, index))
    ours = pd.read_parquet(
        samples / "samples.parquet", filters=[("split", "!=", "train"), ("user_id", "in", users.tolist())]
    )
    print(json.dumps({"steps": steps, "equal": equal_to_samples(targets, ours)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

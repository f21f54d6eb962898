"""A data set's folder with a generator of random weights, as the command line and the service read it."""

import json
from pathlib import Path
from typing import Any

import polars as pl
from transformers import AutoTokenizer

from gensar_core import schema
from gensar_core.config.generators import OnePassSettings, TrainingSettings
from gensar_core.corpora.live_prompts import Entry
from gensar_core.generator.train import train_generator
from gensar_core.runtime.stage import digest
from tests.support.generator_folders import random_t5
from tests.support.shop import QUERIES, SAMPLES, TEXTS, write_corpus_inputs, write_events, write_rows, write_users
from tests.support.small_corpus import build_small_corpus

#: User, time, task, item, query, session.
EVENTS = [
    ("anna", 1, "rec", 2, None, None),
    ("anna", 2, "search", 3, 1, 0),
    ("anna", 2, "search", 4, 1, 0),
    ("anna", 3, "rec", 1, None, None),
    ("bert", 1, "rec", 0, None, None),
]
ANNA = [Entry.clicked(2), Entry.searched(QUERIES[1]), Entry.found(3), Entry.found(4), Entry.clicked(1)]
MODEL = "gensar_demo"


def more_events(users: int) -> list[tuple[Any, ...]]:
    """Clicks and searches of further users, `u 00` and so on."""
    events: list[tuple[Any, ...]] = []
    for user in range(users):
        name, item = f"u {user:02}", user % 5
        events.append((name, 1, "rec", item, None, None))
        if user % 3:
            events.append((name, 2, "search", (item + user) % 5, user % 2, user + 1))
    return events


def write_dataset(folder: Path, texts: list[str] = TEXTS, users: int = 2, causal: bool = False) -> Path:
    """Write the shop of five items, its corpus, and a generator; items 0, 3 and 4 are pianos.

    The generator is a T5 of random weights or, if ``causal``, a causal model after one epoch.
    """
    shop = write_corpus_inputs(folder / "canonical", texts=texts)
    items = schema.ITEMS.read(shop / "items.parquet")
    paths = pl.Series([[["Music", "Pianos"]] if item in (0, 3, 4) else [["Cables"]] for item in range(len(items))])
    schema.ITEMS.write(items.with_columns(categories=paths), shop / "items.parquet")
    identifiers = folder / "identifiers" / "joint"
    identifiers.mkdir(parents=True)
    for name in ("identifiers.parquet", "vocabulary.json"):
        (shop / name).rename(identifiers / name)
    events = EVENTS + more_events(users - 2)
    names = sorted({row[0] for row in events})
    write_users(shop, names)
    write_events(shop, [(names.index(user), *event) for user, *event in events], "events")
    build_small_corpus(shop, folder / "corpora" / "demo", identifiers)
    if causal:
        write_causal_model(folder)
    else:
        write_model(folder, seed=0)
    return folder


def write_causal_model(folder: Path) -> None:
    """Train a causal model over the catalogue, with click evidence, for one epoch."""
    shop = folder / "canonical"
    others = [
        (row["sample_id"], [item for item in range(len(TEXTS)) if item != row["target_item"]])
        for row in SAMPLES
        if row["split"] != "train"
    ]
    write_rows(schema.CANDIDATES, shop, others)
    small = OnePassSettings(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2)
    settings = TrainingSettings(backbone="causal", one_pass=small, batch_size=2, epochs=1.0, likelihood="catalogue")
    train_generator(folder / "corpora" / "demo", shop, folder / "models" / MODEL, settings, 1, None)


def write_model(folder: Path, seed: int) -> None:
    """Write a generator with random weights into a data set's folder, its record last."""
    corpus, model = folder / "corpora" / "demo", folder / "models" / MODEL
    (model / "stage.json").unlink(missing_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    random_t5(len(tokenizer), seed).save_pretrained(model)
    tokenizer.save_pretrained(model)
    record = {"inputs": {"results/demo/corpora/demo/item_tokens.parquet": digest(corpus / "item_tokens.parquet")}}
    (model / "stage.json").write_text(json.dumps(record))

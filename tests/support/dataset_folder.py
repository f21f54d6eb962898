"""A data set's folder with a generator of random weights, as the command line and the service read it."""

import json
from pathlib import Path

import polars as pl
from transformers import AutoTokenizer

from gensar_core import schema
from gensar_core.corpora.live_prompts import Entry
from gensar_core.runtime.stage import digest
from tests.support.generator_folders import random_t5
from tests.support.shop import QUERIES, TEXTS, write_corpus_inputs, write_events, write_users
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


def write_dataset(folder: Path, texts: list[str] = TEXTS) -> Path:
    """Write the shop of five items, its corpus, and a generator; items 0, 3 and 4 are pianos."""
    shop = write_corpus_inputs(folder / "canonical", texts=texts)
    items = schema.ITEMS.read(shop / "items.parquet")
    paths = pl.Series([[["Music", "Pianos"]] if item in (0, 3, 4) else [["Cables"]] for item in range(len(items))])
    schema.ITEMS.write(items.with_columns(categories=paths), shop / "items.parquet")
    identifiers = folder / "identifiers" / "joint"
    identifiers.mkdir(parents=True)
    for name in ("identifiers.parquet", "vocabulary.json"):
        (shop / name).rename(identifiers / name)
    users = sorted({row[0] for row in EVENTS})
    write_users(shop, users)
    write_events(shop, [(users.index(user), *event) for user, *event in EVENTS], "events")
    build_small_corpus(shop, folder / "corpora" / "demo", identifiers)
    write_model(folder, seed=0)
    return folder


def write_model(folder: Path, seed: int) -> None:
    """Write a generator with random weights into a data set's folder, its record last."""
    corpus, model = folder / "corpora" / "demo", folder / "models" / MODEL
    (model / "stage.json").unlink(missing_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    random_t5(len(tokenizer), seed).save_pretrained(model)
    tokenizer.save_pretrained(model)
    record = {"inputs": {"results/demo/corpora/demo/item_tokens.parquet": digest(corpus / "item_tokens.parquet")}}
    (model / "stage.json").write_text(json.dumps(record))

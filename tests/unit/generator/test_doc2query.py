"""Pseudo-queries: training pairs alone, sampling, determinism."""

import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.config.pseudo_queries import PseudoQuerySettings
from gensar_core.embeddings.item_texts import Encoder, Texts
from gensar_core.embeddings.tokenizer import train_tokenizer
from gensar_core.errors import UserError
from gensar_core.generator import doc2query
from gensar_core.generator.doc2query import (
    QueryTask,
    _split,
    _Texts,
    make_pseudo_queries,
    sample_queries,
    training_pairs,
)
from gensar_core.nn.t5 import t5_from_scratch
from gensar_core.runtime.hashing import row_keys, uniform
from gensar_core.runtime.seeds import derive_seed
from gensar_core.runtime.stage import digest
from gensar_core.samples import search_clicks
from tests.support.generator_folders import TINY
from tests.support.ragged import ragged
from tests.support.shop import write_corpus_inputs, write_events
from tests.support.small_parts import small_parts

KINDS = ["piano", "lamp", "tent", "drill"]
#: Twenty items of four kinds; who wants an item asks for its kind. Item 20 has no text, item 21 no training click.
ITEMS = [f"{kind} number {number}" for number in range(5) for kind in KINDS] + ["", "piano number nine"]


def settings(**changes: Any) -> PseudoQuerySettings:
    values = {
        "backbone": "scratch",
        "tokenizer": "trained",
        "vocabulary_size": 340,
        "size": TINY,
        "epochs": 40.0,
        "max_query_tokens": 8,
        "batch_size": 10,
        "learning_rate": 5e-3,
        "embedding_rate": 10.0,
        "queries_per_item": 3,
        "held_out": 0.2,
        "top_k": 2,
        "top_p": 0.9,
        "patience": None,
    }
    return PseudoQuerySettings(**{**values, **changes})


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    codes = [[item % 8, item // 8, 0, 0] for item in range(len(ITEMS))]
    folder = tmp_path_factory.mktemp("shop")
    write_corpus_inputs(folder, texts=ITEMS, queries=KINDS, semantic=codes, collaborative=codes)
    searches = [(0, item, "search", item, item % 4, item) for item in range(21)]
    clicks = [(0, 21 + item, "rec", item, None, None) for item in range(21)]
    write_events(folder, searches + clicks)
    return folder


def test_pairs_are_those_of_training_searches_on_items_with_text(shop: Path) -> None:
    empty = np.array([not text for text in ITEMS])
    pairs = training_pairs(shop / "training_events.parquet", empty)
    assert pairs.items.tolist() == list(range(20))
    assert pairs.queries.tolist() == [item % 4 for item in range(20)]
    with pytest.raises(UserError, match="no search click on an item with text"):
        training_pairs(shop / "training_events.parquet", np.ones(len(ITEMS), dtype=bool))


CLICKS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=40)


@hypothesis.settings(max_examples=50)
@given(CLICKS, st.integers(1, 7), st.sampled_from([0.0, 0.3, 0.6, 1.0]), st.integers(0, 5))
def test_examples_are_those_of_pairs_held_whole(
    clicks: list[tuple[int, int]], size: int, share: float, seed: int
) -> None:
    """Items have a text of as many tokens as their number: item 0 has none."""
    items = [[10 + item] * item for item in range(10)]
    queries = [[20 + query] * (query + 1) for query in range(5)]
    texts = _Texts(SimpleNamespace(eos_token_id=1), *(Texts([], ragged(rows), 0, 0, 0) for rows in (items, queries)))
    expected = sorted({(item, query) for item, query in clicks if item})
    with tempfile.TemporaryDirectory() as name, small_parts(size, doc2query, search_clicks):
        write_events(Path(name), [(0, 0, "search", item, query, 0) for item, query in clicks])
        path = Path(name) / "training_events.parquet"
        if not expected:
            with pytest.raises(UserError, match="no search click on an item with text"):
                training_pairs(path, texts.items.empty)
            return
        pairs = training_pairs(path, texts.items.empty)
        assert list(zip(pairs.items.tolist(), pairs.queries.tolist(), strict=True)) == expected
        held = uniform(row_keys(seed, np.array([item for item, _ in expected]))) < share
        sides = [[pair for pair, there in zip(expected, held, strict=True) if there == side] for side in (False, True)]
        if not all(sides):
            sides = [expected, expected]
        for own, of_side in zip(_split(pairs, share, seed), sides, strict=True):
            examples = texts.examples(own)
            asked = sorted({item for item, _ in of_side})
            shown = examples.inputs.shown.history
            assert [shown.take(np.array([row])).values.tolist() for row in range(len(shown))] == [
                [*items[item], 1] for item in asked
            ]
            rows = range(len(examples))
            targets = [examples.targets.take(np.array([row])).values.tolist() for row in rows]
            assert targets == [[*queries[query], 1] for _, query in of_side]
            assert examples.prompt.tolist() == [asked.index(item) for item, _ in of_side]
            assert examples.task.tolist() == [0] * len(of_side)


def test_the_held_out_loss_is_the_mean_over_all_tokens(shop: Path) -> None:
    texts = _Texts.read(shop, settings())
    pairs = training_pairs(shop / "training_events.parquet", texts.items.empty)
    model = t5_from_scratch(settings().size, len(texts.tokenizer), texts.tokenizer, 1)
    task = QueryTask(model, settings(), *(texts.examples(pairs) for _ in range(2)), 1)
    expected = []
    with torch.inference_mode():
        model.eval()
        for item, query in zip(pairs.items.tolist(), pairs.queries.tolist(), strict=True):
            shown, asked = (
                torch.tensor([[*rows.take(np.array([row])).values.tolist(), texts.tokenizer.eos_token_id]])
                for rows, row in ((texts.items.tokens, item), (texts.queries.tokens, query))
            )
            logits = model(input_ids=shown, labels=asked).logits[0]
            expected += torch.nn.functional.cross_entropy(logits, asked[0], reduction="none").tolist()
        for size in (3, 100):
            with small_parts(size, doc2query):
                metrics = task.validate()
            assert metrics["held_out_loss"] == pytest.approx(np.mean(expected), rel=1e-5)
            assert metrics["score"] == -metrics["held_out_loss"]


@pytest.mark.slow
def test_queries_fit_their_items_and_are_repeatable(shop: Path, tmp_path: Path) -> None:
    make_pseudo_queries(shop, shop, tmp_path / "a", settings(), 3, None)
    table = schema.PSEUDO_QUERIES.read(tmp_path / "a" / "pseudo_queries.parquet")
    assert set(table["item_id"]) == set(range(20)) | {21}
    assert table.group_by("item_id").len()["len"].max() <= 3  # type: ignore[operator]
    first = table.filter(pl.col("number") == 0)
    right = [ITEMS[item].startswith(text) for item, text in first.select("item_id", "text").iter_rows()]
    assert np.mean(right) > 0.8
    curve = json.loads((tmp_path / "a" / "curve.json").read_text())
    assert curve[-1]["held_out_loss"] < curve[0]["held_out_loss"]
    make_pseudo_queries(shop, shop, tmp_path / "b", settings(), 3, tmp_path / "checkpoints")
    assert digest(tmp_path / "a" / "pseudo_queries.parquet") == digest(tmp_path / "b" / "pseudo_queries.parquet")
    assert not (tmp_path / "checkpoints").exists()


def test_without_an_epoch_the_backbone_itself_is_sampled(shop: Path, tmp_path: Path) -> None:
    """No click is read, and the queries are those of the backbone's weights."""
    tokenizer = train_tokenizer([*ITEMS, *KINDS], 340)
    tokenizer.save_pretrained(tmp_path / "t5")
    model = t5_from_scratch(settings().size, len(tokenizer), tokenizer, 1)
    model.save_pretrained(tmp_path / "t5")
    folder = str(tmp_path / "t5")
    untrained = settings(backbone=folder, tokenizer=folder, epochs=0.0)
    no_click = schema.EVENTS.read(shop / "training_events.parquet").clear()
    shutil.copytree(shop, tmp_path / "shop")
    schema.EVENTS.write(no_click, tmp_path / "shop" / "training_events.parquet")
    make_pseudo_queries(tmp_path / "shop", tmp_path / "shop", tmp_path / "out", untrained, 3, tmp_path / "none")
    table = schema.PSEUDO_QUERIES.read(tmp_path / "out" / "pseudo_queries.parquet")
    texts = Texts.prepare(pl.Series(ITEMS), Encoder(tokenizer), untrained.max_item_tokens, [])
    expected = sample_queries(model, tokenizer, texts, untrained, derive_seed(3, "sampling"))
    assert len(table) > len(ITEMS)
    assert table.equals(expected)
    assert json.loads((tmp_path / "out" / "curve.json").read_text()) == []
    with pytest.raises(ValueError, match="one from scratch has learned nothing"):
        settings(epochs=0.0)

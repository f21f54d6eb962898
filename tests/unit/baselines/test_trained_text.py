"""A text embedding trained on both tasks: its pairs by a plain loop, its loss by hand, and what it learns."""

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from gensar_core import schema
from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.methods.dense import DenseSettings
from gensar_core.baselines.trained_text import JointText, JointTextTraining, embed_trained_text, shown_and_clicked
from gensar_core.config.embeddings import TrainedTextSettings
from gensar_core.config.experiments import load_experiments
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import load_candidates
from gensar_core.runtime.tensors import save_vectors
from tests.support.shop import N_ITEMS, random_clicks, read_events, write_shop

QUICK = TrainedTextSettings(epochs=12, patience=12, batch_size=64, learning_rate=2.0e-2)


def events_of(rows):
    """Events from (user, item, query or None), in the order of time."""
    ordered = sorted(range(len(rows)), key=lambda number: rows[number][0])
    full = [
        (number, rows[row][0], row, "rec" if rows[row][2] is None else "search", *rows[row][1:], None)
        for number, row in enumerate(ordered)
    ]
    return pl.DataFrame(full, schema=schema.EVENTS.schema, orient="row")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.none() | st.integers(0, 2)), max_size=25))
def test_pairs_are_those_of_a_plain_loop(rows):
    with tempfile.TemporaryDirectory() as folder:
        schema.EVENTS.write(events_of(rows), Path(folder) / "events.parquet")
        shown, clicked = shown_and_clicked(Path(folder) / "events.parquet", n_queries=3)
    searches, clicks = [], []
    for user in range(4):
        before = None
        for who, item, query in rows:
            if who == user and query is not None:
                searches.append((query, item))
            elif who == user:
                if before is not None and before != item:
                    clicks.append((3 + before, item))
                before = item
    assert list(zip(shown.tolist(), clicked.tolist(), strict=True)) == searches + clicks


def make(data, **changes):
    return JointText(DenseSettings(train="head", **changes), data, 5)


def test_the_loss_is_the_one_written_by_hand(tmp_path):
    # Two users click 0, 1, 2 and 3, 1, and search for each of these items: item i by query i.
    data = write_shop(tmp_path, [[0, 1, 2], [3, 1]], 5, negatives=3)
    method = make(data, temperature=0.5)
    training = JointTextTraining(method)
    assert training.queries.tolist() == [0, 1, 2, 3, 1, 5, 6, 8]
    assert training.targets.tolist() == [0, 1, 2, 3, 1, 1, 2, 1]
    items, queries = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in map(data.vectors, ("items", "queries"))
    )
    # One batch of query 3 -> item 3, item 0 -> item 1 and item 1 -> item 2. Item 1 is no negative of itself.
    logits = 2.0 * np.stack([queries[3], items[0], items[1]]) @ items[[1, 2, 3]].T
    logits -= np.log([1 + 4, 1 + 2, 1 + 1])
    exponents = np.exp(logits)
    losses = [
        -math.log(exponents[0, 2] / exponents[0].sum()),
        -math.log(exponents[1, 0] / exponents[1].sum()),
        -math.log(exponents[2, 1] / (exponents[2, 1] + exponents[2, 2])),
    ]
    assert float(training.backward((0, np.array([3, 5, 6])))["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.fixture
def chained(tmp_path):
    """A shop in which item i + 1 is clicked after item i, and query i % 5 finds it; queries' vectors are turned away."""
    clicks = [[(start + step) % N_ITEMS for step in range(6)] for start in range(N_ITEMS)]
    data = write_shop(tmp_path, clicks, N_ITEMS)
    rng = np.random.default_rng(0)
    angles = 2.0 * np.pi * np.arange(N_ITEMS) / N_ITEMS
    order = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    words = np.eye(5)[np.arange(N_ITEMS) % 5]
    noise = rng.normal(size=(N_ITEMS, 20)) * 0.8
    queries = rng.normal(size=(5, 27))
    save_vectors({"items": np.concatenate([order, words, noise], axis=1), "queries": queries}, data.embedding)
    return data


def embed(data, output, seed=3, chosen=QUICK, checkpoints=None):
    embed_trained_text(data.canonical, data.samples_folder, data.embedding, output, chosen, seed, checkpoints)
    return load_file(output / "vectors.safetensors"), json.loads((output / "stage.json").read_text())["counts"]


def test_training_brings_both_tasks_nearer_and_equal_seeds_give_equal_vectors(chained, tmp_path):
    vectors, counts = embed(chained, tmp_path / "one")
    first, best = counts["curve"][0], max(counts["curve"], key=lambda entry: entry["score"])
    for task in ("rec", "search"):
        assert best[f"{task}_valid_ndcg@5"] > first[f"{task}_valid_ndcg@5"] + 0.1
    assert best["score"] == pytest.approx((best["rec_valid_ndcg@5"] + best["search_valid_ndcg@5"]) / 2)
    assert {name: rows.shape for name, rows in vectors.items()} == {"items": (N_ITEMS, 27), "queries": (5, 27)}
    for rows in vectors.values():
        assert np.linalg.norm(rows, axis=1) == pytest.approx(1.0, abs=1e-5)
    again, _ = embed(chained, tmp_path / "again")
    other, _ = embed(chained, tmp_path / "other", seed=4)
    assert all((again[name] == vectors[name]).all() for name in vectors)
    assert any((other[name] != vectors[name]).any() for name in vectors)


def test_train_and_test_targets_are_not_read(chained, tmp_path):
    vectors, _ = embed(chained, tmp_path / "all")
    valid = schema.SAMPLES.read(chained.samples_folder / "samples.parquet").filter(pl.col("split") == "valid")
    schema.SAMPLES.write(valid, chained.samples_folder / "samples.parquet")
    alone, _ = embed(chained, tmp_path / "valid")
    assert all((alone[name] == vectors[name]).all() for name in vectors)


def test_without_a_click_all_items_score_alike_and_clicks_alone_are_enough(tmp_path):
    data = write_shop(tmp_path, random_clicks()[:20], N_ITEMS, histories=[[]] * 20)
    events = read_events(data).filter(pl.col("task") == "rec").with_columns(event_id=pl.int_range(pl.len()))
    schema.EVENTS.write(events, data.samples_folder / "training_events.parquet")
    data = MethodData(data.canonical, data.samples_folder, data.embedding)
    method = make(data, epochs=1)
    assert method.fit(None, "")["pairs"] == len(events) - 20
    assert not method.score(load_candidates(data.samples_folder, "rec", "valid")).any()
    schema.EVENTS.write(events.clear(), data.samples_folder / "training_events.parquet")
    with pytest.raises(UserError, match="no train or no valid target of rec or search to tune on"):
        make(MethodData(data.canonical, data.samples_folder, data.embedding)).fit(None, "")


def test_an_embedding_is_trained_from_one_of_texts():
    values = {"datasets": {}, "embeddings": {"text": {"kind": "text", "model": "m"}}}
    for name in ("trained", "nothing"):
        values["embeddings"]["trained"] = {"kind": "trained_text", "text": name}
        with pytest.raises(UserError, match=f"embeddings.trained.text: '{name}' is not an entry .*"):
            load_experiments(values)
    values["embeddings"]["trained"] = {"kind": "trained_text", "text": "text"}
    assert load_experiments(values).embeddings_of("trained_text") == ["trained"]

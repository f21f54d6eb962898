"""JSR of 2020: word vectors, the likelihood of a query's words, and search that no query taught."""

import math

import numpy as np
import polars as pl
import pytest
import torch

from gensar_core import schema
from gensar_core.baselines.methods.jsr2020 import METHOD, JSR2020Settings, means, text_word_vectors
from gensar_core.ranking.candidates import load_candidates
from tests.support.method_contract import N_ITEMS, random_clicks, write_shop
from tests.support.ragged import ragged

COLORS = ("red", "green", "blue", "white", "black")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A shop in which item i is of color i % 5, and query q asks for that color."""
    data = write_shop(tmp_path_factory.mktemp("shop"), random_clicks(), N_ITEMS)
    items = schema.ITEMS.read(data.canonical / "items.parquet").with_columns(
        title=pl.Series([f"A {COLORS[item % 5]} thing" for item in range(N_ITEMS)])
    )
    schema.ITEMS.write(items, data.canonical / "items.parquet")
    queries = pl.DataFrame({"query_id": range(5), "text": list(COLORS)})
    schema.QUERIES.write(queries, data.canonical / "queries.parquet")
    return data


def test_word_vectors_keep_co_occurrence():
    # Words 0 and 1 stand together, 2 and 3 stand together, 4 alone; a repetition counts once.
    titles = ragged([[0, 1, 1], [0, 1], [2, 3], [4], []])
    vectors = text_word_vectors(titles, 5, 5)
    products = vectors @ vectors.T
    weight = [np.log(5 / count) + 1 for count in (2, 2, 1, 1, 1)]
    counts = [[2, 2, 0, 0, 0], [2, 2, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    expected = np.outer(weight, weight) * counts
    assert products / products[0, 0] == pytest.approx(expected / expected[0, 0], abs=1e-5)
    assert np.linalg.norm(vectors, axis=1).mean() == pytest.approx(1.0)
    assert means(titles, vectors)[1] == pytest.approx(vectors[:2].mean(axis=0))
    assert not means(titles, vectors)[4].any()


@torch.no_grad()
def test_a_query_is_answered_by_the_likelihood_of_its_words(data):
    method = METHOD(JSR2020Settings(dimensions=8, min_titles=1), data, 1)
    torch.nn.init.normal_(method.module.projection.weight)
    lists = load_candidates(data.samples_folder, "search", "test")
    scores = method.score(lists)
    model, words = method.module, method.module.words
    # Words in the order of their count, then the alphabet: thing, black, blue, ..., without the stop word "a".
    assert len(words) == 6
    place = {word: 1 + number for number, word in enumerate(sorted(COLORS))}
    for row in range(5):
        query = lists.samples["query_id"][row]
        for column, item in enumerate(lists.items[row]):
            logits = [float(model.projection.weight @ model.items.weight[item] @ word) for word in words]
            expected = logits[place[COLORS[query]]] - math.log(sum(map(math.exp, logits)))
            assert scores[row, column] == pytest.approx(expected, abs=1e-4)


def test_search_is_learned_without_queries(data):
    sizes = {"dimensions": 16, "epochs": 60, "validate_every": 30, "words_weight": 1.0, "min_titles": 1, "dropout": 0.0}
    method = METHOD(JSR2020Settings(learning_rate=2.0e-2, weight_decay=0.0, **sizes), data, 1)
    counts = method.fit(None, "")
    assert counts["training_rows"] == {"rec": 64}
    lists = load_candidates(data.samples_folder, "search", "test")
    scores = method.score(lists)
    right = lists.items % 5 == lists.samples["query_id"].to_numpy()[:, None]
    # An item that is never a target learns no words.
    taught = np.isin(lists.items, lists.samples["target_item"].to_numpy())
    better = [
        scores[row][taught[row] & right[row]].min() > scores[row][taught[row] & ~right[row]].max() for row in range(64)
    ]
    assert np.mean(better) > 0.95

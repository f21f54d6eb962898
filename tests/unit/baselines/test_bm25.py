"""BM25 as a ranker: the contract of all methods, and the formula by hand."""

import math

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.baselines.methods.bm25 import METHOD, BM25Settings
from gensar_core.ranking.candidates import CandidateLists, load_candidates
from tests.support.method_contract import MethodContract, write_shop


class TestBM25(MethodContract):
    kind = "bm25"


def with_texts(data, name, texts):
    table = {"items": schema.ITEMS, "queries": schema.QUERIES}[name]
    path = data.canonical / f"{name}.parquet"
    table.write(table.read(path).with_columns(text=pl.Series(texts)), path)


def scores_of(data, items, **own):
    method = METHOD(BM25Settings(**own), data, 1)
    method.fit(None, "")
    lists = load_candidates(data.samples_folder, "search", "test")
    return method.score(CandidateLists(lists.samples, np.array(items, dtype=np.int32)))


def test_scores_are_those_of_the_formula(tmp_path):
    # Two users: the last click of the first asks query 2, that of the second query 1.
    data = write_shop(tmp_path, [[0, 1, 2], [0, 2, 1]], 3)
    with_texts(data, "items", ["red lamp", "lamp lamp oak table", "oak chair"])
    with_texts(data, "queries", ["nothing here", "the lamps of oak", "red"])
    found = scores_of(data, [[0, 1, 2], [2, 1, 0]], k1=1.5, b=0.5)

    def part(count, length, frequency):
        idf = math.log(1 + (3 - frequency + 0.5) / (frequency + 0.5))
        return idf * count / (count + 1.5 * (0.5 + 0.5 * length / (8 / 3)))

    assert found[0] == pytest.approx([part(1, 2, 1), 0.0, 0.0], rel=1e-6)
    oak_and_lamps = part(2, 4, 2) + part(1, 4, 2)
    assert found[1] == pytest.approx([part(1, 2, 2), oak_and_lamps, part(1, 2, 2)], rel=1e-6)


def test_texts_without_a_word_score_nothing(tmp_path):
    data = write_shop(tmp_path, [[0, 1, 2]], 3)
    with_texts(data, "items", ["", "a", "the"])
    assert (scores_of(data, [[2, 0, 1]]) == 0.0).all()

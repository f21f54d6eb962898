"""BM25 as a ranker: the contract of all methods, and the formula by hand."""

import math

import numpy as np
import pytest

from gensar_core.ranking.candidates import CandidateLists, load_candidates
from tests.support.method_contract import MethodContract, write_shop
from tests.unit.baselines.helpers import fitted, rewrite_texts


class TestBM25(MethodContract):
    kind = "bm25"


def scores_of(data, items, **settings):
    lists = load_candidates(data.samples_folder, "search", "test")
    return fitted("bm25", data, **settings).score(CandidateLists(lists.samples, np.array(items, dtype=np.int32)))


def test_scores_match_the_formula(tmp_path):
    # Two users: the last click of the first asks query 2, that of the second query 1.
    data = write_shop(tmp_path, [[0, 1, 2], [0, 2, 1]], 3)
    items = ["red lamp", "lamp lamp oak table", "oak chair"]
    rewrite_texts(data, items=items, queries=["nothing here", "the lamps of oak", "red"])
    scores = scores_of(data, [[0, 1, 2], [2, 1, 0]], k1=1.5, b=0.5)

    def part(count, length, frequency):
        idf = math.log(1 + (3 - frequency + 0.5) / (frequency + 0.5))
        return idf * count / (count + 1.5 * (0.5 + 0.5 * length / (8 / 3)))

    assert scores[0] == pytest.approx([part(1, 2, 1), 0.0, 0.0], rel=1e-6)
    oak_and_lamps = part(2, 4, 2) + part(1, 4, 2)
    assert scores[1] == pytest.approx([part(1, 2, 2), oak_and_lamps, part(1, 2, 2)], rel=1e-6)


def test_texts_without_a_word_score_nothing(tmp_path):
    data = write_shop(tmp_path, [[0, 1, 2]], 3)
    rewrite_texts(data, items=["", "a", "the"])
    assert (scores_of(data, [[2, 0, 1]]) == 0.0).all()

"""The methods that count or compare: the contract of all methods, and answers known by hand."""

import re

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.baselines.interface import find, kinds
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists, load_candidates
from gensar_core.runtime.tensors import save_vectors
from tests.support.method_contract import MethodContract, ranks, write_shop
from tests.support.shop import read_events
from tests.unit.baselines.helpers import fitted, make


class TestRandomOrder(MethodContract):
    kind = "random_order"

    def test_ranks_are_spread_evenly(self, fitted, lists):
        # 64 uniform ranks among 21 candidates: mean 11, standard error 6.06 / 8.
        assert ranks(fitted, lists).mean() == pytest.approx(11.0, abs=3.0)

    def test_another_seed_and_another_sample_give_other_scores(self, data, fitted, lists):
        scores = fitted.score(lists)
        assert len(np.unique(scores)) == scores.size
        assert not np.isin(self.make(data, seed=7).score(lists), scores).any()


class TestPopularity(MethodContract):
    kind = "popularity"

    def test_scores_count_training_clicks(self, data, fitted, lists):
        clicks = read_events(data).filter(pl.col("task") == "rec").get_column("item_id").to_list()
        assert fitted.score(lists).tolist() == [[clicks.count(item) for item in row] for row in lists.items.tolist()]


class TestTextCosine(MethodContract):
    kind = "text_cosine"


class TestQueryFrequency(MethodContract):
    kind = "query_frequency"


def test_every_method_has_default_settings():
    assert {"bert4rec", "popularity", "sasrec", "text_cosine"} <= set(kinds())
    for kind in kinds():
        assert find(kind).settings_model().model_dump() is not None


def test_query_frequency_counts_pairs_and_breaks_ties_by_popularity(tmp_path):
    # Five queries over ten items: item i answers query i % 5. Item 0 is clicked 3 times, 5 once, 1 twice, 6 four times.
    clicks = [[0, 0, 0, 5, 1, 1, 6, 6, 6, 6]]
    data = write_shop(tmp_path, clicks, 10)
    method = fitted("query_frequency", data)
    samples = load_candidates(tmp_path / "samples", "search", "test").samples.with_columns(query_id=pl.lit(0, pl.Int32))
    scores = method.score(CandidateLists(samples, np.array([[0, 5, 6, 1, 9, -1]], dtype=np.int32)))[0]
    # After query 0: item 0 has 3, item 5 has 1, all others none, of which 6 is clicked more elsewhere than 1, and 9 never.
    assert scores[:5] == pytest.approx([3 + 3 / 5, 1 + 1 / 5, 4 / 5, 2 / 5, 0.0])


def test_text_cosine_by_hand(tmp_path):
    data = write_shop(tmp_path, [[0, 1, 2]], 3)
    save_vectors(
        {"items": np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]), "queries": np.array([[1.0, 0.0]] * 3)},
        tmp_path / "vectors.safetensors",
    )
    method = make("text_cosine", data)
    lists = load_candidates(tmp_path / "samples", "search", "test")
    scores = method.score(CandidateLists(lists.samples, np.array([[0, 1, 2]], dtype=np.int32)))
    assert scores[0] == pytest.approx([1.0, 0.0, 0.5**0.5])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("bert4rec", {"max_history": 1}, "max_history"),
        ("unifiedssr", {"stored_negatives": True}, "trains on sampled negatives"),
        ("unifiedssr", {"max_searches": 0}, "must be above 0"),
        ("dense", {"item_bias": True}, "item_bias needs train: head"),
        ("dense", {"train": "head", "head": {}}, "head needs train: encoder"),
        ("sasrec", {"dimensions": 10, "heads": 3}, "dimensions (10) must be a multiple of heads (3)"),
        ("bert4rec", {"dimensions": 10, "heads": 4}, "dimensions (10) must be a multiple of heads (4)"),
        ("unisar", {"dimensions": 10, "heads": 4}, "dimensions (10) must be a multiple of heads (4)"),
        ("tem", {"dimensions": 10, "heads": 4}, "dimensions (10) must be even and a multiple of heads (4)"),
        ("sesrec", {"dimensions": 5, "heads": 5}, "dimensions (5) must be even and a multiple of heads (5)"),
        ("unifiedssr", {"dimensions": 6, "heads": 4}, "dimensions (6) must be even and a multiple of heads (4)"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(kind, settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make(kind, None, **settings)


def test_an_unknown_method_is_named():
    with pytest.raises(UserError, match=r"methods: no method 'gru9' .*sasrec"):
        find("gru9")


def test_codes_of_large_catalogues_do_not_overflow(tmp_path):
    # Query and item ids are 32-bit; their pair is not.
    data = write_shop(tmp_path, [[0, 1, 2]], 3)
    object.__setattr__(data, "n_items", 2**31 - 1)
    method = make("query_frequency", data)
    codes = method._codes(np.array([2**20], dtype=np.int32), np.array([5], dtype=np.int32))
    assert codes.tolist() == [2**20 * (2**31 - 1) + 5]
    assert schema.QUERIES.columns["query_id"].dtype == pl.Int32()

"""Items known by their texts alone: SASRec and QEM over a projection of text vectors."""

import dataclasses

import numpy as np
import pytest
import torch

from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists, load_candidates
from gensar_core.runtime.tensors import load_vectors, save_vectors
from tests.support.method_contract import N_ITEMS, TrainedMethodContract, random_clicks, write_shop
from tests.support.sequential_contract import SMALL
from tests.unit.baselines.helpers import fitted, make

TASKS = {"sasrec": "rec", "qem": "search"}


class TestSASRecText(TrainedMethodContract):
    kind = "sasrec"
    own = {**SMALL, "item_vectors": "text"}  # noqa: RUF012
    # Seven numbers an item do not tell 40 items apart; chance is 0.05.
    by_heart = 0.1


@pytest.fixture
def shop(tmp_path):
    """Items 0 and 1 have one text, and so has every other pair."""
    data = write_shop(tmp_path, random_clicks(), N_ITEMS, searching=True)
    vectors = {name: load_vectors(data.embedding, name) for name in ("items", "queries")}
    vectors["items"] = vectors["items"][np.arange(N_ITEMS) // 2 * 2]
    save_vectors(vectors, data.embedding)
    return data


SMALL_TEXT = {"epochs": 2, "dimensions": 8, "item_vectors": "text"}


@pytest.mark.parametrize("kind", TASKS)
def test_items_of_one_text_score_alike_and_differ_by_id(shop, kind):
    lists = load_candidates(shop.samples_folder, TASKS[kind], "test")
    pair = CandidateLists(lists.samples, np.tile(np.array([0, 1], dtype=np.int32), (len(lists), 1)))
    by_text = fitted(kind, shop, **SMALL_TEXT).score(pair)
    assert np.allclose(by_text[:, 0], by_text[:, 1], atol=1e-5)
    by_id = fitted(kind, shop, **{**SMALL_TEXT, "item_vectors": "id"}).score(pair)
    assert np.abs(by_id[:, 0] - by_id[:, 1]).min() > 1e-4


@pytest.mark.parametrize("kind", TASKS)
def test_the_projection_is_trained_and_saved_and_no_weight_belongs_to_one_item(shop, tmp_path, kind):
    method, other = fitted(kind, shop, **SMALL_TEXT), make(kind, shop, **SMALL_TEXT)
    weights = method.module.named_parameters()
    assert not [name for name, weight in weights if len(weight) == N_ITEMS and "words" not in name]
    assert not any(name.endswith(".texts") for name in method.module.state_dict())
    assert not torch.equal(method.module.items.projection.weight, other.module.items.projection.weight)
    (tmp_path / "model").mkdir()
    method.save(tmp_path / "model")
    other.load(tmp_path / "model")
    lists = load_candidates(shop.samples_folder, TASKS[kind], "test")
    assert (other.score(lists) == method.score(lists)).all()


@pytest.mark.parametrize("kind", TASKS)
def test_missing_or_mismatched_text_vectors_are_named(shop, kind):
    with pytest.raises(UserError, match="name an embedding under its key 'embedding'"):
        fitted(kind, dataclasses.replace(shop, embedding=None), **SMALL_TEXT)
    vectors = {name: load_vectors(shop.embedding, name) for name in ("items", "queries")}
    save_vectors({**vectors, "items": vectors["items"][:-1]}, shop.embedding)
    with pytest.raises(UserError, match=f"holds {N_ITEMS - 1} vectors of items, but the data set has {N_ITEMS}"):
        fitted(kind, shop, **SMALL_TEXT)

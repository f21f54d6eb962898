"""Items known by their texts alone: SASRec and QEM over a projection of text vectors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gensar_core.baselines.interface import find
from gensar_core.config.base import validate
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists, load_candidates
from gensar_core.runtime.tensors import load_vectors, save_vectors
from tests.support.method_contract import N_ITEMS, TrainedMethodContract, random_clicks, write_shop
from tests.support.sequential_contract import SMALL

TASKS = {"sasrec": "rec", "qem": "search"}


class TestSASRecText(TrainedMethodContract):
    kind = "sasrec"
    own = {**SMALL, "item_vectors": "text"}  # noqa: RUF012
    # Seven numbers an item do not tell 40 items apart; chance is 0.05.
    by_heart = 0.2


@pytest.fixture
def shop(tmp_path):
    """Items 0 and 1 have one text, and so has every other pair."""
    data = write_shop(tmp_path, random_clicks(), N_ITEMS, searching=True)
    vectors = {name: load_vectors(data.embedding, name) for name in ("items", "queries")}
    vectors["items"] = vectors["items"][np.arange(N_ITEMS) // 2 * 2]
    save_vectors(vectors, data.embedding)
    return data


def fitted(kind, data, **own):
    model = find(kind)
    method = model(validate(model.settings_model, {"epochs": 2, "dimensions": 8, **own}, "m"), data, 3)
    method.fit(None, "")
    return method


@pytest.mark.parametrize("kind", TASKS)
def test_items_of_one_text_are_one_to_it_and_two_by_their_ids(shop, kind):
    lists = load_candidates(shop.samples_folder, TASKS[kind], "test")
    pair = CandidateLists(lists.samples, np.tile(np.array([0, 1], dtype=np.int32), (len(lists), 1)))
    by_text = fitted(kind, shop, item_vectors="text").score(pair)
    assert np.allclose(by_text[:, 0], by_text[:, 1], atol=1e-5)
    by_id = fitted(kind, shop).score(pair)
    assert np.abs(by_id[:, 0] - by_id[:, 1]).min() > 1e-4


@pytest.mark.parametrize("kind", TASKS)
def test_training_moves_the_projection_and_leaves_no_weight_of_a_single_item(shop, kind):
    method = fitted(kind, shop, item_vectors="text")
    (module,) = (value for value in vars(method).values() if isinstance(value, torch.nn.Module))
    assert not [name for name, weight in module.named_parameters() if len(weight) == N_ITEMS and "words" not in name]
    assert not any(name.endswith(".texts") for name in module.state_dict())
    untrained = type(method)(method.settings, shop, 3)
    assert not torch.equal(
        module.items.projection.weight,
        untrained.module.items.projection.weight,
    )


@pytest.mark.parametrize("kind", TASKS)
def test_a_saved_model_ranks_as_before(shop, tmp_path, kind):
    method = fitted(kind, shop, item_vectors="text")
    (tmp_path / "model").mkdir()
    method.save(tmp_path / "model")
    again = type(method)(method.settings, shop, 4)
    again.load(tmp_path / "model")
    lists = load_candidates(shop.samples_folder, TASKS[kind], "test")
    assert (again.score(lists) == method.score(lists)).all()


@pytest.mark.parametrize("kind", TASKS)
def test_vectors_that_are_missing_or_of_other_items_are_named(shop, kind):
    with pytest.raises(UserError, match="name an embedding under its key 'embedding'"):
        fitted(kind, dataclasses.replace(shop, embedding=None), item_vectors="text")
    vectors = {name: load_vectors(shop.embedding, name) for name in ("items", "queries")}
    save_vectors({**vectors, "items": vectors["items"][:-1]}, shop.embedding)
    with pytest.raises(UserError, match=f"holds {N_ITEMS - 1} vectors of items, but the data set has {N_ITEMS}"):
        fitted(kind, shop, item_vectors="text")

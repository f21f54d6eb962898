"""SESRec: how histories are parted, and its co-attention and triplets against plain loops."""

import math

import numpy as np
import pytest
import torch

from gensar_core.baselines.methods.sesrec import METHOD, SESRecSettings, parted
from gensar_core.baselines.shared.target_rows import TargetHistories
from tests.support.method_contract import N_ITEMS, random_clicks, write_shop
from tests.unit.baselines.helpers import HISTORIES, history_samples, random_weights


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    data = write_shop(tmp_path_factory.mktemp("shop"), random_clicks(), N_ITEMS)
    return random_weights(METHOD(SESRecSettings(dimensions=8, heads=2), data, 1).module)


def test_similar_slots_weigh_at_least_one_nth_of_the_real_slots():
    weights = torch.tensor([[0.5, 0.3, 0.2, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.0, 0.0]])
    mask = torch.arange(4) < torch.tensor([3, 1, 4, 0])[:, None]
    similar, dissimilar = parted(weights, mask)
    # A third is what three slots weigh on average; the fourth place is padding.
    assert similar[0].tolist() == [True, False, False, False]
    assert dissimilar[0].tolist() == [False, True, True, False]
    # A group that would be empty is all real slots.
    for row in (1, 2, 3):
        assert similar[row].tolist() == dissimilar[row].tolist() == mask[row].tolist()


@torch.no_grad()
def test_weights_and_triplets_by_loop(model):
    history = TargetHistories.from_samples(history_samples(HISTORIES), 15, 15).padded(torch.device("cpu"))
    states = model.states(history)
    masks = {"clicks": history.is_click, "searches": history.is_search}
    weights = model.weights(states, masks)
    for row in range(len(HISTORIES)):
        clicks, searches = (states[side][row][mask[row]] for side, mask in masks.items())
        w_d, w_q = (model.scorers[side].weight[0] for side in masks)
        similar = [[math.tanh(float(c @ model.similarity.weight.T @ s)) for s in searches] for c in clicks]
        logits = {
            "clicks": [sum(m * float(w_d @ s) for m, s in zip(line, searches, strict=True)) for line in similar],
            "searches": [
                sum(similar[i][j] * float(w_q @ c) for i, c in enumerate(clicks)) for j in range(len(searches))
            ],
        }
        for side, values in logits.items():
            expected = np.exp(values) / np.exp(values).sum()
            assert weights[side][row][masks[side][row]].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
            assert not weights[side][row][~masks[side][row]].any()
    losses = []
    mask = history.is_click
    similar, dissimilar = parted(weights["clicks"], mask)
    for row in range(len(HISTORIES)):
        clicks = states["clicks"][row]
        zero = torch.zeros(8)
        anchor = sum((w * s for w, s in zip(weights["clicks"][row], clicks, strict=True)), zero)
        groups = [clicks[group[row]] for group in (similar, dissimilar)]
        near, far = (float((anchor - (g.mean(dim=0) if len(g) else zero)).norm()) for g in groups)
        losses.append(max(0.0, near - far + 0.1))
    loss = model._triplet(states["clicks"], weights["clicks"], similar, dissimilar)
    assert loss.item() == pytest.approx(np.mean(losses), abs=1e-4)


def test_each_history_has_an_encoder_and_every_weight_a_gradient(model, tmp_path):
    assert model.encoders["clicks"] is not model.encoders["searches"]
    data = write_shop(tmp_path, random_clicks(), N_ITEMS, searching=True)
    fresh = METHOD(SESRecSettings(), data, 5)
    fresh.module.train()
    losses = fresh.training_set("rec").losses(np.arange(20), 0)
    assert set(losses) == {"ranking", "triplet", "query_item"}
    assert losses["ranking"].item() == pytest.approx(math.log(2), abs=1e-6)
    sum(losses.values()).backward()
    gradients = {name: parameter.grad for name, parameter in fresh.module.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())

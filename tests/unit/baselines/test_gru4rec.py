"""GRU4Rec: the contract of sequential methods, and its network against the equations of the paper."""

from types import SimpleNamespace

import pytest
import torch

from gensar_core.baselines.methods.gru4rec import GRU4RecEncoder, GRU4RecSettings
from tests.support.method_contract import TrainedMethodContract
from tests.support.sequential_contract import SMALL, SequentialContract


class TestGRU4Rec(SequentialContract):
    kind = "gru4rec"
    own = SMALL


class TestGRU4RecBPRMax(TrainedMethodContract):
    kind = "gru4rec"
    own = {**SMALL, "loss": "bpr_max", "score_regularization": 0.01, "layers": 2}  # noqa: RUF012


@torch.no_grad()
def test_the_network_matches_the_equations_of_the_paper():
    encoder = GRU4RecEncoder(SimpleNamespace(n_items=9), GRU4RecSettings(dimensions=4)).eval()
    (layer,) = encoder.layers
    inputs = torch.tensor([[1, 5, 2]])
    reset, update, candidate = layer.weight_ih_l0.chunk(3)
    reset_state, update_state, candidate_state = layer.weight_hh_l0.chunk(3)
    state = torch.zeros(4)
    for place, item in enumerate(inputs[0]):
        x = encoder.items.weight[item]
        r = torch.sigmoid(reset @ x + reset_state @ state)
        z = torch.sigmoid(update @ x + update_state @ state)
        proposed = torch.tanh(candidate @ x + r * (candidate_state @ state))
        state = z * state + (1 - z) * proposed
        assert encoder(inputs)[0, place].tolist() == pytest.approx(state.tolist(), abs=1e-6)


def test_each_gate_has_its_own_bound():
    encoder = GRU4RecEncoder(SimpleNamespace(n_items=9), GRU4RecSettings(dimensions=64))
    bound = (6 / (64 + 64)) ** 0.5
    for weight in (encoder.layers[0].weight_ih_l0, encoder.layers[0].weight_hh_l0):
        for gate in weight.detach().chunk(3):
            assert gate.abs().max().item() == pytest.approx(bound, rel=0.01)
            assert gate.abs().max().item() <= bound

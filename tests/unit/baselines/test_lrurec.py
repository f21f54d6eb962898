"""LRURec: the contract of sequential methods, and its scan against the plain recurrence."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.baselines.methods.lrurec import LinearRecurrence, scan
from tests.support.method_contract import random_clicks, write_shop
from tests.support.sequential_contract import SMALL, SequentialContract
from tests.unit.baselines.helpers import make


class TestLRURec(SequentialContract):
    kind = "lrurec"
    own = {**SMALL, "loss": "softmax"}  # noqa: RUF012


@settings(max_examples=30)
@given(st.integers(1, 70), st.integers(1, 3), st.integers(0, 1000))
def test_the_scan_matches_a_loop_over_steps(width, rows, seed):
    # In double precision: in single, the powers of a phase alone are off by more than their rounding after 60 steps.
    torch.manual_seed(seed)
    inputs = torch.randn(rows, width, 5, dtype=torch.complex128)
    log_decay = torch.complex(-torch.rand(5, dtype=torch.float64) * 0.3, torch.rand(5, dtype=torch.float64) * 6.28)
    state, expected = torch.zeros(rows, 5, dtype=torch.complex128), []
    for place in range(width):
        state = torch.exp(log_decay) * state + inputs[:, place]
        expected.append(state)
    assert torch.allclose(scan(inputs, log_decay), torch.stack(expected, dim=1), atol=1e-11, rtol=1e-11)


def test_the_scan_has_a_correct_gradient():
    inputs = torch.randn(2, 9, 3, dtype=torch.complex128, requires_grad=True)
    log_decay = torch.complex(-torch.rand(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(scan, (inputs, log_decay))


@torch.no_grad()
def test_the_layer_matches_a_plain_recurrence():
    layer = LinearRecurrence(4, 0.0).eval()
    inputs = torch.randn(2, 7, 4)
    nu, theta, gamma = layer.recurrence
    decay = torch.exp(torch.complex(-nu.exp(), theta.exp()))
    state = torch.zeros(2, layer.size, dtype=torch.complex64)
    for place in range(7):
        entered = torch.view_as_complex(layer.inputs(inputs[:, place]).view(2, layer.size, 2))
        state = decay * state + gamma.exp() * entered
        read = layer.outputs(torch.view_as_real(state).flatten(1))
        expected = layer.normalization(read + inputs[:, place])
        assert torch.allclose(layer(inputs)[:, place], expected, atol=1e-5)


def test_decays_start_on_their_ring_and_stay_inside_the_unit_circle():
    layer = LinearRecurrence(64, 0.0)
    size = torch.exp(layer.log_decay()).abs()
    assert size.min() >= 0.8
    assert size.max() <= 0.99
    gamma = layer.recurrence[2].exp()
    assert torch.allclose(gamma, torch.sqrt(1 - size**2), atol=1e-5)
    # Whatever is learned.
    with torch.no_grad():
        layer.recurrence.copy_(torch.linspace(-8, 8, 128).expand(3, -1))
    assert (torch.exp(layer.log_decay()).abs() < 1).all()
    assert torch.isfinite(torch.view_as_real(torch.exp(layer.log_decay()))).all()


@torch.no_grad()
def test_states_keep_the_variance_of_inputs():
    size = torch.full((200,), 0.95)
    log_decay = torch.complex(torch.log(size), torch.rand(200) * 2 * math.pi)
    inputs = torch.randn(8, 512, 200, dtype=torch.complex64) * torch.sqrt(1 - size**2)
    assert scan(inputs, log_decay)[:, 100:].abs().square().mean().item() == pytest.approx(1.0, rel=0.05)


def test_the_recurrence_has_no_weight_decay(tmp_path):
    data = write_shop(tmp_path, random_clicks(), 40)
    decayed, free = make("lrurec", data, dimensions=8).optimizer().param_groups
    assert [tuple(parameter.shape) for parameter in free["params"]] == [(3, 16)] * 2
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)

"""FMLP-Rec: the contract of sequential methods, and its filter against an explicit circular convolution."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gensar_core.baselines.methods.fmlp import Filter, FMLPEncoder, FMLPSettings
from tests.support.method_contract import TrainedMethodContract
from tests.support.sequential_contract import SMALL, SequentialContract


class TestFMLP(SequentialContract):
    kind = "fmlp"
    own = {**SMALL, "batch_size": 128, "epochs": 40, "validate_every": 20}  # noqa: RUF012
    one_state = True
    # Its width is fixed, and its paddings count.
    test_padding_never_moves_a_state = None


class TestFMLPBinary(TrainedMethodContract):
    kind = "fmlp"
    own = {**SMALL, "loss": "bce", "epochs": 60}  # noqa: RUF012
    # One negative a target and step separates slowly.
    by_heart = 0.7


@pytest.mark.parametrize("width", [1, 2, 7, 12, 50])
@torch.no_grad()
def test_the_filter_is_a_circular_convolution(width):
    layer = Filter(width, 3)
    states = torch.randn(2, width, 3)
    # The kernel is what the filter answers to an impulse at place 0 (up to the scaling of the orthonormal transform).
    spectrum = torch.view_as_complex(layer.spectrum).numpy()
    kernel = np.fft.irfft(spectrum, n=width, axis=0)
    expected = np.zeros((2, width, 3))
    for place in range(width):
        for lag in range(width):
            expected[:, place] += kernel[lag] * states[:, (place - lag) % width].numpy()
    assert layer(states).numpy() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_paddings_are_zero_vectors_at_their_positions():
    encoder = FMLPEncoder(SimpleNamespace(n_items=5), FMLPSettings(dimensions=4, max_history=6)).eval()
    inputs = torch.tensor([[5, 5, 5, 1, 2, 3]])
    vectors = torch.cat([encoder.items.weight, torch.zeros(1, 4)])[inputs[0]]
    states = encoder.normalization(vectors + encoder.positions.weight)[None]
    for block in encoder.blocks:
        states = block(states)
    assert torch.allclose(encoder(inputs), states[:, -1:], atol=1e-6)
    # Another width is another filter: it cannot be asked for.
    with pytest.raises(RuntimeError):
        encoder(inputs[:, 1:])


@torch.no_grad()
def test_the_filter_keeps_its_precision_under_autocast():
    layer, states = Filter(7, 3), torch.randn(2, 7, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (layer(states) == layer(states.float())).all()
        assert layer(states.bfloat16()).dtype == torch.bfloat16
    assert torch.allclose(layer(states.bfloat16()).float(), layer(states), atol=0.02)

"""The written-out T5 pass, the cheap dropout and the chunked loss, against the library's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from gensar_core.generator.backbones.t5 import encode_prompts, position_buckets, target_outputs
from gensar_core.nn import cross_entropy as chunks
from gensar_core.nn.cross_entropy import cross_entropy
from gensar_core.nn.dropout import drawing_from, dropout
from gensar_core.nn.t5 import load_t5
from tests.unit.generator.small_models import VOCABULARY, new_model, without_dropout


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets with different lengths, -1 after the end of a row."""
    torch.manual_seed(1)
    inputs, targets = torch.randint(2, VOCABULARY, (4, 20)), torch.randint(2, VOCABULARY, (4, 7))
    for row, (length, target_length) in enumerate([(20, 3), (11, 7), (2, 1), (17, 5)]):
        inputs[row, length:] = -1
        targets[row, target_length:] = -1
    return inputs, targets


def library_logits(model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    labels = targets.masked_fill(targets < 0, -100)
    mask = (inputs >= 0).long()
    return model(input_ids=inputs.clamp_min(0), attention_mask=mask, labels=labels).logits


def assert_logits_equal_the_library(model: torch.nn.Module) -> torch.Tensor:
    inputs, targets = rows()
    real = targets >= 0
    with torch.no_grad():
        logits = outputs_of(model, inputs, targets) @ model.lm_head.weight.T
        expected = library_logits(model, inputs, targets)
    torch.testing.assert_close(logits[real], expected[real], atol=1e-4, rtol=1e-4)
    return expected


def outputs_of(
    model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor, prompt: np.ndarray | None = None
) -> torch.Tensor:
    return target_outputs(model, encode_prompts(model, inputs), targets, prompt)


@pytest.mark.parametrize("kind", ["t5", "t5-1.1", "mt5", "untied"])
def test_logits_equal_the_library_and_survive_saving(kind: str, tmp_path: Path) -> None:
    model = new_model(kind)
    expected = assert_logits_equal_the_library(model)
    if kind != "untied":
        model.save_pretrained(tmp_path)
        torch.testing.assert_close(assert_logits_equal_the_library(load_t5(str(tmp_path)).eval()), expected)


@pytest.mark.parametrize("full", [True, False], ids=["full rows", "padded rows"])
@pytest.mark.parametrize("kind", ["t5", "mt5"])
def test_loss_and_gradients_equal_the_library(kind: str, full: bool) -> None:
    model = without_dropout(new_model(kind)).train()
    inputs, targets = rows()
    if full:
        inputs, targets = inputs[:1], targets[:1, :3]
    labels = targets.masked_fill(targets < 0, -100)
    expected = model(input_ids=inputs.clamp_min(0), attention_mask=(inputs >= 0).long(), labels=labels).loss
    expected.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    real = targets >= 0
    loss = cross_entropy(outputs_of(model, inputs, targets)[real], model.lm_head.weight, targets[real]).mean()
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["t5", "mt5"])
def test_targets_may_share_a_prompt(kind: str) -> None:
    model = new_model(kind)
    inputs, targets = rows()
    prompt = np.array([0, 0, 0, 1, 2, 2, 3])
    targets = targets[[0, 1, 3, 2, 1, 0, 3]]
    real = targets >= 0
    shared = outputs_of(model, inputs, targets, prompt)[real]
    alone = outputs_of(model, inputs[prompt], targets)[real]
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)
    weights = [weight for name, weight in model.named_parameters() if name != "lm_head.weight"]
    gradients, expected = (torch.autograd.grad(outputs.square().sum(), weights) for outputs in (shared, alone))
    torch.testing.assert_close(gradients, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (8, 12), (16, 1000)])
def test_buckets_equal_the_library(bidirectional: bool, buckets: int, farthest: int) -> None:
    attention = new_model("t5").encoder.block[0].layer[0].SelfAttention
    relative = torch.arange(-1500, 1500)
    torch.testing.assert_close(
        position_buckets(relative, bidirectional=bidirectional, buckets=buckets, max_distance=farthest),
        attention._relative_position_bucket(relative, bidirectional, buckets, farthest),
    )


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_its_rate(rate: float) -> None:
    torch.manual_seed(0)
    values = torch.ones(4, 50_001, requires_grad=True)
    dropped = dropout(values, rate, training=True)
    share = (dropped == 0).double().mean().item()
    assert share == pytest.approx(rate, abs=0.006)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.03)
    # Each of the four numbers cut out of one draw drops alike.
    quarters = (dropped.flatten()[:200_000].view(-1, 4) == 0).double().mean(0)
    assert quarters.tolist() == pytest.approx([rate] * 4, abs=0.01)
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, dropped.detach())


def test_dropout_follows_the_seed_and_rests_in_evaluation() -> None:
    values = torch.randn(3, 7)
    torch.manual_seed(4)
    first = dropout(values, 0.5, training=True)
    second = dropout(values, 0.5, training=True)
    torch.manual_seed(4)
    torch.testing.assert_close(dropout(values, 0.5, training=True), first)
    assert not torch.equal(first, second)
    assert dropout(values, 0.5, training=False) is values
    assert torch.equal(dropout(values, 1.0, training=True), torch.zeros(3, 7))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_cross_entropy_equals_the_library_in_any_chunks(
    smoothing: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_CPU_LOGITS", chunk * 11)
    torch.manual_seed(0)
    outputs = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 10, 3, 3, 7, 1, 2])
    expected = functional.cross_entropy(outputs @ weight.T, targets, reduction="none", label_smoothing=smoothing)
    losses = cross_entropy(outputs, weight, targets, smoothing)
    torch.testing.assert_close(losses, expected)
    gradients, expected_gradients = (
        torch.autograd.grad(one.sum() * 0.3, (outputs, weight)) for one in (losses, expected)
    )
    torch.testing.assert_close(gradients, expected_gradients)


def test_a_separate_stream_of_dropout_depends_on_its_seed_alone() -> None:
    values = torch.ones(1000)
    torch.manual_seed(5)
    expected = dropout(values, 0.5, training=True)
    torch.manual_seed(6)
    before = torch.random.get_rng_state()
    with drawing_from(5, torch.device("cpu")):
        torch.rand(3)
        assert (dropout(values, 0.5, training=True) == expected).all()
        assert (dropout(values, 0.5, training=True) != expected).any()
    torch.random.set_rng_state(before)
    common = dropout(values, 0.5, training=True)
    torch.random.set_rng_state(before)
    assert (dropout(values, 0.5, training=True) == common).all()
    assert (common != expected).any()

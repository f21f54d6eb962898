"""Logits that tell of popularity, added in training: by hand, and losses against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.corpora import trie as trie_module
from gensar_core.corpora.trie import TokenTrie
from gensar_core.generator.likelihoods import CatalogueLikelihood
from gensar_core.generator.logit_adjustment import AdjustedVocabulary, added_logits, adjusted
from gensar_core.generator.train import train_generator
from gensar_core.runtime.stage import read_record
from tests.support.generator_folders import N_ITEMS, tiny_settings, write_corpus, write_samples
from tests.support.gpu_stand_in import GPU, Waits
from tests.support.shop import write_events
from tests.unit.generator.small_models import END, VOCABULARY, Lists, cases, followers, ragged

ROWS = [[2, 7, END], [2, 8, END], [3, 7, END]]


def by_prefix(items: Lists, clicks: np.ndarray, strength: float, prefix: list[int], token: int) -> float:
    """Compute what is added to a token after a prefix from means over all items, one by one."""

    def mean(beginning: list[int]) -> float:
        return float(
            np.mean([count + 1 for row, count in zip(items, clicks, strict=True) if row[: len(beginning)] == beginning])
        )

    return strength * float(np.log(mean([*prefix, token]) / mean(prefix)))


def test_what_is_added_is_the_log_of_means_by_hand() -> None:
    root, first, second, third = added_logits(TokenTrie.from_rows(ragged(ROWS)), np.array([3, 0, 1]), 0.5)
    # One click more each: 4, 1 and 2, of which the mean is 7 / 3.
    assert root.tolist() == [0.0]
    assert first.tolist() == pytest.approx([0.5 * np.log(2.5 / (7 / 3)), 0.5 * np.log(2 / (7 / 3))])
    assert second.tolist() == pytest.approx([0.5 * np.log(4 / 2.5), 0.5 * np.log(1 / 2.5), 0.0])
    assert third.tolist() == [0.0, 0.0, 0.0]


@given(cases().map(lambda case: case[0]), st.integers(0, 9))
@settings(max_examples=30)
def test_equal_clicks_add_nothing(items: Lists, clicks: int) -> None:
    for level in added_logits(TokenTrie.from_rows(ragged(items)), np.full(len(items), clicks), 1.0):
        torch.testing.assert_close(level, torch.zeros_like(level))


@pytest.mark.parametrize("over", ["vocabulary", "catalogue, no tables", "catalogue, tables"])
@given(cases().map(lambda case: case[0]), st.sampled_from([0.0, 0.2]), st.integers(0, 1000))
@settings(max_examples=25)
def test_losses_and_their_gradients_are_those_of_a_loop(over: str, items: Lists, smoothing: float, seed: int) -> None:
    draw, clicks = torch.Generator().manual_seed(seed), np.random.default_rng(seed).integers(0, 20, len(items))
    targets = ragged(items).padded(max(map(len, items)), -1)
    outputs = torch.randn((*targets.shape, 4), generator=draw, requires_grad=True)
    weight = torch.randn((VOCABULARY, 4), generator=draw, requires_grad=True)
    expected = torch.zeros(targets.shape)
    for number, row in enumerate(items):
        for depth, token in enumerate(row):
            following = followers(items, row[:depth])
            competing = following if over != "vocabulary" else list(range(VOCABULARY))
            added = [
                by_prefix(items, clicks, 0.7, row[:depth], other) if other in following else 0.0 for other in competing
            ]
            chances = (outputs[number, depth] @ weight[competing].T + torch.tensor(added)).log_softmax(0)
            aim = torch.tensor([float(other == token) for other in competing])
            expected[number, depth] = -(((1 - smoothing) * aim + smoothing / len(competing)) * chances).sum()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_module, "_DENSE", 0 if over == "catalogue, no tables" else 1 << 20)
        trie = TokenTrie.from_rows(ragged(items))
        likelihood = adjusted(None if over == "vocabulary" else CatalogueLikelihood(trie), trie, clicks, 0.7)
        assert isinstance(likelihood, AdjustedVocabulary) == (over == "vocabulary")
        losses = likelihood.token_losses(outputs, weight, targets, smoothing)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    # Without any choice, losses over the catalogue are constant.
    if losses.requires_grad:
        gradients, theirs = (torch.autograd.grad(one.sum(), (outputs, weight)) for one in (losses, expected))
        torch.testing.assert_close(gradients, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("over", ["vocabulary", "catalogue"])
def test_a_gpu_is_not_waited_for(over: str) -> None:
    trie = TokenTrie.from_rows(ragged(ROWS)).to(GPU)
    likelihood = adjusted(None if over == "vocabulary" else CatalogueLikelihood(trie), trie, np.arange(3), 1.0)
    outputs, weight = (torch.zeros(shape, device=GPU, requires_grad=True) for shape in ((3, 3, 4), (VOCABULARY, 4)))
    with Waits() as waits:
        likelihood.token_losses(outputs, weight, np.array(ROWS)).sum().backward()
    assert waits.fetched == 0


def test_a_training_adjusts_to_the_clicks_of_its_samples(tmp_path: Path) -> None:
    """As many clicks on every item leave the weights as they are; others change them."""
    corpus, samples = write_corpus(tmp_path / "corpus"), write_samples(tmp_path / "samples")
    weights = {}
    for name, strength, clicked in (("plain", 0.0, 0), ("even", 1.0, N_ITEMS), ("uneven", 1.0, 3)):
        write_events(
            samples, [(0, number, "rec", number % N_ITEMS, None, None) for number in range(clicked)], "training_events"
        )
        options = tiny_settings(likelihood="catalogue", epochs=2, logit_adjustment=strength)
        train_generator(corpus, samples, tmp_path / name, options, seed=3, checkpoints=None)
        weights[name] = (tmp_path / name / "model.safetensors").read_bytes()
        inputs = read_record(tmp_path / name / "stage.json")["inputs"]
        assert any(path.endswith("training_events.parquet") for path in inputs) == (strength > 0)
    assert weights["plain"] == weights["even"]
    assert weights["plain"] != weights["uneven"]

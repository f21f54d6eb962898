"""The softmax over the catalogue: against plain loops, in training, in exact ranking and in search."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.config.base import validate
from gensar_core.config.generators import GeneratorSettings, RankingSettings, TrainingSettings
from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie
from gensar_core.errors import UserError
from gensar_core.generator.beam_search import search_catalogue
from gensar_core.generator.candidate_scores import score_candidates
from gensar_core.generator.catalogue_likelihood import log_normalizers, token_losses
from gensar_core.generator.item_targets import target_tries
from gensar_core.generator.prefix_tree import build_trees, catalogue_nodes, where_items_part
from gensar_core.generator.rank import rank_candidates
from gensar_core.generator.train import train_generator
from gensar_core.generator.trained import TrainedGenerator
from tests.support.generator_folders import N_ITEMS, write_corpus, write_samples
from tests.unit.generator.test_scores import END, VOCABULARY, cases, model, ragged

Lists = list[list[int]]


def followers(items: Lists, prefix: list[int]) -> list[int]:
    """What may come after a prefix."""
    return sorted({row[len(prefix)] for row in items if row[: len(prefix)] == prefix and len(row) > len(prefix)})


def alone(network: torch.nn.Module, prompt: list[int], items: Lists, row: list[int]) -> float:
    """The log-probability of an item among all, by the library's own forward pass and a loop."""
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([prompt]), labels=torch.tensor([row])).logits[0]
    total = 0.0
    for depth, token in enumerate(row):
        allowed = followers(items, row[:depth])
        total += float(logits[depth, token] - logits[depth, allowed].logsumexp(0))
    return total


@given(cases())
@settings(max_examples=40, deadline=None)
def test_scores_are_those_of_the_softmax_over_what_the_catalogue_allows(
    case: tuple[Lists, Lists, np.ndarray],
) -> None:
    items, prompts, candidates = case
    network = model("t5")
    trie = TokenTrie.from_rows(ragged(items))
    tokens = ItemTokens.from_rows(ragged(items))
    scores = score_candidates(network, ragged(prompts), candidates, tokens, users_per_batch=3, catalogue=trie)
    for user, column in itertools.product(*map(range, candidates.shape)):
        item = candidates[user, column]
        expected = alone(network, prompts[user], items, items[item]) if item >= 0 else -np.inf
        assert scores[user, column] == pytest.approx(expected, abs=1e-4)


@given(cases())
@settings(max_examples=30, deadline=None)
def test_the_probabilities_of_all_items_sum_to_one(case: tuple[Lists, Lists, np.ndarray]) -> None:
    rows, prompts, _ = case
    items = [list(row) for row in sorted({tuple(row) for row in rows})]
    everything = np.tile(np.arange(len(items), dtype=np.int32), (len(prompts), 1))
    tokens, trie = ItemTokens.from_rows(ragged(items)), TokenTrie.from_rows(ragged(items))
    scores = score_candidates(model("t5"), ragged(prompts), everything, tokens, users_per_batch=2, catalogue=trie)
    assert np.exp(scores).sum(axis=1) == pytest.approx(np.ones(len(prompts)), abs=1e-4)


@given(cases(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_search_with_a_beam_an_item_finds_what_scoring_all_items_finds(
    case: tuple[Lists, Lists, np.ndarray], restrict: bool
) -> None:
    items, prompts, _ = case
    tokens, trie = ItemTokens.from_rows(ragged(items)), TokenTrie.from_rows(ragged(items))
    everything = np.tile(np.arange(len(items), dtype=np.int32), (len(prompts), 1))
    scores = score_candidates(model("t5"), ragged(prompts), everything, tokens, users_per_batch=9, catalogue=trie)
    allowed = np.arange(len(items)) % 2 == 0 if restrict else None
    found = search_catalogue(
        model("t5"), ragged(prompts), trie, beams=len(items) + 20, allowed=allowed, over_catalogue=True
    )
    for user in range(len(prompts)):
        # A restriction takes items away; what is left keeps its probability among all.
        expected = scores[user] if allowed is None else scores[user][allowed]
        real = found.items[user] >= 0
        assert found.scores[user][real] == pytest.approx(np.sort(expected)[::-1], abs=1e-4)
        assert found.scores[user][real] == pytest.approx(scores[user][found.items[user][real]], abs=1e-4)


@given(cases(), st.sampled_from([0.0, 0.2]), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_losses_and_their_gradients_are_those_of_a_loop(
    case: tuple[Lists, Lists, np.ndarray], smoothing: float, seed: int
) -> None:
    items = case[0]
    draw = torch.Generator().manual_seed(seed)
    longest = max(map(len, items))
    outputs = torch.randn((len(items), longest, 4), generator=draw, requires_grad=True)
    weight = torch.randn((VOCABULARY, 4), generator=draw, requires_grad=True)
    targets = torch.tensor([row + [-1] * (longest - len(row)) for row in items])
    trie = TokenTrie.from_rows(ragged(items))

    expected = torch.zeros(targets.shape)
    for number, row in enumerate(items):
        for depth, token in enumerate(row):
            allowed = followers(items, row[:depth])
            chances = (outputs[number, depth] @ weight[allowed].T).log_softmax(0)
            aim = torch.tensor([float(other == token) for other in allowed])
            aim = (1 - smoothing) * aim + smoothing / len(allowed)
            expected[number, depth] = -(aim * chances).sum()
    losses = token_losses(outputs, weight, trie, targets, smoothing)
    assert torch.allclose(losses, expected, atol=1e-5)
    wanted = torch.autograd.grad(expected.sum(), (outputs, weight), allow_unused=True)
    given_ = torch.autograd.grad(losses.sum(), (outputs, weight), allow_unused=True) if losses.requires_grad else None
    for one, other in zip(given_ or (None, None), wanted, strict=True):
        zero = torch.zeros(())
        assert torch.allclose(zero if one is None else one, zero if other is None else other, atol=1e-5)


@given(cases(), st.sampled_from([0.0, 0.2]), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_products_in_bfloat16_give_the_losses_to_their_rounding_and_none_below_zero(
    case: tuple[Lists, Lists, np.ndarray], smoothing: float, seed: int
) -> None:
    items = case[0]
    draw = torch.Generator().manual_seed(seed)
    longest = max(map(len, items))
    # Logits as far apart as a trained model's: all but certain tokens lose next to nothing.
    outputs = 3.0 * torch.randn((len(items), longest, 16), generator=draw)
    weight = torch.randn((VOCABULARY, 16), generator=draw)
    targets = torch.tensor([row + [-1] * (longest - len(row)) for row in items])
    trie = TokenTrie.from_rows(ragged(items))
    exact = token_losses(outputs, weight, trie, targets, smoothing)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = token_losses(outputs, weight, trie, targets, smoothing)
    assert rounded.min() >= 0.0
    # Eight bits of both factors and of their sum, in the target's logit and in the normalizer.
    bound = 2.0 * 3 * 2.0**-9 * float((outputs.abs() @ weight.abs().T).max())
    assert (rounded - exact).abs().max() <= bound


def test_only_prefixes_where_items_part_are_computed() -> None:
    # Item 0 stands alone after its first token; items 1 and 2 part at the second.
    rows = [[2, 7, 8, END], [3, 7, 8, END], [3, 9, 8, END]]
    items, trie = ItemTokens.from_rows(ragged(rows)), TokenTrie.from_rows(ragged(rows))
    trees = build_trees(np.array([[0, 1], [2, -1]], dtype=np.int32), items)
    left, number = where_items_part(trees, catalogue_nodes(trees, trie), trie)
    # Of user 0 the root and <3>; of user 1 the same; <2> and all deeper prefixes have one way on.
    assert [int(token) for token in left.node_token] == [-1, 3, -1, 3]
    assert left.node_user.tolist() == [0, 0, 1, 1]
    assert number.tolist() == [0, 1, 0, 1]
    assert sorted(zip(left.edge_parent.tolist(), left.edge_token.tolist(), strict=True)) == [
        (0, 2), (0, 3), (1, 7), (2, 3), (3, 9),
    ]  # fmt: skip
    assert ((left.paths >= 0).sum(axis=2) == [[1, 2], [2, 0]]).all()


def test_wide_levels_without_a_table_are_normalized_alike() -> None:
    # 40 first tokens, each with one of 600 seconds: too sparse for a table.
    draw = np.random.default_rng(3)
    rows = [[2 + first, 100 + int(second), END] for first in range(40) for second in draw.choice(600, 2, replace=False)]
    trie = TokenTrie.from_rows(ragged(rows))
    assert trie.branches[1].table is None
    outputs, weight = torch.randn(40, 8), torch.randn(700, 8)
    node = torch.arange(40)
    found = log_normalizers(outputs, weight, trie, 1, node)
    for number in range(40):
        allowed = followers(rows, [2 + number])
        assert float(found[number]) == pytest.approx(
            float((outputs[number] @ weight[allowed].T).logsumexp(0)), abs=1e-5
        )


def test_every_task_that_answers_with_an_item_has_the_trie_of_its_rows(tmp_path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    tries = target_tries(corpus, N_ITEMS)
    assert sorted(tries) == ["desc2id_collaborative", "desc2id_semantic", "doc2query", "nrip", "nsip"]
    # The descriptions' identifiers come without the behavior's token.
    assert tries["nrip"].depth == 5
    assert tries["desc2id_collaborative"].depth == 4


SIZE = {
    "d_model": 32,
    "d_ff": 64,
    "d_kv": 8,
    "num_heads": 2,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "dropout_rate": 0,
}


def test_a_generator_trained_over_the_catalogue_ranks_and_finds_its_targets(tmp_path) -> None:
    corpus, samples = write_corpus(tmp_path / "corpus"), write_samples(tmp_path / "samples")
    settings_ = TrainingSettings(
        backbone="scratch",
        size=SIZE,
        epochs=60,
        batch_size=10,
        learning_rate=1e-2,
        embedding_rate=5.0,
        likelihood="catalogue",
        patience=None,
        validations_per_epoch=1,
    )
    train_generator(corpus, samples, tmp_path / "model", settings_, seed=3, checkpoints=None)
    generator = TrainedGenerator.load(tmp_path / "model", corpus)
    assert generator.over_catalogue
    rank_candidates(tmp_path / "model", corpus, samples, tmp_path / "ranks", "own", RankingSettings())

    record = json.loads((tmp_path / "ranks" / "own.stage.json").read_text())["counts"]
    assert record["rec_valid_ndcg@5"] > 0.9
    best = json.loads((tmp_path / "model" / "curve.json").read_text())
    assert max(entry["score"] for entry in best) == pytest.approx(
        (record["rec_valid_ndcg@5"] + record["search_valid_ndcg@5"]) / 2, abs=1e-6
    )
    with pytest.raises(UserError, match="likelihood: catalogue"):
        rank_candidates(tmp_path / "model", corpus, samples, tmp_path / "beams", "own", RankingSettings(beams=5))


def test_beams_among_candidates_and_the_catalogue_exclude_each_other() -> None:
    entry = {"corpus": "c", "likelihood": "catalogue", "ranking": {"beams": 30}}
    with pytest.raises(UserError, match="likelihood: vocabulary"):
        validate(GeneratorSettings, entry, "generators.x")

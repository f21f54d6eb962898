"""The likelihood over the catalogue: losses against plain loops, and training, ranking and search by it."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.config.generators import RankingSettings
from gensar_core.corpora import trie as trie_module
from gensar_core.corpora.read import ItemTokens, load_examples, load_item_tokens
from gensar_core.corpora.trie import TokenTrie, load_tries
from gensar_core.errors import UserError
from gensar_core.generator.backbones import load as backbone
from gensar_core.generator.beam_search import beam_search
from gensar_core.generator.candidate_scores import score_candidates
from gensar_core.generator.item_targets import target_tries
from gensar_core.generator.likelihoods import VOCABULARY as OVER_VOCABULARY
from gensar_core.generator.likelihoods import CatalogueLikelihood
from gensar_core.generator.prefix_tree import build_trees, keep_choices
from gensar_core.generator.rank import rank_candidates
from gensar_core.generator.train import train_generator
from gensar_core.generator.trained import TrainedGenerator
from gensar_core.generator.training_task import GeneratorTask
from gensar_core.runtime.stage import read_record
from gensar_core.training.state import TrainingState
from tests.support.generator_folders import N_ITEMS, TINY, tiny_settings, write_corpus, write_samples
from tests.support.gpu_stand_in import GPU, Waits
from tests.unit.generator.small_models import END, VOCABULARY, Lists, cases, followers, ragged

SCRATCH = tiny_settings(
    size=TINY.model_copy(update={"dropout_rate": 0.0}), epochs=60, batch_size=10, learning_rate=1e-2, embedding_rate=5.0,
    likelihood="catalogue", validations_per_epoch=1,
)  # fmt: skip


def token_losses(
    items: Lists, outputs: torch.Tensor, weight: torch.Tensor, smoothing: float, dense: int = 1 << 20
) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_module, "_DENSE", dense)
        likelihood = CatalogueLikelihood(TokenTrie.from_rows(ragged(items)))
        return likelihood.token_losses(outputs, weight, padded(items), smoothing)


def padded(items: Lists) -> np.ndarray:
    return ragged(items).padded(max(map(len, items)), -1)


@pytest.mark.parametrize("dense", [0, 1 << 20], ids=["no tables", "tables"])
@given(cases().map(lambda case: case[0]), st.sampled_from([0.0, 0.2]), st.integers(0, 1000))
@settings(max_examples=30)
def test_losses_and_their_gradients_are_those_of_a_loop(dense: int, items: Lists, smoothing: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    outputs = torch.randn((*padded(items).shape, 4), generator=draw, requires_grad=True)
    weight = torch.randn((VOCABULARY, 4), generator=draw, requires_grad=True)
    expected = torch.zeros(outputs.shape[:2])
    for number, row in enumerate(items):
        for depth, token in enumerate(row):
            allowed = followers(items, row[:depth])
            chances = (outputs[number, depth] @ weight[allowed].T).log_softmax(0)
            aim = torch.tensor([float(other == token) for other in allowed])
            expected[number, depth] = -(((1 - smoothing) * aim + smoothing / len(allowed)) * chances).sum()
    losses = token_losses(items, outputs, weight, smoothing, dense)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    # Without any choice, losses are constant.
    if losses.requires_grad:
        gradients, expected_gradients = (
            torch.autograd.grad(one.sum(), (outputs, weight)) for one in (losses, expected)
        )
        torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-5)


@given(cases().map(lambda case: case[0]), st.sampled_from([0.0, 0.2]), st.integers(0, 1000))
@settings(max_examples=30)
def test_losses_in_bfloat16_are_exact_up_to_rounding_and_never_negative(
    items: Lists, smoothing: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    # Logits as far apart as a trained model's: all but certain tokens lose next to nothing.
    outputs = 3.0 * torch.randn((*padded(items).shape, 16), generator=draw)
    weight = torch.randn((VOCABULARY, 16), generator=draw)
    exact = token_losses(items, outputs, weight, smoothing)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = token_losses(items, outputs, weight, smoothing)
    assert rounded.min() >= 0.0
    # Eight bits of both factors and of their sum, in the target's logit and in the normalizer.
    bound = 2.0 * 3 * 2.0**-9 * float((outputs.abs() @ weight.abs().T).max())
    assert (rounded - exact).abs().max() <= bound


@pytest.mark.parametrize("dense", [None, 0, 1 << 20], ids=["vocabulary", "catalogue, no tables", "catalogue, tables"])
def test_a_gpu_is_waited_for_only_to_fetch_scores(
    dense: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trie_module, "_DENSE", dense or 0)
    corpus, options = write_corpus(tmp_path / "corpus"), tiny_settings(label_smoothing=0.1, optimizer="adafactor")
    model = backbone.build(options, corpus, 1).to(GPU)
    tries = target_tries(corpus, N_ITEMS) if dense is not None else {}
    likelihoods = {task: CatalogueLikelihood(trie.to(GPU)) for task, trie in tries.items()}
    examples = load_examples(corpus, len(model.lm_head.weight))
    task, state = GeneratorTask(model, options, examples, [], 1, likelihoods=likelihoods), TrainingState()
    items = load_item_tokens(corpus, len(model.lm_head.weight), END)["rec"]
    candidates, prompts = np.tile(np.arange(N_ITEMS, dtype=np.int32), (2, 1)), ragged([[5, 6, 7], [8]])
    trie = load_tries(corpus, N_ITEMS)["rec"].to(GPU)
    with Waits() as waits:
        model.train()
        for batch in itertools.islice(task.batches(0), 3):
            state.add(task.backward(batch))
        assert waits.fetched == 0
        model.eval()
        how = likelihoods.get("nrip", OVER_VOCABULARY)
        score_candidates(model, prompts, candidates, items, users_per_batch=2, likelihood=how)
        assert waits.fetched == 1
        beam_search(model, prompts, trie, beams=3)
    # Items and their scores.
    assert waits.fetched == 3
    assert state.sums.keys() == {"loss", *(f"loss_{name}" for name in examples.task_names)}


def test_only_prefixes_where_items_part_are_computed() -> None:
    # Item 0 stands alone after its first token; items 1 and 2 part at the second.
    rows = [[2, 7, 8, END], [3, 7, 8, END], [3, 9, 8, END]]
    trees = build_trees(np.array([[0, 1], [2, -1]], dtype=np.int32), ItemTokens.from_rows(ragged(rows)))
    choices = keep_choices(trees, TokenTrie.from_rows(ragged(rows)))
    # Of user 0 the root and <3>; of user 1 the same; <2> and all deeper prefixes have one way on.
    assert choices.node_token.tolist() == [-1, 3, -1, 3]
    assert choices.node_user.tolist() == [0, 0, 1, 1]
    assert choices.trie_node is not None
    assert choices.trie_node.tolist() == [0, 1, 0, 1]
    edges = zip(choices.edge_parent.tolist(), choices.edge_token.tolist(), strict=True)
    assert sorted(edges) == [(0, 2), (0, 3), (1, 7), (2, 3), (3, 9)]
    assert ((choices.paths >= 0).sum(axis=2) == [[1, 2], [2, 0]]).all()


def test_a_generator_trained_over_the_catalogue_ranks_its_targets_first(tmp_path: Path) -> None:
    corpus, samples = write_corpus(tmp_path / "corpus"), write_samples(tmp_path / "samples")
    model = tmp_path / "model"
    train_generator(corpus, samples, model, SCRATCH, seed=3, checkpoints=None)
    for task in ("rec", "search"):
        assert isinstance(TrainedGenerator.load(model, corpus).likelihood(task), CatalogueLikelihood)
    rank_candidates(model, corpus, samples, tmp_path / "ranks", "gensar", RankingSettings())
    counts = read_record(tmp_path / "ranks" / "gensar.stage.json")["counts"]
    assert counts["rec_valid_ndcg@5"] > 0.9
    best_score = max(entry["score"] for entry in json.loads((model / "curve.json").read_text()))
    mean = (counts["rec_valid_ndcg@5"] + counts["search_valid_ndcg@5"]) / 2
    assert best_score == pytest.approx(mean, abs=1e-6)
    with pytest.raises(UserError, match="likelihood: catalogue"):
        rank_candidates(model, corpus, samples, tmp_path / "beams", "gensar", RankingSettings(beams=5))

    tries = target_tries(corpus, N_ITEMS)
    assert sorted(tries) == ["desc2id_collaborative", "desc2id_semantic", "doc2query", "nrip", "nsip", "query2id"]
    # The descriptions' identifiers come without the behavior's token.
    assert (tries["nrip"].depth, tries["desc2id_collaborative"].depth) == (5, 4)

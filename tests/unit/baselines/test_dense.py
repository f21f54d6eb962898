"""Fine-tuned dense retrieval: the contract of all methods, the loss by a plain loop, and what each form can learn."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gensar_core.baselines.methods.dense import METHOD, DenseSettings, DenseTraining
from gensar_core.config.embeddings import TextEmbedding
from gensar_core.embeddings.text import embed_catalogue
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import load_candidates
from gensar_core.runtime.tensors import save_vectors
from tests.support.method_contract import N_ITEMS, MethodContract, random_clicks, ranks, write_shop
from tests.support.tiny_bert import save_tiny_bert
from tests.unit.baselines.helpers import make, rewrite_texts

HEAD = {"train": "head", "epochs": 40, "patience": 40, "batch_size": 32, "learning_rate": 1.0e-2}


class TestDenseHead(MethodContract):
    kind = "dense"
    own = {**HEAD, "epochs": 2, "item_bias": True}  # noqa: RUF012


def tuned(data, **settings):
    method = make("dense", data, **settings)
    return method, method.fit(None, "")


@pytest.fixture
def turned(tmp_path):
    """A shop whose query vectors are right for its items, but turned: item i answers query i % 5."""
    data = write_shop(tmp_path, random_clicks(), N_ITEMS)
    rng = np.random.default_rng(0)
    queries = np.linalg.qr(rng.normal(size=(8, 8)))[0][:5]
    items = queries[np.arange(N_ITEMS) % 5] + rng.normal(size=(N_ITEMS, 8)) * 0.1
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    save_vectors({"items": items, "queries": queries @ turn}, data.embedding)
    return data


def right_queries_first(method):
    """Share of the test lists whose first candidate answers the query."""
    lists = load_candidates(method.data.samples_folder, "search", "test")
    first = lists.items[np.arange(len(lists)), method.score(lists).argmax(axis=1)]
    return np.mean(first % 5 == lists.samples["query_id"].to_numpy())


def test_a_head_learns_to_rotate_queries_towards_their_items(turned):
    method, _ = tuned(turned, **HEAD)
    assert right_queries_first(tuned(turned, **{**HEAD, "learning_rate": 1.0e-12})[0]) < 0.6
    assert right_queries_first(method) == 1.0
    for rows in (method.ranked_with["queries"], method.ranked_with["items"]):
        assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)
    assert not method.ranked_with["bias"].any()


def test_an_untrained_head_ranks_like_the_frozen_vectors(turned):
    method = make("dense", turned, train="head")
    method.settle()
    for side in ("queries", "items"):
        assert method.ranked_with[side] == pytest.approx(turned.vectors(side), abs=1e-6)


def test_an_item_bias_tells_items_of_one_text_apart(tmp_path):
    # Items 0 and 5 answer query 0 with the same text; 5 is clicked three times as often.
    data = write_shop(tmp_path, [[1, 0], [2, 5], [3, 5], [4, 5]], 10, negatives=9)
    save_vectors({"items": np.tile([1.0, 0.0], (10, 1)), "queries": np.tile([1.0, 0.0], (5, 1))}, data.embedding)
    for bias in (True, False):
        method, _ = tuned(data, **{**HEAD, "epochs": 20}, item_bias=bias, bm25_negatives=0, correct_popularity=False)
        lists = load_candidates(data.samples_folder, "search", "test")
        scores = method.score(replace(lists, items=np.tile([[5, 0]], (4, 1)).astype(np.int32)))
        assert (scores[:, 0] > scores[:, 1] + 1.0e-4).all() == bias


def plain_loss(method, training, pairs, settings):
    """InfoNCE of each pair of a batch, item by item."""
    vectors = {side: method.data.vectors(side).astype(np.float64) for side in ("queries", "items")}
    pool = set(training.targets[pairs]) | set(training.bm25_negatives(pairs).values.tolist())
    clicked = set(zip(training.queries.tolist(), training.targets.tolist(), strict=True))
    clicks = np.bincount(training.targets, minlength=method.data.n_items)
    losses = []
    for query, target in zip(training.queries[pairs].tolist(), training.targets[pairs].tolist(), strict=True):

        def logit(item, query=query):
            one, other = vectors["queries"][query], vectors["items"][item]
            cosine = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
            return cosine / settings.temperature - settings.correct_popularity * math.log(1 + clicks[item])

        against = [item for item in pool if item == target or not (settings.spare_clicked and (query, item) in clicked)]
        losses.append(-logit(target) + math.log(sum(math.exp(logit(item)) for item in against)))
    return np.mean(losses)


@pytest.mark.parametrize("spare", [True, False])
@pytest.mark.parametrize("correct", [True, False])
def test_the_loss_matches_a_plain_loop(tmp_path, spare, correct):
    data = write_shop(tmp_path, random_clicks()[:30], N_ITEMS)
    settings = DenseSettings(
        train="head", temperature=0.3, bm25_negatives=2, spare_clicked=spare, correct_popularity=correct
    )
    method = METHOD(settings, data, 5)
    training = DenseTraining(method)
    pairs = np.array([3, 7, 8, 20, 21])
    expected = plain_loss(method, training, pairs, settings)
    assert float(training.backward((0, pairs))["loss"]) == pytest.approx(expected, rel=1e-4)


def test_distinct_pairs_are_trained_once_an_epoch(tmp_path):
    data = write_shop(tmp_path, [[1, 7], [2, 7], [3, 9]], N_ITEMS)
    assert tuned(data, **HEAD)[1]["pairs"] == 3
    assert tuned(data, **HEAD, distinct_pairs=True)[1]["pairs"] == 2


def test_a_missing_embedding_is_named(tmp_path):
    data = write_shop(tmp_path, random_clicks()[:5], N_ITEMS)
    with pytest.raises(UserError, match="name an embedding under its key 'embedding'"):
        tuned(replace(data, embedding=None), train="head")


@pytest.fixture
def encoded(tmp_path):
    """A shop whose texts tell nothing to an untrained encoder of words, and its embedding by that encoder."""
    data = write_shop(tmp_path, random_clicks(), N_ITEMS)
    words = ["[PAD]", "[UNK]", *(f"a{n}" for n in range(5)), *(f"b{n}" for n in range(5)), *(f"c{n}" for n in range(8))]
    items = [f"b{item % 5} c{item // 5}" for item in range(N_ITEMS)]
    rewrite_texts(data, items=items, queries=[f"a{query}" for query in range(5)])
    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 8}
    tiny = save_tiny_bert(tmp_path, words, 16, **options)
    settings = TextEmbedding(kind="text", model=str(tiny), query_prefix="", item_prefix="")
    embed_catalogue(data.canonical, tmp_path / "embedding", settings, 42)
    return replace(data, embedding=tmp_path / "embedding" / "vectors.safetensors")


def test_an_encoder_starts_from_a_head_and_ranks_no_worse(encoded):
    settings = {"epochs": 10, "batch_size": 32, "learning_rate": 1.0e-2, "patience": 10}
    head, counts = tuned(encoded, train="head", **settings)
    best = counts["best_valid_ndcg@5"]
    # The head has learned something, and frozen vectors are among what it chooses from.
    assert best > counts["curve"][0]["score"] + 0.1
    # Steps that change nothing: texts as before, through the head's maps.
    started, same = tuned(encoded, head=settings, epochs=1, learning_rate=1.0e-12)
    assert same["head"]["best_valid_ndcg@5"] == best
    assert [entry["valid_ndcg@5"] for entry in same["curve"]] == pytest.approx([best, best], abs=1e-6)
    for side in ("queries", "items"):
        assert started.ranked_with[side] == pytest.approx(head.ranked_with[side], abs=1e-5)
    # Steps that spoil everything: the start is kept.
    spoiled, counts = tuned(encoded, head=settings, epochs=1, learning_rate=10.0, max_tokens=3)
    assert counts["best_step"] == 0
    assert counts["best_valid_ndcg@5"] == pytest.approx(best, abs=1e-6)
    assert spoiled.ranked_with["items"] == pytest.approx(head.ranked_with["items"], abs=1e-5)


def test_training_reads_fewer_tokens_of_a_text_than_ranking(encoded):
    method = make("dense", encoded, max_tokens=1)
    method.module.eval()
    with torch.no_grad():
        first_word = method.module("items", np.arange(10))
    assert torch.allclose(first_word[0], first_word[5], atol=1e-6)  # b0 c0 and b0 c1
    assert method.module.vectors()["items"] == pytest.approx(encoded.vectors("items"), abs=1e-5)


@pytest.mark.slow
def test_an_encoder_learns_which_words_go_together(encoded, tmp_path):
    method = make("dense", encoded, epochs=40, learning_rate=3.0e-3, batch_size=32, patience=40)
    method.settle()
    for side in ("queries", "items"):
        assert method.ranked_with[side] == pytest.approx(encoded.vectors(side), abs=1e-5)
    assert right_queries_first(method) < 0.6
    method.fit(None, "")
    assert right_queries_first(method) == 1.0
    (tmp_path / "model").mkdir()
    method.save(tmp_path / "model")
    assert {path.suffix for path in (tmp_path / "model").iterdir()} == {".safetensors"}
    loaded = make("dense", encoded)
    loaded.load(tmp_path / "model")
    lists = load_candidates(encoded.samples_folder, "search", "test")
    assert (ranks(loaded, lists) == ranks(method, lists)).all()
    learned = method.item_vectors()
    assert learned.vectors.shape == (N_ITEMS, 16)
    assert learned.seen.all()

"""UniSAR and the layers it shares: masks, extractors and losses against plain loops and torch's layers."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional

from gensar_core.baselines.methods.unisar import METHOD, Experts, UniSARSettings
from gensar_core.baselines.shared.target_rows import TargetHistories, TargetRows
from gensar_core.nn.attention import Attention, DecoderLayer, EncoderLayer, TargetAttention
from gensar_core.nn.contrastive import QueryItemAlignment, ViewAlignment
from gensar_core.ranking.candidates import CandidateLists, load_candidates
from tests.support.method_contract import N_ITEMS, random_clicks, write_shop
from tests.unit.baselines.helpers import HISTORIES, history_samples, last_slots, random_weights

SIZE, CLICKS, SEARCHES = 8, 3, 4


@pytest.fixture(scope="module")
def method(tmp_path_factory):
    data = write_shop(tmp_path_factory.mktemp("shop"), random_clicks(), N_ITEMS, searching=True)
    settings = UniSARSettings(
        dimensions=SIZE, embedding_size=4, experts=2, max_recommendations=CLICKS, max_searches=SEARCHES
    )
    method = METHOD(settings, data, 1)
    random_weights(method.module)
    return method


def linear(layer, vector):
    return layer.weight @ vector + layer.bias


def slot_vector(model, slot):
    def item(number):
        return torch.tanh(linear(model.projections["item"], model.items.weight[number]))

    if isinstance(slot, int):
        return item(slot)
    words = model.words.words[model.words.offsets[slot[0]] : model.words.offsets[slot[0] + 1]]
    mean = torch.stack([model.words.table.weight[word] for word in words]).mean(dim=0)
    vector = torch.tanh(linear(model.projections["query"], mean))
    return vector + sum(item(number) for number in slot[1]) / len(slot[1]) if slot[1] else vector


def state_by_state(layer, states, allowed):
    """An encoder layer over the vectors ``states``, asked for each alone; state i attends to those j with allowed[i][j]."""
    outputs = []
    for state, row in zip(states, allowed, strict=True):
        others = [other for other, attended in zip(states, row, strict=True) if attended]
        keys = torch.stack(others or [torch.zeros(SIZE)])[None]
        outputs.append(layer(state[None, None], keys, torch.full(keys.shape[:2], bool(others)))[0, 0])
    return outputs


@torch.no_grad()
def test_the_four_transitions_match_a_plain_loop_over_merged_slots(method):
    model = method.module
    batch = TargetHistories.from_samples(history_samples(HISTORIES), CLICKS, SEARCHES).padded(torch.device("cpu"))
    transitions = model.transitions(batch)
    for row, slots in enumerate(last_slots(slots, CLICKS, SEARCHES) for slots in HISTORIES):
        vectors = [slot_vector(model, slot) for slot in slots]
        is_click = [isinstance(slot, int) for slot in slots]
        placed = [vector + model.positions["both"].weight[place] for place, vector in enumerate(vectors)]
        # Blocked between slots of one kind, each slot itself included.
        allowed = [[kind != other for other in is_click] for kind in is_click]
        across = state_by_state(model.extractors["both"], placed, allowed)
        for side, of_side in (("clicks", True), ("searches", False)):
            placed_alone = [vector for vector, kind in zip(vectors, is_click, strict=True) if kind == of_side]
            placed_alone = [vector + model.positions[side].weight[place] for place, vector in enumerate(placed_alone)]
            within = state_by_state(
                model.extractors[side], placed_alone, [[True] * len(placed_alone)] * len(placed_alone)
            )
            expected = [state for state, kind in zip(across, is_click, strict=True) if kind == of_side]
            for states, wanted in zip(transitions[side], (expected, within), strict=True):
                for state, one in zip(states[row], wanted, strict=False):
                    assert torch.allclose(state, one, atol=1e-4)


@torch.no_grad()
def test_later_slots_move_earlier_states(method):
    # No extractor is causal: the last session reaches the first click, and the last click the first.
    histories = [[1, (2, [1]), 7, (0, [9])], [1, (2, [1]), 7, (3, [4])], [1, (2, [1]), 8, (0, [9])]]
    transitions = method.module.transitions(
        TargetHistories.from_samples(history_samples(histories), 9, 9).padded(torch.device("cpu"))
    )
    across, within = transitions["clicks"]
    assert (across[0, 0] - across[1, 0]).abs().max() > 1e-3
    assert torch.equal(within[0], within[1])
    assert (within[0, 0] - within[2, 0]).abs().max() > 1e-3


@torch.no_grad()
def test_padding_does_not_change_scores(method):
    lists = load_candidates(method.data.samples_folder, "search", "test")
    rows = TargetRows.from_samples("search", history_samples(HISTORIES, query=1), CLICKS, SEARCHES)
    together, _ = method.module(rows.batch(np.arange(5), lists.items[:5], torch.device("cpu")))
    for row in range(5):
        alone, _ = method.module(rows.batch(np.array([row]), lists.items[row : row + 1], torch.device("cpu")))
        assert torch.allclose(alone[0], together[row], atol=1e-4)


@torch.no_grad()
def test_only_search_reads_the_query(method):
    lists = load_candidates(method.data.samples_folder, "search", "test")
    other = lists.samples.with_columns((pl.col("query_id") + 1) % 5)
    assert (method.score(lists) != method.score(CandidateLists(other, lists.items))).any(axis=1).all()
    rec = load_candidates(method.data.samples_folder, "rec", "test")
    with_query = rec.samples.with_columns(query_id=pl.lit(3, pl.Int32))
    assert (method.score(rec) == method.score(CandidateLists(with_query, rec.items))).all()


def copy_attention(attention, other):
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([attention.queries.weight, attention.keys.weight]))
        other.in_proj_bias.copy_(torch.cat([attention.queries.bias, attention.keys.bias]))
        other.out_proj.load_state_dict(attention.output.state_dict())


def copy_encoder(layer, other, attention, norms):
    copy_attention(layer.attention, attention)
    for name, source in zip(norms, (layer.after_attention, layer.after_pointwise), strict=True):
        getattr(other, name).load_state_dict(source.state_dict())
    other.linear1.load_state_dict(layer.pointwise[0].state_dict())
    other.linear2.load_state_dict(layer.pointwise[3].state_dict())


@torch.no_grad()
def test_layers_match_those_of_torch():
    states, memory = torch.randn(3, 5, SIZE), torch.randn(3, 5, SIZE)
    mask = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    layer = random_weights(EncoderLayer(SIZE, 2, 0.1, torch.nn.ReLU()))
    other = torch.nn.TransformerEncoderLayer(SIZE, 2, SIZE, batch_first=True).eval()
    copy_encoder(layer, other, other.self_attn, ("norm1", "norm2"))
    expected = other(states, src_key_padding_mask=~mask)
    assert torch.allclose(layer(states, states, mask)[mask], expected[mask], atol=1e-5)

    decoder = random_weights(DecoderLayer(SIZE, 2, 0.1))
    other = torch.nn.TransformerDecoderLayer(SIZE, 2, SIZE, batch_first=True).eval()
    copy_attention(decoder.own, other.self_attn)
    other.norm1.load_state_dict(decoder.after_own.state_dict())
    copy_encoder(decoder.cross, other, other.multihead_attn, ("norm2", "norm3"))
    expected = other(states, memory, tgt_key_padding_mask=~mask, memory_key_padding_mask=~mask)
    assert torch.allclose(decoder(states, memory, mask)[mask], expected[mask], atol=1e-5)


def test_attention_without_keys_is_zero_and_has_a_finite_gradient():
    attention = Attention(SIZE, 2, 0.0)
    states = torch.randn(2, 3, SIZE, requires_grad=True)
    mask = torch.tensor([[True, False, False], [False, False, False]])
    contexts = attention(states, states, mask)
    contexts.sum().backward()
    assert torch.equal(contexts[1], torch.zeros(3, SIZE))
    assert torch.isfinite(states.grad).all()
    assert (contexts[0] != 0).any()


@torch.no_grad()
def test_target_attention_by_loop():
    attention = random_weights(TargetAttention(SIZE))
    states, candidates = torch.randn(2, 3, SIZE), torch.randn(2, 4, SIZE)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    (attended,) = attention(states, candidates, mask)
    for place, candidate in enumerate(candidates[0]):
        weights = [math.exp(float(attention.bilinear.weight @ state @ candidate)) for state in states[0, :2]]
        expected = sum(w * state for w, state in zip(weights, states[0], strict=False)) / sum(weights)
        assert torch.allclose(attended[0, place], expected, atol=1e-4)
    assert torch.equal(attended[1], torch.zeros(4, SIZE))


@torch.no_grad()
def test_two_views_are_aligned_against_all_other_views():
    alignment = random_weights(ViewAlignment(SIZE, 0.5))
    alignment.temperature.fill_(0.5)
    first, second = torch.randn(3, SIZE), torch.randn(3, SIZE)
    views = [*first, *second]
    losses = []
    for i, view in enumerate(views):
        similar = [math.tanh(float(alignment.bilinear.weight @ view @ other)) / 0.5 for other in views]
        others = sum(math.exp(similar[j]) for j in range(6) if j != i)
        losses.append(math.log(others) - similar[(i + 3) % 6])
    assert alignment(first, second).item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert alignment(first[:0], second[:0]).item() == 0.0


@torch.no_grad()
def test_queries_and_items_are_aligned_against_random_ones():
    alignment = random_weights(QueryItemAlignment(SIZE, 0.2, 100, 4, torch.arange(7) == 3))
    alignment.temperature.fill_(0.2)
    items, queries = torch.randn(7, SIZE) * 0.3, torch.randn(4, SIZE) * 0.3
    pairs = [(0, 1), (0, 5), (3, 1), (0, 1)]

    def similar(query, item):
        return math.tanh(float(alignment.bilinear.weight @ queries[query] @ items[item])) / 0.2

    losses = []
    for query, item in pairs:
        # There are fewer than 100, so every query and every item but the cold one is a negative once.
        for negatives in ([similar(query, j) for j in range(7) if j != 3], [similar(q, item) for q in range(4)]):
            total = math.exp(similar(query, item)) + sum(map(math.exp, negatives))
            losses.append(math.log(total) - similar(query, item))
    query_numbers, item_numbers = torch.tensor(pairs).T
    loss = alignment(query_numbers, item_numbers, lambda n: queries[n], lambda n: items[n])
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-4)


@torch.no_grad()
def test_experts_by_loop():
    experts = random_weights(Experts(5 * SIZE, SIZE, 2, 0.1))
    of_candidates, of_rows = torch.randn(2, 3, 3 * SIZE), torch.randn(2, 2 * SIZE)
    mixed = experts("search", of_candidates, of_rows)
    for row in range(2):
        for place in range(3):
            inputs = torch.cat([of_candidates[row, place], of_rows[row]])
            outputs = [
                torch.relu(linear(experts.experts[name], inputs)).view(2, SIZE)[number]
                for name in ("shared", "search")
                for number in range(2)
            ]
            gate = functional.softmax(linear(experts.gates["search"], inputs), dim=0)
            expected = sum(weight * output for weight, output in zip(gate, outputs, strict=True))
            assert torch.allclose(mixed[row, place], expected, atol=1e-4)


def test_the_loss_starts_at_the_entropy_of_untrained_logits_and_has_its_parts(method):
    fresh = METHOD(method.settings, method.data, 5)
    fresh.module.train()
    with torch.no_grad():
        for table in fresh.module.tables():
            table.weight.mul_(0.01)
    for task in ("rec", "search"):
        losses = fresh.training_set(task).losses(np.arange(20), 0)
        assert losses["ranking"].item() == pytest.approx(math.log(2), abs=1e-6)
        assert set(losses) == {"ranking", "history", "query_item"}
        assert losses["history"].item() > 0.0
        # InfoNCE of nearly equal vectors of 40 items and 5 queries.
        assert losses["query_item"].item() == pytest.approx(0.1 * (math.log(41) + math.log(6)) / 2, rel=0.2)
    vectors = fresh.item_vectors().vectors
    assert vectors.shape == (N_ITEMS, SIZE)
    assert np.abs(vectors).max() < 1.0

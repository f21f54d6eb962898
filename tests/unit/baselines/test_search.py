"""QEM, TEM and CoPPS: the contract of all methods, and each part against plain loops and hand values."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensar_core.baselines.methods.copps import Partners, brands_and_leaves, contrast
from gensar_core.baselines.shared.product_search import ItemSequences
from gensar_core.baselines.shared.sequence_views import Substitutes, altered, cropped, shuffled, with_hidden
from gensar_core.baselines.shared.target_model import sinusoids
from gensar_core.baselines.shared.target_rows import TargetHistories, TargetRows
from gensar_core.ranking.candidates import load_candidates
from tests.support.method_contract import BY_HEART, N_ITEMS, TrainedMethodContract, random_clicks, write_shop
from tests.unit.baselines.helpers import history_samples, make
from tests.unit.baselines.test_rows import SLOTS

SMALL = {**BY_HEART, "epochs": 60, "validate_every": 30}
#: Queries stand for eight items each, of which four are among 20 candidates.
NOT_PERSONAL = 0.2


class TestQEM(TrainedMethodContract):
    kind = "qem"
    own = SMALL
    by_heart_in_search = NOT_PERSONAL


@pytest.mark.slow
class TestQEMAsPublished(TrainedMethodContract):
    kind = "qem"
    own = {  # noqa: RUF012
        **SMALL, "catalogue_softmax": False, "query_vectors": False, "stored_negatives": False, "sampled_negatives": 24,
        "popularity_power": 0.0, "learning_rate": 2.0e-2, "epochs": 200, "validate_every": 100,
    }  # fmt: skip
    by_heart_in_search = NOT_PERSONAL


@pytest.mark.slow
class TestTEM(TrainedMethodContract):
    kind = "tem"
    own = {**SMALL, "inner_dimensions": 32, "blocks": 2, "epochs": 100, "validate_every": 50}  # noqa: RUF012


@pytest.mark.slow
class TestCoPPS(TrainedMethodContract):
    kind = "copps"
    own = {**SMALL, "inner_dimensions": 32, "epochs": 100, "validate_every": 50}  # noqa: RUF012


def batch_of(method, task="search"):
    lists = load_candidates(method.data.samples_folder, task, "test")
    rows = TargetRows.from_samples(
        task, lists.samples, method.settings.max_recommendations, method.settings.max_searches
    )
    return rows.batch(np.arange(len(rows)), lists.items, torch.device("cpu"))


def test_qem_learns_how_often_items_are_clicked_after_a_query(tmp_path):
    # After query 0 item 0 is clicked four times, item 5 twice, item 10 once; all others stand for query 1.
    targets = [0] * 4 + [5] * 2 + [10] + [1] * 5
    data = write_shop(tmp_path, [[2, target] for target in targets], 11, negatives=10)
    method = make("qem", data, **{**SMALL, "epochs": 400, "validate_every": 400})
    method.fit(None, "")
    logits = method.module.catalogue(batch_of(method))[0]
    shares = torch.softmax(logits, dim=0)
    assert shares[[0, 5, 10]].tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=0.03)


@torch.no_grad()
def test_a_query_without_words_has_the_vector_of_the_bias(tmp_path):
    method = make("qem", write_shop(tmp_path, random_clicks()[:5], N_ITEMS), query_vectors=False)
    model = method.module.eval()
    model.words.offsets.zero_()
    vectors = model.queries(torch.arange(3))
    assert torch.equal(vectors, torch.tanh(model.projection.bias).expand(3, -1))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["qem", "tem", "copps"])
def test_logits_start_out_small(tmp_path, kind):
    method = make(kind, write_shop(tmp_path, random_clicks()[:9], N_ITEMS, searching=True))
    logits, further = method.module.eval()(batch_of(method))
    assert logits.abs().max() < 3.0
    assert not further


@torch.no_grad()
def test_logits_of_candidates_match_those_of_the_catalogue(tmp_path):
    for vectors in ("id", "text", "both"):
        data = write_shop(tmp_path / vectors, random_clicks()[:9], N_ITEMS, searching=True)
        method = make("tem", data, item_vectors=vectors)
        method.module.bias.copy_(torch.randn(N_ITEMS))
        batch = batch_of(method)
        method.module.eval()
        logits, _ = method.module(batch)
        assert torch.allclose(logits, method.module.catalogue(batch).gather(1, batch.candidates), atol=1e-5)


def by_loop(slots, most):
    """(item, query or -1) of a user's clicks, runs of equal items as one."""
    entries = []
    for slot in slots:
        entries += [(slot, -1)] if isinstance(slot, int) else [(item, slot[0]) for item in slot[1]]
    following = [item for item, _ in entries[1:]] + [None]
    kept = [entry for entry, after in zip(entries, following, strict=False) if entry[0] != after]
    return kept[max(0, len(kept) - most) :]


@given(st.lists(SLOTS, min_size=1, max_size=6), st.integers(1, 6))
def test_item_sequences_match_a_plain_loop(histories, most):
    history = TargetHistories.from_samples(history_samples(histories), 30, 30).padded(torch.device("cpu"))
    clicked = ItemSequences.from_history(history, most)
    expected = [by_loop(slots, most) for slots in histories]
    assert clicked.items.shape[1] == max(1, *(len(clicks) for clicks in expected), 0)
    for row, clicks in enumerate(expected):
        assert clicked.present[row].tolist() == [place < len(clicks) for place in range(clicked.items.shape[1])]
        shown = zip(
            clicked.items[row, : len(clicks)].tolist(), clicked.queries[row, : len(clicks)].tolist(), strict=True
        )
        assert list(shown) == clicks


def plain_layer(block, states, width):
    """One block, head by head and query by query, in float64; every slot attends to the first ``width``."""
    size = states.shape[1] // block.heads
    normalized = states if block.before_attention is None else block.before_attention(states)
    queries = block.queries(normalized)
    keys, values = block.keys_and_values(normalized).chunk(2, dim=1)
    mixed = torch.zeros_like(states)
    for head in range(block.heads):
        part = slice(head * size, (head + 1) * size)
        for slot in range(len(states)):
            logits = keys[:width, part] @ queries[slot, part] / math.sqrt(size)
            mixed[slot, part] = torch.softmax(logits, dim=0) @ values[:width, part]
    states = states + block.output(mixed)
    return states + block.pointwise(states)


@torch.no_grad()
def test_the_transformer_matches_a_plain_loop(tmp_path):
    data = write_shop(tmp_path, [[1, 2, 3, 4], [5, 6]], N_ITEMS)
    model = make("tem", data, dimensions=8, heads=2, inner_dimensions=12, blocks=2).module.eval().double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    first, tokens = torch.randn(2, 8).double(), torch.randn(2, 5, 8).double()
    present = torch.tensor([[True] * 5, [True, True, False, False, False]])
    encoded = model.encode(first, tokens, present)
    for row, width in ((0, 6), (1, 3)):
        states = torch.cat([first[row][None], tokens[row]])[:width] + sinusoids(6, 8)[:width].double()
        for block in model.blocks:
            states = plain_layer(block, states, width)
        assert torch.allclose(encoded[row], model.normalization(states[0]), atol=1e-6)
    # Padding does not matter, and a user without items has the query alone.
    assert torch.allclose(
        model.encode(first, tokens * present[:, :, None] + 9.0 * ~present[:, :, None], present), encoded
    )
    alone = model.encode(first, tokens, torch.zeros_like(present))
    assert torch.allclose(alone, model.encode(first, tokens[:, :0], present[:, :0]))
    assert model.blocks[0].before_attention is None
    assert model.blocks[1].before_attention is not None


def test_sinusoids_by_hand():
    places = sinusoids(3, 4)
    assert places[0].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert places[2].tolist() == pytest.approx([math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)])


def test_layer_gains_start_at_one(tmp_path):
    model = make("tem", write_shop(tmp_path, random_clicks()[:3], N_ITEMS)).module
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert norms
    assert all((norm.weight == 1.0).all() and norm.eps == 1.0e-6 for norm in norms)


def sequences(*rows):
    width = max(map(len, rows))
    items = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    present = torch.arange(width) < torch.tensor([[len(row)] for row in rows])
    return ItemSequences(items, torch.where(present, items + 100, -1), present)


def shown(view, row=0):
    there = view.present[row]
    return view.items[row][there].tolist(), view.queries[row][there].tolist()


@given(st.integers(0, 2**31), st.integers(1, 12))
def test_views_of_a_sequence(seed, length):
    torch.manual_seed(seed)
    original = list(range(1, length + 1))
    clicked = sequences(original, [0] * 12)
    lengths = clicked.present.sum(dim=1)
    items, queries = shown(cropped(clicked, lengths))
    assert len(items) == max(1, int(0.8 * length))
    assert items == list(range(items[0], items[0] + len(items)))
    assert queries == [item + 100 for item in items]
    items, queries = shown(with_hidden(clicked, lengths, 99))
    assert items.count(99) == max(1, int(0.3 * length))
    assert all(item in (99, was) for item, was in zip(items, original, strict=True))
    assert queries == [-1 if item == 99 else item + 100 for item in items]
    items, queries = shown(shuffled(clicked, lengths))
    assert sorted(items) == original
    moved = [place for place, item in enumerate(items) if item != original[place]]
    assert not moved or moved[-1] - moved[0] < max(1, int(0.5 * length))
    assert queries == [item + 100 for item in items]


def test_short_sequences_only_get_items_hidden():
    view = altered(sequences(*([[1, 2]] * 200)), 99)
    assert view.present.all()
    assert set(map(tuple, view.items.tolist())) == {(1, 99), (99, 2)}
    # Longer ones see all three: cropped to 4 of 5, one hidden, or two in a row exchanged.
    view = altered(sequences(*([[1, 2, 3, 4, 5]] * 200)), 99)
    short, hidden = (~view.present).any(dim=1), (view.items == 99).any(dim=1)
    assert min(int(short.sum()), int(hidden.sum()), int((~short & ~hidden).sum())) > 30


def test_substitutes_share_the_brand_or_else_the_leaf_category():
    # Brands: 0 and 1 share one, 2 has one alone, 3 none. Leaves: 2, 3 and 0 share one, 4 has neither.
    substitutes = Substitutes.of(np.array([1, 1, 2, 0, 0]), np.array([1, 2, 1, 1, 0]))
    view = substitutes(sequences(*([[0, 1, 2, 3, 4]] * 2000)))
    substituted = [set(view.items[:, place].tolist()) for place in range(5)]
    assert substituted == [{0, 1}, {0, 1}, {0, 2, 3}, {0, 2, 3}, {4}]
    # Replaced with a probability of 0.3, by itself in one of two or three draws.
    kept = (view.items == torch.arange(5)).float().mean(dim=0).tolist()
    assert kept == pytest.approx([0.85, 0.85, 0.8, 0.8, 1.0], abs=0.04)


def test_brands_and_leaves_of_items():
    categories = [[["Shop", "Lamps"], ["Shop", "Sale"]], [["Shop", "Lamps"]], []]
    items = pl.DataFrame({"brand": ["Lux", "", "Lux"], "categories": categories})
    brand, leaf = brands_and_leaves(items)
    assert brand.tolist() == [1, 0, 1]
    assert leaf.tolist() == [1, 1, 0]


def test_contrast_matches_a_plain_loop():
    vectors = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    alike = torch.zeros(6, 6, dtype=torch.bool)
    alike[0, 1] = alike[1, 0] = True
    # What belongs together counts, even where it is of one user.
    alike[2, 5] = alike[5, 2] = True
    total = 0.0
    for view in range(6):
        positive = (view + 3) % 6
        others = [j for j in range(6) if j != view and (j == positive or not alike[view, j])]
        weights = {j: math.exp(float(vectors[view] @ vectors[j]) / 0.5) for j in others}
        total -= math.log(weights[positive] / sum(weights.values())) / 6
    assert float(contrast(vectors, alike, 0.5)) == pytest.approx(total, rel=1e-5)
    assert float(contrast(vectors[:0], alike[:0, :0], 0.5)) == 0.0


def test_partners_are_other_users_with_the_same_query_and_item_or_leaf(tmp_path):
    users = np.array([0, 1, 0, 2, 3, 4])
    queries = np.array([7, 7, 7, 7, 7, 8])
    targets = np.array([0, 0, 0, 1, 2, 0])
    leaf = np.array([1, 1, 2])
    partners = Partners(users, queries, targets, leaf, 1, tmp_path)
    drawn = np.stack([partners.draw(np.arange(6), step) for step in range(200)])
    # Row 0 (user 0): row 1 has its item; row 3 shares the leaf alone. Row 2 is of the same user. Row 5 asks otherwise.
    assert set(drawn[:, 0]) == set(drawn[:, 2]) == {1, 3, -1}
    assert np.mean(drawn[:, 0] == 1) > np.mean(drawn[:, 0] == 3)
    assert set(drawn[:, 1]) == {0, 2, 3, -1} - ({3} if 3 not in drawn[:, 1] else set())
    assert set(drawn[:, 3]) == {0, 1, 2, -1}
    assert set(drawn[:, 4]) == set(drawn[:, 5]) == {-1}
    assert (partners.draw(np.arange(6), 5) == drawn[5]).all()


def test_contrasts_do_not_read_the_current_query(tmp_path):
    data = write_shop(tmp_path, random_clicks()[:20], N_ITEMS, searching=True)
    method = make("copps", data, dimensions=8, dropout=0.0, contrast_weight=0.5)
    rows = method.training_set("search")
    torch.manual_seed(3)
    losses = rows.losses(np.arange(20), 0)
    assert set(losses) == {"ranking", "contrast"}
    assert torch.isfinite(losses["contrast"])
    train = rows.rows.train
    rows.rows.train = replace(train, rows=replace(train.rows, queries=np.zeros_like(train.rows.queries)))
    torch.manual_seed(3)
    other = rows.losses(np.arange(20), 0)
    assert other["contrast"] == losses["contrast"]
    assert other["ranking"] != losses["ranking"]
    assert set(make("copps", data, contrast_weight=0.0).training_set("search").losses(np.arange(20), 0)) == {"ranking"}

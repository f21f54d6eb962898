"""Towers of ReLUs: where they begin, how their active units are counted, and who hears of dead ones."""

import json
import math

import pytest
import torch

from gensar_core.baselines.interface import find
from gensar_core.baselines.run import fit_and_rank
from gensar_core.baselines.shared.scoring_tower import ActiveUnits, Tower, begin_at_chance
from gensar_core.baselines.shared.target_model import weight_groups
from gensar_core.ranking.candidates import load_candidates
from tests.support.method_contract import N_ITEMS, random_clicks, write_shop
from tests.unit.baselines.helpers import make

SMALL = {"dimensions": 8, "query_item_negatives": 16, "batch_size": 8, "loss": "softmax"}
KINDS = ("sesrec", "unisar")
LEARNING = {**SMALL, "dimensions": 16, "epochs": 7, "learning_rate": 3.0e-3}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("shop"), random_clicks(), N_ITEMS, searching=True)


@torch.no_grad()
def test_active_units_by_hand():
    tower = Tower((1, 2, 3), 0.5).eval()
    tower[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    tower[0].bias.zero_()
    tower[3].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    tower[3].bias.zero_()
    model = torch.nn.ModuleList([tower, torch.nn.Sequential(torch.nn.Linear(1, 9), torch.nn.ReLU())])
    with ActiveUnits(model) as active:
        assert active.share is None
        # What is no tower does not count.
        model[1](torch.ones(4, 1))
        assert active.share is None
        # 2: units (2, 0) and (2, 0, 0). -1: (0, 1) and (0, 1, 0). 0: none.
        tower(torch.tensor([[[2.0], [-1.0]], [[0.0], [2.0]]]))
    assert active.share == pytest.approx((2 + 2 + 0 + 2) / 20)
    tower(torch.ones(7, 1))
    assert active.share == pytest.approx(6 / 20)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_all_candidates_score_the_same_at_first(shop, kind):
    method = make(kind, shop, **SMALL)
    for task in method.tasks:
        assert not method.score(load_candidates(shop.samples_folder, task, "valid")).any()
    # And so does a tower whose layers were drawn, from when it is told to begin.
    begin_at_chance(drawn := Tower((4, 5), 0.0))
    assert not drawn(torch.randn(6, 4)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_towers_stay_active_and_learn_in_a_few_epochs(shop, kind):
    weights = {"search_weight": 1.0} if kind == "unisar" else {}
    counts = (method := make(kind, shop, **LEARNING, **weights)).fit(None, "")
    first, last = counts["curve"][0], counts["curve"][-1]
    for task in method.tasks:
        assert all(entry[f"{task}_active_share"] > 0.25 for entry in counts["curve"])
        # Four negatives a target: chance is ln 5.
        assert first[f"train_{task}_ranking"] == pytest.approx(math.log(5), abs=0.05)
        assert last[f"train_{task}_ranking"] < math.log(5) - 0.03
    assert method.warnings == []


def test_a_dead_tower_is_warned_of(shop, tmp_path, monkeypatch):
    method = find("unisar")
    build = method.build

    def with_one_dead_tower(self):
        model = build(self)
        torch.nn.init.constant_(model.towers["rec"][0].bias, -1.0e3)
        return model

    monkeypatch.setattr(method, "build", with_one_dead_tower)
    fit_and_rank(
        "joint", "unisar", {**SMALL, "epochs": 1}, shop.canonical, shop.samples_folder, None, tmp_path / "model",
        tmp_path / "ranks", 3, None, shop.training_negatives,
    )  # fmt: skip
    record = json.loads((tmp_path / "model" / "stage.json").read_text())
    (warning,) = record["warnings"]
    assert warning.startswith("joint: only 0.0% of the tower's ReLUs are active on valid candidates of rec")
    assert "learning_rate" in warning
    assert "embedding_rate" in warning
    (entry,) = record["counts"]["curve"]
    assert entry["rec_active_share"] == 0.0
    assert 0.3 < entry["search_active_share"] < 0.7


def test_learned_vectors_have_their_own_rate(shop):
    method = make("sesrec", shop, **SMALL, learning_rate=0.01, embedding_rate=7.0, weight_decay=0.1)
    named = {id(parameter): name for name, parameter in method.module.named_parameters()}
    rates = {
        named[id(parameter)]: (group.get("lr", 0.01), group["weight_decay"])
        for group in weight_groups(method.module, method.settings)
        for parameter in group["params"]
    }
    assert set(rates) == set(named.values())
    vectors = {"items", "users", "words.table", "query_ids", "source", "positions.clicks", "positions.searches"}
    for name, (rate, decay) in rates.items():
        of_vectors = name.removesuffix(".weight") in vectors
        assert rate == pytest.approx(0.07 if of_vectors else 0.01)
        assert decay == (0.0 if name.endswith("bias") else 0.1)


@torch.no_grad()
def test_experts_read_products_with_the_candidate(shop):
    seen = {}
    for kind in KINDS:
        model = (method := make(kind, shop, **SMALL)).module
        met = model.tower if kind == "sesrec" else model.experts
        met.register_forward_pre_hook(lambda _, inputs, kind=kind: seen.__setitem__(kind, inputs))
        method.score(load_candidates(shop.samples_folder, method.tasks[-1], "valid"))
    # Of 64 lists with 21 candidates: six interests, user, candidate, and seven products.
    parts = seen["sesrec"][0].unflatten(2, (15, 8))
    assert torch.equal(parts[:, :, 8:], parts[:, :, :7] * parts[:, :, 7:8])
    # Two interests, candidate, and four products; user and query beside them.
    task, of_candidates, of_rows = seen["unisar"]
    assert task == "search"
    parts = of_candidates.unflatten(2, (7, 8))
    of_row = of_rows.unflatten(1, (2, 8))[:, None].expand(-1, parts.shape[1], -1, -1)
    assert torch.equal(parts[:, :, 3:], torch.cat([parts[:, :, :2], of_row], dim=2) * parts[:, :, 2:3])
    assert parts.abs().amax(dim=(0, 1, 3)).min() > 0.0

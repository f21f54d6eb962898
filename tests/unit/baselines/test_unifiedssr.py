"""UnifiedSSR: what a state may see, sessions by hand, and that scoring asks what training taught."""

import numpy as np
import pytest
import torch

from gensar_core.baselines.methods.unifiedssr import METHOD, correlation, session_windows
from gensar_core.baselines.shared.unifiedssr_model import UnifiedSSRSettings, shifted
from gensar_core.ranking.candidates import load_candidates
from gensar_core.runtime.arrays import Ragged
from tests.support.method_contract import N_ITEMS, random_clicks, write_shop
from tests.unit.baselines.helpers import random_weights

USERS = torch.tensor([3, 5])
MASK = torch.ones(2, 6, dtype=torch.bool)


@pytest.fixture(scope="module")
def method(tmp_path_factory):
    data = write_shop(tmp_path_factory.mktemp("shop"), random_clicks(), N_ITEMS, searching=True)
    method = METHOD(UnifiedSSRSettings(dimensions=8, heads=2, max_recommendations=7, max_searches=7), data, 1)
    random_weights(method.module)
    return method


@torch.no_grad()
def test_a_later_click_never_moves_an_earlier_state(method):
    model = method.module
    items = torch.randint(N_ITEMS, (2, 6), generator=torch.Generator().manual_seed(1))
    (states,) = model.encode(USERS, model.items(items), None, MASK)
    for place in range(6):
        changed = items.clone()
        changed[:, place] = (changed[:, place] + 7) % N_ITEMS
        moved = (model.encode(USERS, model.items(changed), None, MASK)[0] - states).abs().amax(dim=(0, 2))
        assert not moved[:place].any()
        assert (moved[place:] > 1e-5).all()


@torch.no_grad()
def test_a_search_state_sees_earlier_items_and_the_query_that_is_asked(method):
    model = method.module
    items = torch.randint(N_ITEMS, (2, 6), generator=torch.Generator().manual_seed(1))
    queries = torch.randint(5, (2, 6), generator=torch.Generator().manual_seed(2))
    has_item = MASK & (torch.arange(6) > 0)

    def states(items, queries):
        return model.encode(USERS, shifted(model.items(items))[:, :-1], queries, MASK, has_item)

    before = states(items, queries)
    for place in range(6):
        other_item, other_query = items.clone(), queries.clone()
        other_item[:, place] = (other_item[:, place] + 7) % N_ITEMS
        other_query[:, place] = (other_query[:, place] + 1) % 5
        for changed, first in ((states(other_item, queries), place + 1), (states(items, other_query), place)):
            for old, new in zip(before, changed, strict=True):
                moved = (new - old).abs().amax(dim=(0, 2))
                assert not moved[:first].any()
                assert (moved[first:] > 1e-5).all()


@torch.no_grad()
@pytest.mark.parametrize("task", ["rec", "search"])
def test_scores_use_the_state_after_the_whole_history(method, task):
    # The shop's train targets are the last clicks of its users' sequences, and follow the same history as test targets.
    model, train = method.module, method.training_set(task)
    lists = load_candidates(method.data.samples_folder, task, "test")
    rows = np.arange(10)
    clicks, width = train.clicks, 8 if task == "rec" else 7
    items = torch.from_numpy(clicks.items.take(rows).padded(width, 0).astype(np.int64))
    users, vectors = torch.from_numpy(clicks.users[rows].astype(np.int64)), model.items(items) * model.scale
    mask = torch.ones(10, 7, dtype=torch.bool)
    if task == "rec":
        states = model.encode(users, vectors[:, :-1], None, mask)
    else:
        asked = Ragged(clicks.items.offsets, clicks.queries).take(rows)
        queries = torch.from_numpy(asked.padded(7, 0).astype(np.int64))
        # The history holds the seven searches before the target's; training saw the last six of these.
        method = METHOD(method.settings.model_copy(update={"max_searches": 6}), method.data, 1)
        method.__dict__["module"] = model
        states = model.encode(users, shifted(vectors)[:, :-1], queries, mask, mask & (torch.arange(7) > 0))
    table = model.items(torch.from_numpy(lists.items[:10].astype(np.int64))) * model.scale
    expected = model.mixed([(table @ state[:, -1][:, :, None]).squeeze(2) for state in states])
    assert method.score(lists)[:10] == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-3)


def test_session_windows_are_the_middle_halves_of_both_halves():
    mask = torch.arange(10) < torch.tensor([8, 4, 1, 0])[:, None]
    windows = session_windows(mask)
    # Of eight places the first half is 0 to 3, and its middle half 1 and 2.
    assert windows[:, 0].nonzero().tolist() == [[0, 1], [0, 2], [1, 5], [1, 6]]
    # Of four places (at 1/8, 3/8, 5/8, 7/8) each lies on the border of a window.
    assert windows[:, 1].nonzero().tolist() == [[0, 0], [0, 1], [1, 2], [1, 3]]
    assert not windows[:, 2:].any()


def test_correlation_by_hand():
    windows = torch.tensor([[[True, True, False]], [[False, False, True]]])
    items = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, -2.0]]])
    queries = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [0.0, 5.0]]])
    assert correlation((items,), windows).item() == pytest.approx(0.0)
    # Sessions of items: (2, 0) and (0, -2); of queries (1, 1) and (0, 5): cosines 0 and 1 / sqrt(2) within, and
    # 1 / sqrt(2) and -1 across.
    expected = 0.0 + 0.5**0.5 - (0.5**0.5 - 1.0) / 2
    assert correlation((items, queries), windows).item() == pytest.approx(expected)


def test_bce_by_hand(method, monkeypatch):
    train = method.training_set("rec")
    monkeypatch.setattr(train.sampler, "draw", lambda _step, count: np.resize([2, 7, 1, 0], count))
    states, targets = torch.randn(2, 8), torch.tensor([1, 4])
    losses = []
    for state, target in zip(states, targets.tolist(), strict=True):
        scores = (method.module.items.weight @ state * 8**0.5).tolist()
        # A negative that is the target does not count.
        terms = [np.log1p(np.exp(scores[item])) for item in (2, 7, 1, 0) if item != target]
        losses.append(np.log1p(np.exp(-scores[target])) + sum(terms))
    assert train._next_items(states, targets, 0).item() == pytest.approx(np.mean(losses), rel=1e-4)

"""SASRec: the contract of all methods, causality, padding, and its three losses."""

import numpy as np
import pytest
import torch

from gensar_core.baselines.sasrec import METHOD, SASRecEncoder, SASRecSettings
from gensar_core.config.base import validate
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import load_candidates
from gensar_core.runtime.training import train
from tests.unit.method_contract import N_ITEMS, TrainedMethodContract, random_clicks, ranks, write_shop

SMALL = {
    "dimensions": 32,
    "dropout": 0.0,
    "max_history": 12,
    "learning_rate": 1.0e-2,
    "batch_size": 64,
    "epochs": 100,
    "validate_every": 50,
}


class TestSASRec(TrainedMethodContract):
    kind = "sasrec"
    own = {**SMALL, "negatives": 64}  # noqa: RUF012


class TestSASRecSoftmax(TrainedMethodContract):
    kind = "sasrec"
    own = {**SMALL, "loss": "softmax", "heads": 2}  # noqa: RUF012


class TestSASRecBinary(TrainedMethodContract):
    kind = "sasrec"
    own = {**SMALL, "loss": "bce", "learning_rate": 3.0e-3, "batch_size": 16, "epochs": 120}  # noqa: RUF012
    # One negative a target and step separates slowly.
    by_heart = 0.8


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = SASRecEncoder(30, SASRecSettings(dimensions=16, heads=2, max_history=10))
    # Weights as initialized are so small that a leak could hide below the tolerance.
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return encoder.eval()


@torch.no_grad()
def test_a_later_click_never_moves_an_earlier_state(encoder):
    items = torch.randint(30, (4, 10), generator=torch.Generator().manual_seed(1))
    states = encoder(items)
    for place in range(10):
        changed = items.clone()
        changed[:, place] = (changed[:, place] + 7) % 30
        moved = (encoder(changed) - states).abs().amax(dim=(0, 2))
        assert moved[:place].max(initial=0) if isinstance(moved, np.ndarray) else (moved[:place] == 0).all()
        assert (moved[place:] > 1e-4).all()


@torch.no_grad()
def test_padding_never_moves_a_state(encoder):
    items = torch.randint(30, (4, 10), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(encoder(items[:, :6]), encoder(items)[:, :6], atol=1e-5)


def fit(folder, clicks=None, n_items=N_ITEMS, **own):
    data = write_shop(folder, clicks or random_clicks(), n_items)
    method = METHOD(validate(SASRecSettings, own, "m"), data, 3)
    return method, method.fit(None, "")


def test_only_the_last_clicks_count(tmp_path):
    method, _ = fit(tmp_path, dimensions=8, max_history=3, epochs=1)
    lists = load_candidates(tmp_path / "samples", "rec", "test")
    shorter = lists.samples.with_columns(
        history_behavior=lists.samples["history_behavior"].list.tail(3),
        history_object=lists.samples["history_object"].list.tail(3),
    )
    assert (method.score(lists) == method.score(type(lists)(shorter, lists.items))).all()


def test_searches_are_not_read(tmp_path):
    method, _ = fit(tmp_path, dimensions=8, epochs=1)
    lists = load_candidates(tmp_path / "samples", "rec", "test")
    searching = lists.samples.to_dicts()
    for row in searching:
        row["history_behavior"] = [1, 2, *row["history_behavior"], 1, 2]
        row["history_object"] = [3, 4, *row["history_object"], 0, 5]
    other = type(lists.samples)(searching, schema=lists.samples.schema)
    assert (method.score(lists) == method.score(type(lists)(other, lists.items))).all()


def test_items_unseen_in_training_get_the_mean(tmp_path):
    method, figures = fit(tmp_path, n_items=N_ITEMS + 3, dimensions=8, epochs=1)
    learned = method.item_vectors()
    assert figures["unseen_items"] == 3
    assert learned.seen.tolist() == [True] * N_ITEMS + [False] * 3
    assert learned.vectors[-3:] == pytest.approx(np.tile(learned.vectors[:N_ITEMS].mean(axis=0), (3, 1)), abs=1e-6)


def test_an_empty_history_prefers_nothing(tmp_path):
    histories = [[] for _ in range(64)]
    clicks = random_clicks()
    data = write_shop(tmp_path, clicks, N_ITEMS, histories=histories)
    method = METHOD(SASRecSettings(dimensions=8, epochs=1), data, 3)
    method.fit(None, "")
    lists = load_candidates(tmp_path / "samples", "rec", "test")
    assert (ranks(method, lists) == 11.0).all()


def test_a_killed_training_ends_in_the_same_scores(tmp_path, monkeypatch):
    own = {"dimensions": 8, "epochs": 6, "batch_size": 20, "negatives": 16}
    whole, _ = fit(tmp_path / "shop", **own)
    killed = METHOD(SASRecSettings(**own), whole.data, 3)

    def until_the_third_epoch(task, schedule, **arguments):
        batches, served = task.batches, 0

        class Killed(type(batches)):
            def __call__(self, first_step):
                nonlocal served
                for batch in super().__call__(first_step):
                    served += 1
                    if served > 10:
                        raise KeyboardInterrupt
                    yield batch

        batches.__class__ = Killed
        return train(task, schedule, **arguments)

    monkeypatch.setattr("gensar_core.baselines.sequential.train", until_the_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        killed.fit(tmp_path / "checkpoints", "key")
    monkeypatch.undo()
    resumed = METHOD(SASRecSettings(**own), whole.data, 3)
    figures = resumed.fit(tmp_path / "checkpoints", "key")
    assert figures["steps"] == 24
    lists = load_candidates(whole.data.samples_folder, "rec", "test")
    assert (resumed.score(lists) == whole.score(lists)).all()


def test_nothing_to_train_on_is_one_clear_error(tmp_path):
    data = write_shop(tmp_path, [[0], [1]], 3, histories=[[2], [2]])
    with pytest.raises(UserError, match="too few recommendation clicks to train on"):
        METHOD(SASRecSettings(), data, 3).fit(None, "")


def test_heads_must_divide_dimensions():
    with pytest.raises(UserError, match=r"dimensions \(10\) must be a multiple of heads \(3\)"):
        validate(SASRecSettings, {"dimensions": 10, "heads": 3}, "methods.sasrec")

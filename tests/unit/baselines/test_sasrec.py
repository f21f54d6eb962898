"""SASRec: the contract of sequential methods under its losses, a killed training, and what it refuses."""

import pytest

from gensar_core.baselines.methods.sasrec import METHOD, SASRecSettings
from gensar_core.config.base import validate
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import load_candidates
from gensar_core.training.loop import train
from tests.support.method_contract import N_ITEMS, TrainedMethodContract, random_clicks, write_shop
from tests.support.sequential_contract import SMALL, SequentialContract


class TestSASRec(SequentialContract):
    kind = "sasrec"
    own = {**SMALL, "heads": 2}  # noqa: RUF012


class TestSASRecSoftmax(TrainedMethodContract):
    kind = "sasrec"
    own = {**SMALL, "loss": "softmax"}  # noqa: RUF012


class TestSASRecPrefixes(TrainedMethodContract):
    kind = "sasrec"
    own = {**SMALL, "rows": "prefixes", "initial_std": 0.02, "batch_size": 256}  # noqa: RUF012


class TestSASRecBinary(TrainedMethodContract):
    kind = "sasrec"
    own = {**SMALL, "loss": "bce", "learning_rate": 3.0e-3, "batch_size": 16, "epochs": 120}  # noqa: RUF012
    # One negative a target and step separates slowly.
    by_heart = 0.8


def fit(folder, **own):
    data = write_shop(folder, random_clicks(), N_ITEMS)
    method = METHOD(validate(SASRecSettings, own, "m"), data, 3)
    return method, method.fit(None, "")


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

    monkeypatch.setattr("gensar_core.baselines.shared.trained_method.train", until_the_third_epoch)
    # After every step, so that it is taken up in the middle of an epoch.
    monkeypatch.setenv("GENSAR_CHECKPOINT_SECONDS", "0")
    with pytest.raises(KeyboardInterrupt):
        killed.fit(tmp_path / "checkpoints", "key")
    assert list((tmp_path / "checkpoints").glob("*.pt"))
    monkeypatch.undo()
    resumed = METHOD(SASRecSettings(**own), whole.data, 3)
    counts = resumed.fit(tmp_path / "checkpoints", "key")
    assert counts["steps"] == 24
    lists = load_candidates(whole.data.samples_folder, "rec", "test")
    assert (resumed.score(lists) == whole.score(lists)).all()


def test_nothing_to_train_on_is_one_clear_error(tmp_path):
    data = write_shop(tmp_path, [[0], [1]], 3, histories=[[2], [2]])
    with pytest.raises(UserError, match="too few recommendation clicks to train on"):
        METHOD(SASRecSettings(), data, 3).fit(None, "")


def test_heads_must_divide_dimensions():
    with pytest.raises(UserError, match=r"dimensions \(10\) must be a multiple of heads \(3\)"):
        validate(SASRecSettings, {"dimensions": 10, "heads": 3}, "methods.sasrec")

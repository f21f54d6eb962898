"""The training that all methods share: killed and continued, rates, batches, unseen users and items, and errors."""

import itertools

import numpy as np
import polars as pl
import pytest
import torch

from gensar_core.baselines.shared.trained_method import pooled_batches
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import load_candidates
from gensar_core.schema import TASKS
from tests.support.killed import Killed, kill_at
from tests.support.method_contract import N_ITEMS, N_USERS, random_clicks, searched_history, write_shop
from tests.support.shop import read_samples
from tests.unit.baselines.helpers import fitted, make, rewrite_samples

JSR = {"dimensions": 8, "epochs": 6, "batch_size": 10}
METHODS = [
    ("sasrec", {"dimensions": 8, "epochs": 6, "batch_size": 20, "negatives": 16}, 24),
    ("jsr", {**JSR, "sampled_negatives": 3, "plateau_patience": 1}, 42),
    ("jsr", {**JSR, "sampled_negatives": 3, "falling_rate": True}, 42),
    ("dense", {"train": "head", "epochs": 6, "batch_size": 20, "patience": 6, "weight_average": 0.9}, 24),
]


@pytest.fixture
def data(tmp_path):
    return write_shop(tmp_path / "shop", random_clicks(), N_ITEMS)


@pytest.mark.parametrize(("kind", "settings", "steps"), METHODS)
def test_a_killed_training_ends_in_the_same_scores(data, tmp_path, monkeypatch, kind, settings, steps):
    whole, killed, resumed = fitted(kind, data, **settings), make(kind, data, **settings), make(kind, data, **settings)
    # In the middle of an epoch.
    taken = kill_at(steps // 2 - 2, type(whole.training()), monkeypatch)
    with pytest.raises(Killed):
        killed.fit(tmp_path / "checkpoints", "key")
    assert list((tmp_path / "checkpoints").glob("*.pt"))
    assert resumed.fit(tmp_path / "checkpoints", "key")["steps"] == steps
    assert len(taken) == steps + 1
    for task in whole.tasks:
        lists = load_candidates(data.samples_folder, task, "test")
        assert (resumed.score(lists) == whole.score(lists)).all()


def test_weights_are_chosen_among_the_catalogue_where_that_is_set(data):
    settings = {"dimensions": 8, "epochs": 2, "batch_size": 20, "loss": "softmax"}
    method = make("sasrec", data, validate_among="catalogue", **settings)
    training = method.training()
    (valid,) = training.lists.values()
    (lists,) = valid
    scores, targets = method.score_catalogue(lists.samples), lists.samples["target_item"].to_numpy()
    ranks = (scores > scores[np.arange(len(scores)), targets][:, None]).sum(axis=1) + 1
    hits = training.metrics(valid)["valid_hr@10"]
    assert hits == np.mean(ranks <= 10)
    among_candidates = make("sasrec", data, **settings).training()
    assert among_candidates.metrics(valid)["valid_hr@10"] > hits


@pytest.mark.parametrize(("kind", "settings"), [("sasrec", {"epochs": 6, "batch_size": 10}), ("jsr", JSR)])
def test_a_falling_rate_ends_with_the_training(data, kind, settings):
    schedule = make(kind, data, **settings, falling_rate=True).training().schedule
    rates = [schedule.rate(step) for step in (0, schedule.total_steps // 2, schedule.total_steps)]
    assert rates == pytest.approx([1.0, 0.5, 0.0], abs=0.05)


@pytest.mark.parametrize(("kind", "settings", "steps"), METHODS)
def test_weights_are_averaged_where_that_is_set(data, kind, settings, steps):  # noqa: ARG001
    assert make(kind, data, **{**settings, "weight_average": 0.8}).training().schedule.weight_average == 0.8


def test_an_epoch_serves_every_sequence_once_and_resumes_anywhere(data):
    training = make("sasrec", data, batch_size=10).training()
    assert training.steps_per_epoch == 7
    steps = list(itertools.islice(training.batches(0), 14))
    assert [step for step, _ in steps] == list(range(14))
    for epoch in (steps[:7], steps[7:]):
        assert sorted(np.concatenate([rows for _, rows in epoch]).tolist()) == list(range(N_USERS))
        assert {len(rows) for _, rows in epoch} == {10, 4}
    assert [rows.tolist() for _, rows in steps[:7]] != [rows.tolist() for _, rows in steps[7:]]
    for first in (0, 3, 7, 9):
        step, rows = next(training.batches(first))
        assert step == first
        assert (rows == steps[first][1]).all()


@pytest.mark.parametrize("kind", ["sasrec", "jsr"])
def test_an_epoch_of_blocks_serves_every_row_once_and_resumes_anywhere(data, monkeypatch, kind):
    monkeypatch.setattr("gensar_core.training.blocks.BLOCK", 30)
    training = make(kind, data, batch_size=8).training()
    blocks = -(-N_USERS // 30)
    steps = list(itertools.islice(training.batches(0), 2 * training.steps_per_epoch))
    for epoch in (steps[: training.steps_per_epoch], steps[training.steps_per_epoch :]):
        for task in ["rec"] if kind == "sasrec" else TASKS:
            rows = [batch if kind == "sasrec" else batch[task] for _, batch in epoch]
            assert sorted(np.concatenate(rows).tolist()) == list(range(N_USERS))
            # A step takes rows of one block, every n-th one; the steps of a block follow each other.
            of_steps = [set(of_step % blocks) for of_step in rows]
            assert all(len(of_step) == 1 for of_step in of_steps)
            assert len(list(itertools.groupby(of_steps))) == blocks
    for first in (0, 3, training.steps_per_epoch + 4):
        step, batch = next(training.batches(first))
        assert step == first
        assert str(batch) == str(steps[first][1])


def test_both_tasks_end_an_epoch_together(data):
    rewrite_samples(
        data,
        read_samples(data).filter((pl.col("task") == "rec") | (pl.col("split") != "train") | (pl.col("user_id") < 20)),
    )
    training = make("jsr", data, **JSR).training()
    assert training.steps_per_epoch == 7
    for number in (0, 1):
        for task, count in (("rec", N_USERS), ("search", 20)):
            rows = [step[task] for step in training.epoch(number)]
            assert sorted(np.concatenate(rows).tolist()) == list(range(count))
            assert {len(of_step) for of_step in rows} <= {count // 7, count // 7 + 1}
    assert (next(training.epoch(0))["rec"] != next(training.epoch(1))["rec"]).any()


def test_batches_hold_rows_of_similar_length():
    lengths = np.random.default_rng(0).integers(2, 60, size=2000)
    pool = np.arange(2000) // 1000
    batches = pooled_batches(lengths, pool, range(50, 2000, 50), np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(2000))
    assert sum(len(rows) * lengths[rows].max() for rows in batches) < lengths.sum() / 0.9


def test_users_and_items_unseen_in_training_get_the_mean(tmp_path):
    data = write_shop(tmp_path, random_clicks(), N_ITEMS + 3)
    rewrite_samples(data, read_samples(data).filter((pl.col("split") != "train") | (pl.col("user_id") > 0)))
    method = make("jsr", data, **JSR, stored_negatives=False, sampled_negatives=2)
    counts = method.fit(None, "")
    assert (counts["unseen_items"], counts["unseen_users"]) == (3, 1)
    users, items = method.module.users.weight, method.module.items.weight
    assert torch.allclose(users[0], users[1:].mean(dim=0), atol=1e-6)
    assert torch.allclose(items[-1], items[:N_ITEMS].mean(dim=0), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "past", "seen"),
    [("qem", [0, 2], [0, 1, 3]), ("copps", [0, 2], [0, 1, 2, 3]), ("sesrec", [0, 2], [0, 2]), ("sesrec", [], [])],
)
def test_queries_unseen_in_training_get_the_mean(tmp_path, kind, past, seen):
    # Of queries 0 to 4, training asks 0, 1 and 3 and shows the searches for ``past`` items in its histories.
    data = write_shop(tmp_path, random_clicks(), N_ITEMS, searching=True)
    behaviors, objects = searched_history(past, 5)
    trained = pl.col("split") == "train"
    train_samples = (
        read_samples(data)
        .filter(trained & ~pl.col("query_id").fill_null(0).is_in([2, 4]))
        .with_columns(
            history_behavior=pl.lit(behaviors, dtype=pl.List(pl.UInt8)),
            history_object=pl.lit(objects, dtype=pl.List(pl.Int32)),
        )
    )
    rewrite_samples(data, pl.concat([train_samples, read_samples(data).filter(~trained)]).sort("sample_id"))
    method = make(kind, data, epochs=1, dimensions=8)
    assert method.fit(None, "")["unseen_queries"] == 5 - len(seen)
    vectors = method.module.query_table().weight
    mean = vectors[seen].mean(dim=0) if seen else torch.zeros(vectors.shape[1])
    for query in {*range(5)} - {*seen}:
        assert torch.allclose(vectors[query], mean, atol=1e-6)
    assert len(torch.unique(vectors, dim=0)) == max(1, len(seen) + 1)


@pytest.mark.parametrize(("kind", "tasks"), [("jsr", "rec or search"), ("dense", "search")])
def test_missing_negatives_and_targets_are_named(data, kind, tasks):
    settings = {"train": "head"} if kind == "dense" else JSR
    bare = type(data)(data.canonical, data.samples_folder, data.embedding)
    with pytest.raises(UserError, match="give it the table training_negatives"):
        fitted(kind, bare, **settings)
    with pytest.raises(UserError, match="without stored_negatives needs sampled_negatives above 0"):
        fitted("jsr", data, stored_negatives=False)
    rewrite_samples(data, read_samples(data).filter(pl.col("split") != "train"))
    with pytest.raises(UserError, match=f"no train or no valid target of {tasks}"):
        fitted(kind, data, **settings)


def test_too_few_clicks_and_no_valid_target_are_named(tmp_path):
    data = write_shop(tmp_path, [[0], [1]], 3, histories=[[2], [2]])
    with pytest.raises(UserError, match="too few recommendation clicks to train on"):
        fitted("sasrec", data)
    rewrite_samples(data, read_samples(data).filter(pl.col("split") == "train"))
    with pytest.raises(UserError, match="no user has a valid target of recommendation to choose by"):
        fitted("sasrec", data)

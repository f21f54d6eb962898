"""Rows as arrays against plain loops, words of queries, batches of two tasks, and the loss of a row."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.baselines.interface import find
from gensar_core.baselines.methods.jsr import METHOD as JSR
from gensar_core.baselines.shared.query_words import QueryWords, numbered, words_of
from gensar_core.baselines.shared.target_model import ranking_loss
from gensar_core.baselines.shared.target_ranking import RankedTraining
from gensar_core.baselines.shared.target_rows import TargetHistories, TargetRows, TrainingRows
from gensar_core.config.base import validate
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import load_candidates
from gensar_core.training.loop import train
from gensar_core.training.plateau import Plateau
from tests.support.method_contract import N_ITEMS, N_USERS, random_clicks, searched_history, write_shop

# A history is made of clicks (an item) and sessions (a query and the items clicked after it).
SLOTS = st.lists(st.integers(0, 9) | st.tuples(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=3)), max_size=7)


def samples_of(histories):
    behaviors, objects = [], []
    for slots in histories:
        own = []
        for slot in slots:
            own += [(0, slot)] if isinstance(slot, int) else [(1, slot[0]), *((2, item) for item in slot[1])]
        behaviors.append([entry[0] for entry in own])
        objects.append([entry[1] for entry in own])
    return pl.DataFrame(
        {
            "history_behavior": pl.Series(behaviors, dtype=pl.List(pl.UInt8)),
            "history_object": pl.Series(objects, dtype=pl.List(pl.Int32)),
            "user_id": pl.Series(range(len(histories)), dtype=pl.Int32),
            "query_id": pl.Series([None] * len(histories), dtype=pl.Int32),
        }
    )


def by_loop(slots, most_clicks, most_searches):
    """(item, place) of the last clicks and (query, place, items) of the last searches."""
    kept = list(enumerate(slots))
    clicks = [number for number, slot in kept if isinstance(slot, int)]
    searches = [number for number, slot in kept if not isinstance(slot, int)]
    keep = set(clicks[max(0, len(clicks) - most_clicks) :] + searches[max(0, len(searches) - most_searches) :])
    kept = [slot for number, slot in kept if number in keep]
    return (
        [(slot, place) for place, slot in enumerate(kept) if isinstance(slot, int)],
        [(slot[0], place, slot[1]) for place, slot in enumerate(kept) if not isinstance(slot, int)],
    )


@given(st.lists(SLOTS, max_size=6), st.integers(0, 3), st.integers(0, 3), st.data())
def test_histories_are_what_a_loop_finds(histories, most_clicks, most_searches, draw):
    order = draw.draw(st.lists(st.integers(0, max(0, len(histories) - 1)), max_size=8)) if histories else []
    found = TargetHistories.from_samples(samples_of(histories), most_clicks, most_searches).take(
        np.array(order, dtype=int)
    )
    batch = found.padded(torch.device("cpu"))
    for row, number in enumerate(order):
        clicks, searches = by_loop(histories[number], most_clicks, most_searches)
        there = batch.is_click[row]
        shown = zip(batch.clicks[row][there].tolist(), batch.click_places[row][there].tolist(), strict=True)
        assert list(shown) == clicks
        # Padding comes after the end, and is zero.
        assert there.tolist() == sorted(there.tolist(), reverse=True)
        assert not batch.clicks[row][~there].any()
        there = batch.is_search[row]
        items = [own[mask].tolist() for own, mask in zip(batch.found[row], batch.is_found[row], strict=True)]
        shown = zip(batch.searches[row].tolist(), batch.search_places[row].tolist(), items, strict=True)
        assert list(shown)[: int(there.sum())] == searches
        assert not batch.is_found[row][~there].any()
    assert found.lengths.tolist() == [sum(map(len, by_loop(histories[n], most_clicks, most_searches))) for n in order]


def test_a_click_without_its_query_is_nobodys():
    rows = samples_of([[1], [(3, [4])]]).with_columns(
        history_behavior=pl.Series([[0, 1], [2, 2]], dtype=pl.List(pl.UInt8)),
        history_object=pl.Series([[1, 7], [4, 5]], dtype=pl.List(pl.Int32)),
    )
    found = TargetHistories.from_samples(rows, 5, 5)
    assert found.searches.values.tolist() == [7]
    assert found.found.lengths.tolist() == [0]


def test_training_rows_hold_target_stored_and_sampled_negatives(tmp_path):
    data = write_shop(tmp_path, random_clicks()[:6], N_ITEMS, searching=True)
    rows = TrainingRows.from_samples("search", data.samples, data.negatives, 3, 2)
    assert len(rows) == 6
    target = rows.targets[4]
    batch = rows.batch(np.array([4, 0]), np.array([[target, 7], [8, 9]]), torch.device("cpu"))
    stored = dict(data.negatives.iter_rows())
    train = data.samples.filter((pl.col("task") == "search") & (pl.col("split") == "train"))
    assert batch.candidates[0].tolist() == [target, *stored[train["sample_id"][4]], 0, 7]
    assert batch.present[0].tolist() == [True] * 5 + [False, True]
    assert batch.queries.tolist() == [train["query_id"][4], train["query_id"][0]]
    assert (batch.history.clicks.shape[1], batch.history.searches.shape[1]) == (3, 2)


def test_words_of_queries():
    assert words_of("Car-Audio  MP3 player's") == ["car", "audio", "mp3", "player", "s"]
    lists = numbered(["car audio", "", "new car", "audio car car audio"], {"audio": 0, "car": 1}, 3)
    assert [lists.take(np.array([row])).values.tolist() for row in range(4)] == [[1, 0], [], [1], [0, 1, 1]]
    words = QueryWords(lists, 2, 4)
    audio, car = words.table.weight
    expected = torch.stack([(car + audio) / 2, torch.zeros(4), car, (audio + 2 * car) / 3])
    assert torch.allclose(words(torch.tensor([3, 1, 0, 2])), expected[[3, 1, 0, 2]])
    assert torch.equal(words(torch.tensor([1, 1])), torch.zeros(2, 4))
    weighted = QueryWords(lists, 2, 4, weighted=True)
    (audio, car), (a, c) = weighted.table.weight, weighted.weights.weight.exp().flatten()
    expected = torch.stack(
        [(c * car + a * audio) / (a + c), torch.zeros(4), car, (a * audio + 2 * c * car) / (a + 2 * c)]
    )
    assert torch.allclose(weighted(torch.tensor([3, 1, 0, 2])), expected[[3, 1, 0, 2]], atol=1e-6)


def test_ranking_losses_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, -1.0, 5.0]])
    present = torch.tensor([[True, True, True], [True, True, False]])
    terms = [np.log1p(np.exp(-2)), np.log(2), np.log1p(np.exp(1)), np.log(2), np.log1p(np.exp(-1))]
    assert ranking_loss(logits, present, "bce").item() == pytest.approx(np.mean(terms))
    rows = [np.log(np.exp([2, 0, 1]).sum()) - 2, np.log(np.exp([0, -1]).sum())]
    assert ranking_loss(logits, present, "softmax").item() == pytest.approx(np.mean(rows))


def test_learning_rates_fall_on_a_plateau_and_survive_a_checkpoint():
    def optimizer():
        return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])

    plateau = Plateau(optimizer(), patience=1)
    for score, factor in [(0.3, 1.0), (0.3, 1.0), (0.2, 0.1), (0.4, 0.1), (0.1, 0.1), (0.1, 0.01)]:
        plateau.see(score)
        assert plateau.rate(0) == pytest.approx(factor)
    resumed = Plateau(optimizer(), patience=1)
    resumed.optimizer.load_state_dict(plateau.optimizer.state_dict())
    assert resumed.rate(0) == pytest.approx(0.01)


def jsr(data, **own):
    return JSR(JSR.settings_model(**{"dimensions": 8, "epochs": 6, "batch_size": 10, **own}), data, 3)


def test_both_tasks_end_an_epoch_together(tmp_path):
    data = write_shop(tmp_path, random_clicks(), N_ITEMS)
    fewer = data.samples.filter((pl.col("task") == "rec") | (pl.col("split") != "train") | (pl.col("user_id") < 20))
    schema.SAMPLES.write(fewer, data.samples_folder / "samples.parquet")
    del data.__dict__["samples"]
    task = RankedTraining(jsr(data))
    assert task.steps_per_epoch == 7
    steps = [rows for (_, rows), _ in zip(task.batches(0), range(14), strict=False)]
    for epoch in (steps[:7], steps[7:]):
        for name, count in (("rec", N_USERS), ("search", 20)):
            assert sorted(np.concatenate([rows[name] for rows in epoch]).tolist()) == list(range(count))
            assert {len(rows[name]) for rows in epoch} <= {count // 7, count // 7 + 1}
    assert any((steps[0][name] != steps[7][name]).any() for name in ("rec",))
    later = next(task.batches(9))
    assert later[0] == 9
    assert (later[1]["rec"] == steps[9]["rec"]).all()


def test_a_falling_rate_ends_with_the_training(tmp_path, monkeypatch):
    seen = []

    def rates(task, schedule, **arguments):
        seen.extend(schedule.rate(step) for step in (0, schedule.total_steps // 2, schedule.total_steps))
        return train(task, schedule, **arguments)

    monkeypatch.setattr("gensar_core.baselines.shared.trained_method.train", rates)
    jsr(write_shop(tmp_path, random_clicks(), N_ITEMS), falling_rate=True).fit(None, "")
    assert seen == pytest.approx([1.0, 0.5, 0.0], abs=0.05)


@pytest.mark.parametrize("rate", [{"plateau_patience": 1}, {"falling_rate": True}])
def test_a_killed_training_ends_in_the_same_scores(tmp_path, monkeypatch, rate):
    data = write_shop(tmp_path, random_clicks(), N_ITEMS)
    whole, killed, resumed = (jsr(data, sampled_negatives=3, **rate) for _ in range(3))
    whole.fit(None, "")

    def until_the_third_epoch(task, schedule, **arguments):
        batches = task.batches

        def killed_batches(first_step):
            for batch in batches(first_step):
                if batch[0] > 16:
                    raise KeyboardInterrupt
                yield batch

        task.batches = killed_batches
        return train(task, schedule, **arguments)

    monkeypatch.setattr("gensar_core.baselines.shared.trained_method.train", until_the_third_epoch)
    # After every step, so that it is taken up in the middle of an epoch.
    monkeypatch.setenv("GENSAR_CHECKPOINT_SECONDS", "0")
    with pytest.raises(KeyboardInterrupt):
        killed.fit(tmp_path / "checkpoints", "key")
    assert list((tmp_path / "checkpoints").glob("*.pt"))
    monkeypatch.undo()
    assert resumed.fit(tmp_path / "checkpoints", "key")["steps"] == 42
    for task in ("rec", "search"):
        lists = load_candidates(data.samples_folder, task, "test")
        assert (resumed.score(lists) == whole.score(lists)).all()


def test_users_and_items_unseen_in_training_get_the_mean(tmp_path):
    data = write_shop(tmp_path, random_clicks(), N_ITEMS + 3)
    keep = (pl.col("split") != "train") | (pl.col("user_id") > 0)
    schema.SAMPLES.write(data.samples.filter(keep), data.samples_folder / "samples.parquet")
    del data.__dict__["samples"]
    counts = (method := jsr(data, stored_negatives=False, sampled_negatives=2)).fit(None, "")
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
    train, others = (data.samples.filter(own) for own in (pl.col("split") == "train", pl.col("split") != "train"))
    train = train.filter(pl.col("query_id").is_null() | ~pl.col("query_id").is_in([2, 4])).with_columns(
        history_behavior=pl.lit(behaviors, dtype=pl.List(pl.UInt8)),
        history_object=pl.lit(objects, dtype=pl.List(pl.Int32)),
    )
    schema.SAMPLES.write(pl.concat([train, others]).sort("sample_id"), data.samples_folder / "samples.parquet")
    del data.__dict__["samples"]
    method = find(kind)(validate(find(kind).settings_model, {"epochs": 1, "dimensions": 8}, kind), data, 5)
    assert method.fit(None, "")["unseen_queries"] == 5 - len(seen)
    vectors = method.module.query_table().weight
    mean = vectors[seen].mean(dim=0) if seen else torch.zeros(vectors.shape[1])
    for query in {*range(5)} - {*seen}:
        assert torch.allclose(vectors[query], mean, atol=1e-6)
    assert len(torch.unique(vectors, dim=0)) == max(1, len(seen) + 1)


def test_what_cannot_be_trained_is_one_clear_error(tmp_path):
    data = write_shop(tmp_path, random_clicks()[:3], N_ITEMS)
    with pytest.raises(UserError, match="without stored_negatives needs sampled_negatives above 0"):
        jsr(data, stored_negatives=False).fit(None, "")
    bare = type(data)(data.canonical, data.samples_folder)
    with pytest.raises(UserError, match="give it the table training_negatives"):
        jsr(bare).fit(None, "")
    schema.SAMPLES.write(data.samples.filter(pl.col("split") != "train"), data.samples_folder / "samples.parquet")
    del data.__dict__["samples"]
    with pytest.raises(UserError, match="no train or no valid target of rec or search"):
        jsr(data).fit(None, "")
    assert len(TargetRows.from_samples("rec", data.samples[:0], 3, 3)) == 0

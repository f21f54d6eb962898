"""Fusion: weights fitted on the valid lists, checked against loops, and ranks better than those of any part."""

import json

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize

from gensar_core import schema
from gensar_core.config.fusions import WeightSettings
from gensar_core.errors import UserError
from gensar_core.ranking import fusion
from gensar_core.ranking.candidates import load_candidates, rank_batch
from gensar_core.ranking.fusion import features, fit_fusion, fit_weights, fuse, log_clicks
from gensar_core.ranking.metrics import average_ranks, ndcg, ranks_in_list

ROWS, WIDTH = 300, 8


def random_lists(seed, rows=ROWS):
    rng = np.random.default_rng(seed)
    present = np.arange(WIDTH) < rng.integers(2, WIDTH + 1, size=(rows, 1))
    return rng, present


def test_ranks_in_a_list_equal_those_of_a_loop():
    rng, present = random_lists(0)
    scores = rng.integers(0, 4, size=present.shape).astype(float)
    ranks = ranks_in_list(scores, present)
    for row in range(20):
        for column in np.flatnonzero(present[row]):
            inside = scores[row][present[row]]
            better, equal = (inside > scores[row, column]).sum(), (inside == scores[row, column]).sum()
            assert ranks[row, column] == better + (equal + 1) / 2
    assert (ranks[~present] == 0).all()
    assert (ranks[:, 0] == average_ranks(scores, present)).all()


def test_features_are_centred_scores_and_log_ranks():
    present = np.array([[True, True, True, False]])
    inside = features([np.array([[3.0, 1.0, -np.inf, 99.0]])], present)
    # Minus infinity becomes one less than the lowest score: 3, 1, 0 with mean 4/3.
    assert inside[0, :, 0] == pytest.approx([3 - 4 / 3, 1 - 4 / 3, -4 / 3, 0])
    assert inside[0, :, 1] == pytest.approx([0, -np.log(2), -np.log(3), 0])


def fuse_arrays(parts, presents, prior=None):
    """Fuse parts' scores of valid and test lists; return the ranks of both, and the weights."""
    inside = [features([part[split] for part in parts], present) for split, present in enumerate(presents)]
    if prior is not None:
        inside = [np.concatenate([one, log[:, :, None]], axis=2) for one, log in zip(inside, prior, strict=True)]
    scale, weights = fit_fusion([(inside[0].copy(), presents[0])], WeightSettings(), signed=int(prior is not None))
    return [average_ranks((one / scale) @ weights, there) for one, there in zip(inside, presents, strict=True)], weights


def test_weights_minimize_the_negative_log_likelihood():
    rng, present = random_lists(1, 40)
    inside = np.where(present[:, :, None], rng.normal(size=(*present.shape, 3)), 0.0)
    inside[:, 0, 0] += 1.0

    def loss(weights):
        lists = [row[there] @ weights for row, there in zip(inside, present, strict=True)]
        return np.mean([np.log(np.exp(logits).sum()) - logits[0] for logits in lists]) + 0.05 * weights @ weights / 2

    weights = fit_weights([(inside[:7], present[:7]), (inside[7:], present[7:])], 0.05)
    by_loop = minimize(loss, np.zeros(3), bounds=[(0.0, None)] * 3, method="L-BFGS-B").x
    assert weights == pytest.approx(by_loop, abs=1e-3)
    assert weights.min() >= 0.0


def test_two_noisy_views_together_rank_better_than_either():
    parts, presents = [[], [], []], []
    for split in range(2):
        rng, present = random_lists(10 + split, 2000)
        for part, signal in zip(parts, (1.0, 1.0, 0.0), strict=True):
            part.append(signal * (np.arange(WIDTH) == 0) + rng.normal(size=present.shape))
        presents.append(present)
    (_, fused), weights = fuse_arrays(parts, presents)
    alone = [ndcg(average_ranks(part[1], presents[1]), 5) for part in parts]
    assert ndcg(fused, 5) > max(alone) + 0.03
    # The part of noise alone has next to no weight.
    strength = np.abs(weights.reshape(3, 2)).sum(axis=1)
    assert strength[2] < 0.2 * strength[:2].min()


def test_one_part_alone_keeps_its_order():
    rng, present = random_lists(3)
    scores = rng.normal(size=present.shape) + (np.arange(WIDTH) == 0)
    ranked, _ = fuse_arrays([[scores, scores]], [present, present])
    assert (ranked[1] == average_ranks(scores, present)).all()


def test_popularity_may_have_a_negative_weight():
    # The part's score is taste plus popularity; lists are drawn by popularity, so only taste reveals the target.
    rng, present = random_lists(4)
    popularity = rng.normal(size=present.shape)
    taste = rng.normal(size=present.shape) + 2.0 * (np.arange(WIDTH) == 0)
    part, lists, prior = [taste + 2.0 * popularity] * 2, [present, present], [popularity, popularity]
    plain, _ = fuse_arrays([part], lists)
    calibrated, weights = fuse_arrays([part], lists, prior)
    assert weights[-1] < 0
    ideal = ndcg(average_ranks(taste, present), 5)
    assert ndcg(calibrated[1], 5) == pytest.approx(ideal, abs=0.03)
    assert ndcg(plain[1], 5) < ideal - 0.1


@pytest.fixture
def shop(tmp_path):
    """Write valid and test lists of both tasks: ten users each, three negatives."""
    keys = [(task, split, user) for task in schema.TASKS for split in ("valid", "test") for user in range(10)]
    rows = [
        {
            "sample_id": i, "task": task, "split": split, "user_id": user, "time": 1, "event_id": i, "target_item": 0,
            "query_id": 0 if task == "search" else None, "history_behavior": [0], "history_object": [1],
        }
        for i, (task, split, user) in enumerate(keys)
    ]  # fmt: skip
    schema.SAMPLES.write(pl.DataFrame(rows, infer_schema_length=None), tmp_path / "samples.parquet")
    lists = {"sample_id": range(len(keys)), "negatives": [[1, 2, 3]] * len(keys)}
    schema.CANDIDATES.write(pl.DataFrame(lists), tmp_path / "candidates.parquet")
    return tmp_path


def write_scores(shop, name, score, tasks=schema.TASKS):
    tables = [
        rank_batch(load_candidates(shop, task, split), score).scores for task in tasks for split in ("valid", "test")
    ]
    schema.SCORES.write(pl.concat(tables).sort("sample_id"), shop / f"{name}.parquet")
    return shop / f"{name}.parquet"


def test_parts_count_in_the_tasks_they_rank(shop):
    falling = write_scores(shop, "falling", lambda lists: -lists.items.astype(float), tasks=("rec",))
    rising = write_scores(shop, "rising", lambda lists: 0.1 * lists.items.astype(float))
    fuse({"falling": falling, "rising": rising}, shop, shop / "ranks", "both", WeightSettings())
    ranks = schema.RANKS.read(shop / "ranks" / "both.parquet")
    by_task = dict(ranks.group_by("task").agg(pl.col("rank").mean()).iter_rows())
    # In rec the fusion follows `falling`, which ranks the target first. In search `rising` is alone and ranks it last:
    # its weight is zero, not negative, so that all candidates tie.
    assert by_task == {"rec": 1.0, "search": 2.5}
    counts = json.loads((shop / "ranks" / "both.stage.json").read_text())["counts"]
    assert set(counts["rec_weights"]) == {"falling", "rising"}
    assert set(counts["search_weights"]) == {"rising"}
    assert counts["search_weights"]["rising"] == {"score": 0.0, "rank": 0.0}


@pytest.mark.parametrize(("read", "rows"), [(1, 1), (3, 2), (7, 5)])
def test_a_fusion_does_not_depend_on_the_lists_read_at_a_time(shop, monkeypatch, read, rows):
    rng = np.random.default_rng(2)
    parts = {name: write_scores(shop, name, lambda lists: rng.normal(size=lists.items.shape)) for name in "ab"}
    fuse(parts, shop, shop / "ranks", "whole", WeightSettings())
    monkeypatch.setattr(fusion, "_READ", read)
    monkeypatch.setattr(fusion, "_ROWS", rows)
    fuse(parts, shop, shop / "ranks", "blocks", WeightSettings())
    files, counts = (
        [shop / "ranks" / f"{name}{ending}" for name in ("whole", "blocks")] for ending in (".parquet", ".stage.json")
    )
    assert files[0].read_bytes() == files[1].read_bytes()
    whole, blocks = (json.loads(path.read_text())["counts"] for path in counts)
    for task in schema.TASKS:
        for part, weights in whole.pop(f"{task}_weights").items():
            assert blocks[f"{task}_weights"][part] == pytest.approx(weights, abs=1e-4)
        del blocks[f"{task}_weights"]
    assert whole == blocks


def test_weights_are_fitted_on_evenly_spread_valid_lists(shop, monkeypatch):
    rng = np.random.default_rng(3)
    parts = {"a": write_scores(shop, "a", lambda lists: rng.normal(size=lists.items.shape))}
    fitted = []
    monkeypatch.setattr(
        fusion, "fit_fusion", lambda views, *rest, **more: fitted.append(views) or fit_fusion(views, *rest, **more)
    )
    monkeypatch.setattr(fusion, "_FITTED", 4)
    monkeypatch.setattr(fusion, "_ROWS", 3)
    fuse(parts, shop, shop / "ranks", "few", WeightSettings())
    # Of ten lists, the first, the fourth, the seventh and the last; they are divided by their scale in place.
    scores = np.stack(schema.SCORES.read(parts["a"])["scores"].to_list())[[0, 3, 6, 9]]
    expected = features([scores.astype(float)], np.ones(scores.shape, bool))
    inside = np.concatenate([inside for inside, _ in fitted[0]])
    assert inside == pytest.approx(expected / expected.reshape(-1, 2).std(axis=0))


def test_scores_of_other_lists_are_refused(shop):
    path = write_scores(shop, "part", lambda lists: lists.items.astype(float))
    scores = schema.SCORES.read(path)
    for rows, message in ((39, "its scores are of other candidate lists"), (30, "scored one split of a task and not")):
        schema.SCORES.write(scores[:rows], path)
        with pytest.raises(UserError, match=f"^part: {message}"):
            fuse({"part": path}, shop, shop / "ranks", "one", WeightSettings())


def test_popularity_counts_training_clicks_alone(shop):
    # All targets are item 0, which has no training click; item 3 is the most clicked.
    clicks = [1, 2, 2, 3, 3, 3, 3]
    columns = {"user_id": 0, "time": 0, "task": "rec", "query_id": None, "session_id": None}
    events = pl.DataFrame({**columns, "event_id": range(len(clicks)), "item_id": clicks})
    schema.EVENTS.write(events, shop / "training_events.parquet")
    assert log_clicks(shop / "training_events.parquet") == pytest.approx(np.log([1, 2, 3, 5]))
    equal = write_scores(shop, "equal", lambda lists: np.zeros(lists.items.shape))
    fuse({"equal": equal}, shop, shop / "ranks", "calibrated", WeightSettings(popularity=True))
    counts = json.loads((shop / "ranks" / "calibrated.stage.json").read_text())["counts"]
    assert counts["rec_weights"]["popularity"]["log_clicks"] < 0
    ranks = schema.RANKS.read(shop / "ranks" / "calibrated.parquet")
    assert (ranks["rank"] == 1.0).all()

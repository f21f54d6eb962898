"""Fusion: weights fitted on the valid lists, checked against loops, and ranks better than those of any part."""

import json

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize

from gensar_core import schema
from gensar_core.config.fusions import WeightSettings
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import load_candidates, rank_lists
from gensar_core.ranking.fusion import features, fit_weights, fuse, fuse_task, log_clicks
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


def test_weights_minimize_the_negative_log_likelihood():
    rng, present = random_lists(1, 40)
    inside = np.where(present[:, :, None], rng.normal(size=(*present.shape, 3)), 0.0)
    inside[:, 0, 0] += 1.0

    def loss(weights):
        lists = [row[there] @ weights for row, there in zip(inside, present, strict=True)]
        return np.mean([np.log(np.exp(logits).sum()) - logits[0] for logits in lists]) + 0.05 * weights @ weights / 2

    weights = fit_weights(inside, present, 0.05)
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
    (_, fused), weights = fuse_task(parts, presents, WeightSettings())
    alone = [ndcg(average_ranks(part[1], presents[1]), 5) for part in parts]
    assert ndcg(fused, 5) > max(alone) + 0.03
    # The part of noise alone has next to no weight.
    strength = np.abs(weights.reshape(3, 2)).sum(axis=1)
    assert strength[2] < 0.2 * strength[:2].min()


def test_one_part_alone_keeps_its_order():
    rng, present = random_lists(3)
    scores = rng.normal(size=present.shape) + (np.arange(WIDTH) == 0)
    ranked, _ = fuse_task([[scores, scores]], [present, present], WeightSettings())
    assert (ranked[1] == average_ranks(scores, present)).all()


def test_popularity_may_have_a_negative_weight():
    # The part's score is taste plus popularity; lists are drawn by popularity, so only taste reveals the target.
    rng, present = random_lists(4)
    popularity = rng.normal(size=present.shape)
    taste = rng.normal(size=present.shape) + 2.0 * (np.arange(WIDTH) == 0)
    part, lists, prior = [taste + 2.0 * popularity] * 2, [present, present], [popularity, popularity]
    plain, _ = fuse_task([part], lists, WeightSettings())
    calibrated, weights = fuse_task([part], lists, WeightSettings(), prior)
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
        rank_lists(load_candidates(shop, task, split), score, description="scores").scores
        for task in tasks
        for split in ("valid", "test")
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

"""Rank the whole catalogue after leaving one out, the field's usual protocol for sequential recommendation.

Of each user's clicks in order, the last is the test target, the one before it the valid target, and the others are for
training. A target is ranked among the items that its user has not clicked before, as in the scripts of S3-Rec and later
ones (a user reviews an item once, so no target is lost), or among all items; ties count half.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.sequential_recommender import SequenceTraining, SequentialRecommender
from gensar_core.ranking.metrics import hit_rate, ndcg
from gensar_core.runtime.arrays import Ragged
from gensar_core.training.loop import train
from gensar_core.training.state import TrainingRecord

#: Users per scoring batch; their scores of all items are in memory at once.
_USERS_AT_ONCE = 1024


@dataclass(frozen=True)
class ClickLog:
    """Hold each user's ``clicks`` in order, three or more, on items 0 to ``n_items`` - 1."""

    clicks: Ragged
    n_items: int

    @classmethod
    def from_reviews(cls, path: Path) -> ClickLog:
        """Read reviews of the Amazon releases (JSON lines, gzip), ordered per user by time, then by line."""
        with gzip.open(path) as file:
            reviews = pl.read_ndjson(file.read())
        ordered = reviews.select(
            user=pl.col("reviewerID").rank("dense"), item=pl.col("asin").rank("dense"), time="unixReviewTime"
        ).sort("user", "time", maintain_order=True)
        counts = ordered.group_by("user", maintain_order=True).len()["len"].to_numpy()
        items = ordered["item"].to_numpy().astype(np.int64) - 1
        clicks = Ragged.from_lengths(counts, items)
        return cls(clicks.take(np.flatnonzero(counts >= 3)), int(items.max()) + 1)

    def without_last(self, count: int) -> Ragged:
        """Return the clicks before each user's last ``count``."""
        from_end = np.repeat(self.clicks.offsets[1:], self.clicks.lengths) - np.arange(len(self.clicks.values))
        return self.clicks.filter(from_end > count)

    def target(self, count: int) -> np.ndarray:
        """Return the item that follows `without_last`(count), int64 [users]."""
        return self.clicks.values[self.clicks.offsets[1:] - count].astype(np.int64)

    def data(self, folder: Path) -> MethodData:
        """Write the training clicks into ``folder`` in the form that methods read."""
        training = self.without_last(2)
        folder.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"item_id": np.arange(self.n_items)}).write_parquet(folder / "items.parquet")
        order = np.arange(len(training.values))
        events = {"event_id": order, "user_id": training.rows, "time": order, "item_id": training.values}
        none = {"query_id": pl.lit(None, pl.Int32()), "session_id": pl.lit(None, pl.Int64())}
        pl.DataFrame(events).with_columns(task=pl.lit("rec"), **none).write_parquet(folder / "training_events.parquet")
        return MethodData(folder, folder)


@torch.no_grad()
def full_ranks(
    method: SequentialRecommender[Any], histories: Ragged, targets: np.ndarray, *, filter_seen: bool = False
) -> np.ndarray:
    """Rank each target [users] among all items; with ``filter_seen``, among those not in the user's history."""
    states, table = method.states(histories), method.module.table()
    target_items = torch.from_numpy(targets).to(table.device)
    ranks = []
    for start in range(0, len(targets), _USERS_AT_ONCE):
        users = np.arange(start, min(start + _USERS_AT_ONCE, len(targets)))
        scores = states[start : start + _USERS_AT_ONCE] @ table.T
        target_scores = scores.gather(1, target_items[start : start + _USERS_AT_ONCE, None])
        if filter_seen:
            seen = histories.take(users)
            scores[torch.from_numpy(seen.rows), torch.from_numpy(seen.values.astype(np.int64))] = -torch.inf
            scores.scatter_(1, target_items[start : start + _USERS_AT_ONCE, None], target_scores)
        # The number of better items minus worse ones; the average rank with ties follows from it.
        surplus = scores.sub_(target_scores).sign_().sum(dim=1)
        ranks.append((0.5 * (table.shape[0] + 1 + surplus)).cpu().numpy())
    return np.concatenate(ranks)


def metrics_of(ranks: np.ndarray) -> dict[str, float]:
    """Compute Recall@10 and NDCG@10 (with one target per user, recall is the hit rate)."""
    return {"recall@10": hit_rate(ranks, 10), "ndcg@10": ndcg(ranks, 10)}


class FullRankingTraining(SequenceTraining):
    """Choose the weights by NDCG@10 on the valid targets, ranked among all items that their users have not clicked."""

    def __init__(self, method: SequentialRecommender[Any], log: ClickLog) -> None:
        super().__init__(method, {})
        self.histories, self.targets = log.without_last(2), log.target(2)

    def validate(self) -> Mapping[str, float]:
        """Compute Recall@10 and NDCG@10."""
        metrics = metrics_of(full_ranks(self.method, self.histories, self.targets, filter_seen=True))
        return {"score": metrics["ndcg@10"], **metrics}


def fit(method: SequentialRecommender[Any], log: ClickLog) -> TrainingRecord:
    """Train on all but the last two clicks; keep the weights of the best NDCG@10 on the valid targets."""
    training = FullRankingTraining(method, log)
    name = type(method).__name__
    record = train(training, training.schedule, seed=method.seed, description=name, checkpoints=None)
    method.module.settle_unseen()
    return record

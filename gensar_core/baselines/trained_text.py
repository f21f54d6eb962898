"""Train a text embedding on the clicks of both tasks, for one space of identifiers (stage `embed_trained_text`).

Penha et al.: Semantic IDs for Joint Generative Search and Recommendation. 2025 (arXiv 2508.10478). A text encoder
trained on both tasks, then one space of identifiers, was their best compromise of the two.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import torch

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.methods.dense import Dense, DenseSettings, DenseTraining
from gensar_core.baselines.shared.sequence_encoder import recommended_histories
from gensar_core.config.embeddings import TrainedTextSettings
from gensar_core.runtime.arrays import Ragged, stretches
from gensar_core.runtime.mapped_arrays import mapped_parts, mapped_zeros
from gensar_core.runtime.stage import Stage
from gensar_core.runtime.tensors import save_vectors
from gensar_core.samples.user_clicks import UserClicks


def embed_trained_text(
    canonical: Path,
    samples: Path,
    text: Path,
    output: Path,
    settings: TrainedTextSettings,
    seed: int,
    checkpoints: Path | None,
) -> None:
    """Write vectors.safetensors: `items` [n_items, dimensions] and `queries` [n_queries, dimensions], of length 1.

    ``text`` is vectors.safetensors of a text embedding. ``checkpoints`` is a folder for this training alone, from which
    a killed run continues. Raises UserError when there is nothing to train or to validate on.
    """
    inputs = [samples / name for name in ("training_events.parquet", "samples.parquet", "candidates.parquet")]
    inputs += [canonical / "items.parquet", canonical / "queries.parquet", text]
    with Stage(
        "embed_trained_text", output, settings=settings, inputs=inputs, seed=seed, code=__name__, alone=True
    ) as stage:
        method = JointText(DenseSettings(**settings.model_dump()), MethodData(canonical, samples, text), seed)
        counts = method.fit(checkpoints, stage.key)
        vectors = {side: method.ranked_with[side] for side in ("items", "queries")}
        save_vectors(vectors, stage.path("vectors.safetensors"))
        stage.record(dimensions=vectors["items"].shape[1], **counts)
    if checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)


def shown_and_clicked(training_events: Path, n_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Map what was shown and what was clicked next int64 [pairs], from a file of training events (table `events`).

    First every query with an item clicked after it, in the order of events; then every two recommendation clicks of a
    user that follow each other, without clicks on the same item again. Query q is shown as q, and item i as
    ``n_queries`` + i.
    """
    searches, clicks = UserClicks.read(training_events, "search"), UserClicks.read(training_events, "rec").items

    def parts() -> Iterator[dict[str, np.ndarray]]:
        yield dict.fromkeys(("shown", "clicked"), np.zeros(0, dtype=np.int64))
        for places in stretches(len(searches.queries)):
            yield {"shown": searches.queries[places], "clicked": searches.items.values[places]}
        for places in stretches(len(clicks.values) - 1):
            first, then = clicks.values[places], clicks.values[places + 1]
            user, of_next = (np.searchsorted(clicks.offsets, place, side="right") for place in (places, places + 1))
            kept = (user == of_next) & (first != then)
            yield {"shown": first[kept].astype(np.int64) + n_queries, "clicked": then[kept]}

    found = mapped_parts(parts(), training_events.parent)
    return found["shown"], found["clicked"]


class JointText(Dense):
    """Train the towers of dense retrieval on both tasks at once; an item asks for the next one by its own vector.

    The loss is that of `Dense` with the sampling bias corrected, over the pairs of both tasks in one batch. The item
    that asks is no negative of itself.
    """

    tasks = ("rec", "search")

    def training(self) -> JointTextTraining:
        """Gather the pairs of both tasks and the valid candidates."""
        return JointTextTraining(self)

    def question_vectors(self, samples: pl.DataFrame) -> np.ndarray:
        """Return the queries' vectors or, in recommendation, that of the last click; zeros without any."""
        if samples.get_column("task")[0] == "search":
            return super().question_vectors(samples)
        last = recommended_histories(samples).tail(1)
        vectors = np.zeros((len(samples), self.ranked_with["items"].shape[1]), dtype=np.float32)
        vectors[last.rows] = self.ranked_with["items"][last.values]
        return vectors


class JointTextTraining(DenseTraining):
    """Train on the pairs of `shown_and_clicked`, whose numbers stand for queries and items."""

    def pairs(self, data: MethodData) -> tuple[np.ndarray, np.ndarray, Ragged]:
        """Map the pairs of the training events, without stored negatives."""
        shown, clicked = shown_and_clicked(data.events_file, data.n_queries)
        offsets = mapped_zeros(data.samples_folder, len(shown) + 1, np.int64)
        return shown, clicked, Ragged(offsets, np.zeros(0, dtype=np.int64))

    def encoded(self, queries: np.ndarray) -> torch.Tensor:
        """Encode queries by their tower, and the items behind them by that of items."""
        n_queries = self.method.data.n_queries
        sides = {"queries": queries[queries < n_queries], "items": queries[queries >= n_queries] - n_queries}
        return torch.cat([self.method.module(side, numbers) for side, numbers in sides.items() if len(numbers)])

    def spared(self, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Mark the item that asks."""
        asking: np.ndarray = queries[:, None] == items + self.method.data.n_queries
        return asking

    def validate(self) -> Mapping[str, float]:
        """Compute NDCG@5 and HR@10 of each task; the mean NDCG@5 is the score."""
        self.method.settle()
        metrics = {
            f"{task}_{name}": value for task in self.lists for name, value in self.metrics(self.lists[task]).items()
        }
        return {"score": float(np.mean([metrics[f"{task}_valid_ndcg@5"] for task in self.lists])), **metrics}

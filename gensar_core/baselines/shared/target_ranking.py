"""Train methods to rank one target above a few negatives, in one or both tasks.

A method adds a model (a batch of rows -> logits of its candidates) and its settings. This module provides data,
negatives, losses, one training loop for both tasks, early stopping and scoring.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch

from gensar_core.baselines.shared.next_item_losses import PopularityNegatives
from gensar_core.baselines.shared.scoring_tower import DEAD_SHARE, ActiveUnits
from gensar_core.baselines.shared.sequence_encoder import mark
from gensar_core.baselines.shared.target_model import (
    JointSettings,
    RankedSettings,
    RowModel,
    ranking_loss,
    weight_groups,
)
from gensar_core.baselines.shared.target_rows import TargetRows, TrainingRows
from gensar_core.baselines.shared.trained_method import TrainedMethod, Training, pooled_batches
from gensar_core.embeddings.sequential import ItemVectors
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists
from gensar_core.runtime.seeds import derive_seed, generator
from gensar_core.schema import TASKS
from gensar_core.training.blocks import BlockOrder
from gensar_core.training.loop import Schedule, warmup_cosine
from gensar_core.training.plateau import Plateau
from gensar_core.training.state import TrainingRecord

#: Candidate lists per scoring batch; with 100 candidates each, activations stay in a CPU's caches.
_LISTS_AT_ONCE = 256
#: Batches whose rows are sorted by length together, so that the rows of a batch have similar lengths.
_POOLED_BATCHES = 16

S = TypeVar("S", bound=RankedSettings)
J = TypeVar("J", bound=JointSettings)


class TrainingSet(Protocol):
    """Define what the training loop needs from one task's rows."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the lengths of these rows, used to batch rows of similar length."""

    def losses(self, rows: np.ndarray, step: int) -> Mapping[str, torch.Tensor]:
        """Compute the losses of the given rows, by name; the task contributes their sum."""


class RankedMethod(TrainedMethod[S, RowModel]):
    """Train and score a method on rows: a target, its history, its query, and negatives.

    Its ``inputs`` must name training_negatives unless it overrides `training_set`.
    """

    def task_weight(self, task: str) -> float:  # noqa: ARG002
        """Return the weight of a task's losses."""
        return 1.0

    def training_set(self, task: str) -> TrainingSet:
        """Return the train rows of a task."""
        settings, data = self.settings, self.data
        if not settings.stored_negatives and not settings.sampled_negatives:
            raise UserError("a method without stored_negatives needs sampled_negatives above 0")
        return RowSet(self, self.train_rows(task, data.negatives_file if settings.stored_negatives else None))

    def train_rows(self, task: str, negatives: Path | None) -> TrainingRows:
        """Read the train rows of a task, with the negatives of this file (None: without)."""
        settings = self.settings
        widths = settings.max_recommendations, settings.max_searches
        return TrainingRows.read(task, self.data.samples_folder, negatives, *widths)

    def optimizer(self) -> torch.optim.Optimizer:
        """Build the model's optimizer."""
        settings = self.settings
        return torch.optim.Adam(weight_groups(self.module, settings), lr=settings.learning_rate, fused=True)

    def training(self) -> RankedTraining:
        """Gather the train rows and the valid candidates of all tasks."""
        return RankedTraining(self)

    def finish(self, training: RankedTraining, record: TrainingRecord) -> dict[str, Any]:
        """Give unseen items, users and queries the mean vector, and count them."""
        model = self.module
        model.settle_unseen()
        self._warn_of_dead_towers(record)
        return {
            "training_rows": {task: len(rows) for task, rows in training.sets.items()},
            "unseen_items": int((~model.seen_items).sum()),
            "unseen_users": int((~model.seen_users).sum()),
            **({} if model.query_table() is None else {"unseen_queries": int((~model.seen_queries).sum())}),
        }

    def _warn_of_dead_towers(self, record: TrainingRecord) -> None:
        """Warn of towers that are almost entirely inactive under the selected weights."""
        selected = next((entry for entry in record.history if entry["step"] == record.best_step), {})
        for task in self.tasks:
            share = selected.get(f"{task}_active_share", 1.0)
            if share < DEAD_SHARE:
                self.warnings.append(
                    f"only {share:.1%} of the tower's ReLUs are active on valid candidates of {task}: the others learn "
                    "nothing any more; lower learning_rate, and raise embedding_rate in its place"
                )

    @torch.no_grad()
    def score(self, lists: CandidateLists) -> np.ndarray:
        """Return the candidates' logits; each history is encoded once for all its candidates."""
        self.module.eval()
        scores = np.zeros(lists.items.shape, dtype=np.float32)
        if not len(lists):
            return scores
        device = next(self.module.parameters()).device
        settings, task = self.settings, lists.samples.item(0, "task")
        rows = TargetRows.from_samples(task, lists.samples, settings.max_recommendations, settings.max_searches)
        order = np.argsort(rows.histories.lengths_of(np.arange(len(rows))), kind="stable")
        for start in range(0, len(order), _LISTS_AT_ONCE):
            part = order[start : start + _LISTS_AT_ONCE]
            logits, _ = self.module(rows.batch(part, lists.items[part], device))
            scores[part] = logits.cpu().numpy()
        return scores

    def item_vectors(self) -> ItemVectors:
        """Return the learned vector of every item."""
        vectors = self.module.item_vectors().detach().float().cpu().numpy()
        return ItemVectors(vectors, self.module.seen_items.cpu().numpy())


class JointMethod(RankedMethod[J]):
    """Train one model for recommendation and search."""

    tasks: ClassVar[tuple[str, ...]] = TASKS

    def task_weight(self, task: str) -> float:
        """Return the weight of a task's losses."""
        return self.settings.search_weight if task == "search" else 1.0


class RowSet:
    """Hold the train rows of one task, with negatives as the settings specify."""

    def __init__(self, method: RankedMethod[Any], train: TrainingRows) -> None:
        settings, data, task = method.settings, method.data, train.rows.task
        self.method = method
        self.train = train
        counts = data.clicks(task)
        self.sampler = PopularityNegatives(counts, settings.popularity_power, derive_seed(method.seed, task), data.cold)
        self._mark_seen(counts)

    def __len__(self) -> int:
        return len(self.train)

    def lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the lengths of these rows' histories."""
        return self.train.rows.histories.lengths_of(rows)

    def losses(self, rows: np.ndarray, step: int) -> Mapping[str, torch.Tensor]:
        """Compute the ranking loss and the model's additional losses."""
        model, settings = self.method.module, self.method.settings
        count = settings.sampled_negatives
        sampled = self.sampler.draw(step, len(rows) * count).reshape(len(rows), count)
        batch = self.train.batch(rows, sampled, next(model.parameters()).device)
        logits, further = model(batch)
        return {"ranking": ranking_loss(logits, batch.present, settings.loss), **further}

    def _mark_seen(self, clicks: np.ndarray) -> None:
        """Mark the items, users and queries that occur in this task's rows as seen."""
        model, histories = self.method.module, self.train.rows.histories
        mark(model.seen_users, self.train.rows.users)
        for items in (
            self.train.targets,
            self.train.negatives.values,
            histories.clicks.values,
            histories.searched_items.values,
        ):
            mark(model.seen_items, items)
        if self.method.settings.sampled_negatives:
            mark(model.seen_items, np.flatnonzero(clicks))
        if self.train.rows.task == "search":
            mark(model.seen_queries, self.train.rows.queries)
        if model.reads_past_queries:
            mark(model.seen_queries, histories.searches.values)


class RankedTraining(Training):
    """Train a model on the rows of each task in every step; all tasks finish an epoch together."""

    method: RankedMethod[Any]

    def __init__(self, method: RankedMethod[Any]) -> None:
        settings = method.settings
        sets = {task: method.training_set(task) for task in method.tasks}
        self.sets = {task: rows for task, rows in sets.items() if len(rows)}
        super().__init__(method, method.valid_lists())
        if not self.sets or not self.lists:
            tasks = " or ".join(method.tasks)
            raise UserError(f"{method.data.samples_folder}: no train or no valid target of {tasks}")
        self.plateau = Plateau(self.optimizer, settings.plateau_patience)
        self.order = BlockOrder(max(map(len, self.sets.values())), method.seed)
        self.steps_per_epoch = sum(self.order.steps(settings.batch_size))

    @property
    def schedule(self) -> Schedule:
        """Validate after every `validate_every` epochs."""
        settings = self.method.settings
        return Schedule(
            total_steps=self.total_steps,
            validate_every=self.steps_per_epoch * settings.validate_every,
            patience=settings.patience,
            rate=warmup_cosine(self.total_steps, 0.0) if settings.falling_rate else self.plateau.rate,
            weight_average=settings.weight_average,
        )

    def epoch(self, number: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield the rows of each step by task."""
        steps = self.order.steps(self.method.settings.batch_size)
        for block, visit in self.order.of(number):
            orders = {task: self._batches(task, block, visit, steps[block]) for task in self.sets}
            for position in range(steps[block]):
                yield {task: order[position] for task, order in orders.items() if len(order[position])}

    def backward(self, batch: tuple[int, dict[str, np.ndarray]]) -> Mapping[str, torch.Tensor]:
        """Run one step, one task after the other, so that only one task's activations are in memory."""
        step, tasks = batch
        parts: dict[str, torch.Tensor] = {}
        total = torch.zeros((), device=next(self.module.parameters()).device)
        for task, rows in tasks.items():
            losses = self.sets[task].losses(rows, step)
            loss = self.method.task_weight(task) * torch.stack(list(losses.values())).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            parts |= {f"{task}_{name}": value.detach() for name, value in losses.items()}
        return {"loss": total, **parts}

    def validate(self) -> Mapping[str, float]:
        """Compute NDCG@5 and HR@10 of each task on its valid candidates; the mean NDCG@5 is the score.

        For a model with towers, also report the share of their units that are active there.
        """
        metrics: dict[str, float] = {}
        for task, lists in self.lists.items():
            with ActiveUnits(self.module) as active:
                of_task = self.metrics(lists)
            if active.share is not None:
                metrics[f"{task}_active_share"] = active.share
            metrics |= {f"{task}_{name}": value for name, value in of_task.items()}
        score = float(np.mean([metrics[f"{task}_valid_ndcg@5"] for task in self.lists]))
        self.plateau.see(score)
        return {"score": score, **metrics}

    def _batches(self, task: str, block: int, visit: int, steps: int) -> list[np.ndarray]:
        """Return the rows of each batch in one visit of a block of a task."""
        members = self.order.members(block, len(self.sets[task]))
        pool = np.arange(len(members)) * steps // max(len(members), 1) // _POOLED_BATCHES
        rng = generator(self.method.seed, "epoch", visit, task)
        batches = pooled_batches(self.sets[task].lengths_of(members), pool, steps, rng)
        return [members[rows] for rows in batches]

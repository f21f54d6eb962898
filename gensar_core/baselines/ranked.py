"""What methods share that are trained to rank one target above a few negatives, in one or both tasks.

Such a method adds a model (a batch of rows -> logits of its candidates) and its settings; data, negatives, losses,
training of both tasks in one loop, early stopping and scoring are here.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch.nn import functional

from gensar_core.baselines.interface import Method, MethodData
from gensar_core.baselines.losses import PopularityNegatives
from gensar_core.baselines.rows import RowBatch, Rows, TrainingRows
from gensar_core.config.base import Count, Positive, Rate, Settings, Share
from gensar_core.embeddings.sequential import ItemVectors
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists, load_candidates
from gensar_core.ranking.metrics import average_ranks, hit_rate, ndcg
from gensar_core.runtime.device import pick_device
from gensar_core.runtime.seeds import derive_seed, generator
from gensar_core.runtime.training import Schedule, train

#: Lists scored at once; with 100 candidates each, activations stay in a CPU's caches.
_LISTS_AT_ONCE = 256
#: Batches whose rows are sorted by length together, so that rows of a batch are about equally long.
_POOLED_BATCHES = 16
#: By what learning rates are multiplied on a plateau, and at most altogether.
_PLATEAU_FACTOR, _LOWEST_FACTOR = 0.1, 1.0e-3


class RankedSettings(Settings):
    """How a method is trained on rows."""

    dimensions: Positive = 64
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    #: The part of a history that the method sees: the last recommendation clicks and search sessions.
    max_recommendations: Count = 30
    max_searches: Count = 30
    #: bce: mean over a row's candidates; softmax: cross-entropy of the target among them.
    loss: Literal["bce", "softmax"] = "bce"
    #: A row's negatives: those stored for it, and so many drawn anew in each epoch in proportion to the task's
    #: clicks ** popularity_power.
    stored_negatives: bool = True
    sampled_negatives: Count = 0
    popularity_power: Share = 1.0
    #: Rows of the task with more rows; the other task's batches are smaller, so that both end an epoch together.
    batch_size: Positive = 1024
    learning_rate: Rate = 1.0e-3
    #: Of all parameters but biases.
    weight_decay: Annotated[float, Field(ge=0.0)] = 1.0e-5
    epochs: Positive = 100
    #: Validate every so many epochs, on at most so many targets a task (0: all); stop after `patience` times without a
    #: gain, and after `plateau_patience` lower the learning rate to a tenth.
    validate_every: Positive = 1
    validation_users: Count = 0
    patience: Positive = 5
    plateau_patience: Positive = 3


S = TypeVar("S", bound=RankedSettings)


class RowModel(torch.nn.Module, abc.ABC):
    """A batch of rows -> logits of its candidates.

    ``items`` and ``users`` (unless ``user_size`` is 0) are the tables of learned vectors; ``seen_items`` [n_items] and
    ``seen_users`` [n_users] say which of them training has shown.
    """

    seen_items: torch.Tensor
    seen_users: torch.Tensor

    def __init__(self, data: MethodData, item_size: int, user_size: int = 0) -> None:
        super().__init__()
        self.items = torch.nn.Embedding(data.n_items, item_size)
        self.users = torch.nn.Embedding(data.n_users, user_size) if user_size else None
        self.register_buffer("seen_items", torch.zeros(data.n_items, dtype=torch.bool))
        self.register_buffer("seen_users", torch.zeros(data.n_users, dtype=torch.bool))

    @abc.abstractmethod
    def forward(self, batch: RowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits [rows, width] of the batch's candidates; and, in training, further losses, weighted, by name."""

    def item_vectors(self) -> torch.Tensor:
        """The learned vector of every item [n_items, dimensions]."""
        return self.items.weight

    @torch.no_grad()
    def settle_unseen(self) -> None:
        """Give items and users that training never showed the mean of the others: theirs are still random."""
        tables = [(self.items, self.seen_items)]
        tables += [(self.users, self.seen_users)] if self.users is not None else []
        for table, seen in tables:
            table.weight[~seen] = table.weight[seen].mean(dim=0)


class TrainingSet(Protocol):
    """What the training loop needs to know of the rows of one task."""

    @property
    def lengths(self) -> np.ndarray:
        """A size of each row [rows], by which rows are put into batches of about equally long ones."""

    def losses(self, rows: np.ndarray, step: int) -> Mapping[str, torch.Tensor]:
        """Losses of the given rows by name; their sum is what the task adds to the loss."""


class RankedMethod(Method[S]):
    """A method that is trained on rows: a target, its history, its query, and negatives.

    Its ``inputs`` name training_negatives, unless it has another `training_set`.
    """

    @abc.abstractmethod
    def build(self) -> RowModel:
        """An untrained model, on the CPU."""

    def task_weight(self, task: str) -> float:  # noqa: ARG002
        """The weight of a task's losses."""
        return 1.0

    def training_set(self, task: str) -> TrainingSet:
        """The train rows of a task."""
        settings, negatives = self.settings, None
        if settings.stored_negatives:
            negatives = self.data.negatives
        elif not settings.sampled_negatives:
            raise UserError("a method without stored_negatives needs sampled_negatives above 0")
        widths = (settings.max_recommendations, settings.max_searches)
        return RowSet(self, TrainingRows.from_samples(task, self.data.samples, negatives, *widths))

    @functools.cached_property
    def model(self) -> RowModel:
        """The model, initialized from the seed until it is trained or loaded."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "initialization"))
            return self.build().to(pick_device())

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:
        """Train with early stopping by the mean NDCG@5 of the method's tasks on the valid candidates."""
        task = RankedTraining(self)
        every = task.steps_per_epoch * self.settings.validate_every
        schedule = Schedule(
            total_steps=task.steps_per_epoch * self.settings.epochs,
            validate_every=every,
            checkpoint_every=every,
            patience=self.settings.patience,
            rate=task.plateau.rate,
        )
        name = type(self).__name__
        record = train(task, schedule, seed=self.seed, description=name, checkpoints=checkpoints, key=key)
        self.model.settle_unseen()
        return {
            "training_rows": {name: len(rows.lengths) for name, rows in task.sets.items()},
            "unseen_items": int((~self.model.seen_items).sum()),
            "unseen_users": int((~self.model.seen_users).sum()),
            "steps": record.steps,
            "best_step": record.best_step,
            "best_valid_ndcg@5": record.best_score,
            "curve": record.history,
        }

    @torch.no_grad()
    def score(self, lists: CandidateLists) -> np.ndarray:
        """Logits: each history is encoded once for all its candidates."""
        self.model.eval()
        scores = np.zeros(lists.items.shape, dtype=np.float32)
        if not len(lists):
            return scores
        device = next(self.model.parameters()).device
        settings, task = self.settings, lists.samples.item(0, "task")
        rows = Rows.from_samples(task, lists.samples, settings.max_recommendations, settings.max_searches)
        order = np.argsort(rows.histories.lengths, kind="stable")
        for start in range(0, len(order), _LISTS_AT_ONCE):
            part = order[start : start + _LISTS_AT_ONCE]
            logits, _ = self.model(rows.batch(part, lists.items[part], device))
            scores[part] = logits.cpu().numpy()
        return scores

    def item_vectors(self) -> ItemVectors:
        """The learned vector of every item."""
        vectors = self.model.item_vectors().detach().float().cpu().numpy()
        return ItemVectors(vectors, self.model.seen_items.cpu().numpy())

    def save(self, folder: Path) -> None:
        """Write model.safetensors."""
        weights = {name: value.contiguous().cpu() for name, value in self.model.state_dict().items()}
        save_file(weights, folder / "model.safetensors")

    def load(self, folder: Path) -> None:
        """Read model.safetensors."""
        self.model.load_state_dict(load_file(folder / "model.safetensors"))


class RowSet:
    """The train rows of one task, with the negatives that the settings name."""

    def __init__(self, method: RankedMethod[Any], train: TrainingRows) -> None:
        settings, data, task = method.settings, method.data, train.rows.task
        self.method = method
        self.train = train
        self.lengths = train.rows.histories.lengths
        events = data.training_events
        clicks = events.filter(events.get_column("task") == task).get_column("item_id").to_numpy()
        counts = np.bincount(clicks, minlength=data.n_items)
        self.sampler = PopularityNegatives(counts, settings.popularity_power, derive_seed(method.seed, task))
        self._mark_seen(counts)

    def losses(self, rows: np.ndarray, step: int) -> Mapping[str, torch.Tensor]:
        """The ranking loss and what the model adds to it."""
        model, settings = self.method.model, self.method.settings
        count = settings.sampled_negatives
        sampled = self.sampler.draw(step, len(rows) * count).reshape(len(rows), count)
        batch = self.train.batch(rows, sampled, next(model.parameters()).device)
        logits, further = model(batch)
        return {"ranking": ranking_loss(logits, batch.present, settings.loss), **further}

    def _mark_seen(self, clicks: np.ndarray) -> None:
        """Say which items and users this task's rows show."""
        model, histories = self.method.model, self.train.rows.histories
        shown = [self.train.targets, self.train.negatives[self.train.negatives >= 0]]
        shown += [histories.clicks.values, histories.found.values]
        if self.method.settings.sampled_negatives:
            shown.append(np.flatnonzero(clicks))
        model.seen_items[torch.from_numpy(np.unique(np.concatenate(shown)).astype(np.int64))] = True
        model.seen_users[torch.from_numpy(np.unique(self.train.rows.users))] = True


def ranking_loss(logits: torch.Tensor, present: torch.Tensor, loss: str) -> torch.Tensor:
    """Loss of logits [rows, width] whose positive stands in column 0, over the places that are ``present``."""
    if loss == "softmax":
        return (torch.logsumexp(logits.masked_fill(~present, -torch.inf), dim=1) - logits[:, 0]).mean()
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1.0
    return functional.binary_cross_entropy_with_logits(logits[present], labels[present])


class Plateau:
    """A factor on learning rates that falls when validations bring no gain. It lives in the optimizer's state."""

    def __init__(self, optimizer: torch.optim.Optimizer, patience: int) -> None:
        self.optimizer = optimizer
        self.patience = patience
        optimizer.param_groups[0] |= {"plateau_factor": 1.0, "plateau_best": -1.0, "plateau_waited": 0}

    def rate(self, step: int) -> float:  # noqa: ARG002
        """The factor, whatever the step."""
        factor: float = self.optimizer.param_groups[0]["plateau_factor"]
        return factor

    def see(self, score: float) -> None:
        """Take note of a validation."""
        state = self.optimizer.param_groups[0]
        if score > state["plateau_best"]:
            state |= {"plateau_best": score, "plateau_waited": 0}
            return
        state["plateau_waited"] += 1
        if state["plateau_waited"] > self.patience:
            factor = max(state["plateau_factor"] * _PLATEAU_FACTOR, _LOWEST_FACTOR)
            state |= {"plateau_factor": factor, "plateau_waited": 0}


class RankedTraining:
    """A method as the shared training loop sees it.

    Every step takes rows of each task, and all tasks end an epoch together.
    """

    def __init__(self, method: RankedMethod[Any], tasks: tuple[str, ...] | None = None) -> None:
        settings, data = method.settings, method.data
        sets = {task: method.training_set(task) for task in tasks or method.tasks}
        self.sets = {task: rows for task, rows in sets.items() if len(rows.lengths)}
        self.lists = {
            task: load_candidates(
                data.samples_folder, task, "valid", users=settings.validation_users, samples=data.samples
            )
            for task in sets
        }
        self.lists = {task: lists for task, lists in self.lists.items() if len(lists)}
        if not self.sets or not self.lists:
            raise UserError(f"{data.samples_folder}: no train or no valid target of {' or '.join(method.tasks)}")
        self.method = method
        self.module: torch.nn.Module = method.model
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            _decayed(self.module, settings.weight_decay), lr=settings.learning_rate
        )
        self.plateau = Plateau(self.optimizer, settings.plateau_patience)
        most = max(len(rows.lengths) for rows in self.sets.values())
        self.steps_per_epoch = -(-most // settings.batch_size)

    def batches(self, first_step: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Each step and its rows of each task."""
        epoch, skipped = divmod(first_step, self.steps_per_epoch)
        while True:
            orders = {task: self._epoch(task, epoch) for task in self.sets}
            for position in range(skipped, self.steps_per_epoch):
                rows = {task: order[position] for task, order in orders.items() if len(order[position])}
                yield epoch * self.steps_per_epoch + position, rows
            epoch, skipped = epoch + 1, 0

    def backward(self, batch: tuple[int, dict[str, np.ndarray]]) -> Mapping[str, torch.Tensor]:
        """One step; one task after the other, so that only one's activations are in memory."""
        step, tasks = batch
        found: dict[str, torch.Tensor] = {}
        total = torch.zeros((), device=next(self.module.parameters()).device)
        for task, rows in tasks.items():
            losses = self.sets[task].losses(rows, step)
            loss = self.method.task_weight(task) * torch.stack(list(losses.values())).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            found |= {f"{task}_{name}": value.detach() for name, value in losses.items()}
        return {"loss": total, **found}

    def validate(self) -> Mapping[str, float]:
        """NDCG@5 and HR@10 of each task on its valid candidates; the mean NDCG@5 counts."""
        figures: dict[str, float] = {}
        for task, lists in self.lists.items():
            ranks = average_ranks(self.method.score(lists), lists.present)
            figures |= {f"{task}_valid_ndcg@5": ndcg(ranks, 5), f"{task}_valid_hr@10": hit_rate(ranks, 10)}
        score = float(np.mean([figures[f"{task}_valid_ndcg@5"] for task in self.lists]))
        self.plateau.see(score)
        return {"score": score, **figures}

    def _epoch(self, task: str, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of one epoch of a task."""
        lengths = self.sets[task].lengths
        rng = generator(self.method.seed, "epoch", epoch, task)
        order = rng.permutation(len(lengths))
        pool = np.arange(len(order)) * self.steps_per_epoch // max(1, len(order)) // _POOLED_BATCHES
        order = order[np.lexsort((lengths[order], pool))]
        batches = np.array_split(order, self.steps_per_epoch)
        return [batches[position] for position in rng.permutation(len(batches))]


def _decayed(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: biases do not decay."""
    biases = [parameter for name, parameter in module.named_parameters() if name.endswith("bias")]
    others = [parameter for name, parameter in module.named_parameters() if not name.endswith("bias")]
    return [{"params": others, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]

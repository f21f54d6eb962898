"""Train, select, save and load methods that learn by gradient.

A method names its settings, its module and its `Training`, which says what an epoch consists of. This module provides
seeded weights, the call of the training loop, the choice of weights on valid, and the files.
"""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from pydantic import model_validator
from safetensors.torch import load_file, save_file

from gensar_core.baselines.interface import Method
from gensar_core.config.base import Count, Positive, Rate, Settings, Share
from gensar_core.config.search_spaces import Between
from gensar_core.ranking.candidates import CandidateLists
from gensar_core.ranking.full_ranking import CatalogueTargets, ranks_by_score
from gensar_core.ranking.metrics import average_ranks
from gensar_core.ranking.validation_candidates import WHOLE, ValidLists
from gensar_core.runtime.device import pick_device
from gensar_core.runtime.seeds import derive_seed
from gensar_core.training.loop import Schedule, Watch, train
from gensar_core.training.state import TrainingRecord


class TrainedSettings(Settings):
    """Configure what every training has."""

    batch_size: Positive = 256
    learning_rate: Annotated[Rate, Between(1.0e-4, 1.0e-2, log=True)] = 1.0e-3
    epochs: Positive = 100
    validation_users: Count = 0
    """Validate on at most this many targets per task (0: all)."""
    validate_among: Literal["candidates", "catalogue"] = "candidates"
    """Choose the weights by how they rank the valid targets among their candidates, or among all items."""
    patience: Positive = 5
    """Stop after this many validations without a gain."""
    weight_average: Share | None = None
    """Validate and keep an exponential moving average of the weights, of which each step keeps this share (0.999; less
    in the first steps of a training). Null: the weights themselves."""


def heads_divide_dimensions(*, even: bool = False) -> Any:
    """Build a validator of settings: `heads` divide `dimensions`, which must also be even where ``even`` is set."""

    def check(settings: Any) -> Any:
        dimensions, heads = settings.dimensions, settings.heads
        if dimensions % heads or (even and dimensions % 2):
            required = "even and a multiple" if even else "a multiple"
            raise ValueError(f"dimensions ({dimensions}) must be {required} of heads ({heads})")
        return settings

    return model_validator(mode="after")(check)


S = TypeVar("S", bound=TrainedSettings)
M = TypeVar("M", bound=torch.nn.Module)


class TrainedMethod(Method[S], Generic[S, M]):
    """Learn the weights of a module by gradient, and keep those that rank the valid targets best.

    ``module_class`` builds the untrained module from the method's data and settings.
    """

    module_class: ClassVar[type[torch.nn.Module]]
    #: Told of each validation of `fit`, if set.
    watch: Watch | None = None

    def build(self) -> M:
        """Build the untrained module, on any device."""
        module: M = self.module_class(self.data, self.settings)  # type: ignore[assignment]
        return module

    @functools.cached_property
    def module(self) -> M:
        """Return the module, initialized from the seed until it is trained or loaded."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "initialization"))
            return self.build().to(pick_device())

    @abc.abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """Build the optimizer of the module's weights."""

    @abc.abstractmethod
    def training(self) -> Training:
        """Gather what to train and to validate on. Raises UserError when there is nothing."""

    @abc.abstractmethod
    def finish(self, training: Any, record: TrainingRecord) -> dict[str, Any]:
        """Complete the module after its ``training``; return further counts for the stage's record."""

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:
        """Train with early stopping on NDCG@5 of the valid targets, a mean over the method's tasks."""
        training = self.training()
        name = type(self).__name__
        record = train(
            training,
            training.schedule,
            seed=self.seed,
            description=name,
            checkpoints=checkpoints,
            key=key,
            watch=self.watch,
        )
        return {
            **self.finish(training, record),
            "steps": record.steps,
            "best_step": record.best_step,
            "best_valid_ndcg@5": record.best_score,
            "curve": record.history,
        }

    def valid_lists(self) -> dict[str, ValidLists]:
        """Open the valid candidates that choose the weights, for each task that has any."""
        folder, users = self.data.samples_folder, self.settings.validation_users
        every = {task: ValidLists.open(folder, task, users, columns=WHOLE) for task in self.tasks}
        return {task: lists for task, lists in every.items() if len(lists)}

    def save(self, folder: Path) -> None:
        """Write model.safetensors."""
        weights = {name: value.contiguous().cpu() for name, value in self.module.state_dict().items()}
        save_file(weights, folder / "model.safetensors")

    def load(self, folder: Path) -> None:
        """Read model.safetensors."""
        self.module.load_state_dict(load_file(folder / "model.safetensors"))


class Training(abc.ABC):
    """Adapt a method to the training loop; ``lists`` are its valid candidates by task."""

    steps_per_epoch: int

    def __init__(self, method: TrainedMethod[Any, Any], lists: Mapping[str, ValidLists]) -> None:
        self.method = method
        self.lists = lists
        self.module: torch.nn.Module = method.module
        self.optimizer = method.optimizer()

    @property
    @abc.abstractmethod
    def schedule(self) -> Schedule:
        """Return how long to train and when to validate."""

    @property
    def total_steps(self) -> int:
        """Return the number of steps of all epochs."""
        epochs: int = self.method.settings.epochs
        return self.steps_per_epoch * epochs

    @abc.abstractmethod
    def epoch(self, number: int) -> Iterable[Any]:
        """Yield the rows of each step of an epoch, which depend on the seed and the epoch's number alone."""

    @abc.abstractmethod
    def backward(self, batch: tuple[int, Any]) -> Mapping[str, torch.Tensor]:
        """Run one step on its rows; return detached losses by name, `loss` being the objective."""

    def batches(self, first_step: int) -> Iterator[tuple[int, Any]]:
        """Yield the steps ``first_step``, ``first_step`` + 1, ... without end, each with its rows."""
        number, skipped = divmod(first_step, self.steps_per_epoch)
        while True:
            steps = enumerate(self.epoch(number), number * self.steps_per_epoch)
            yield from itertools.islice(steps, skipped, None)
            number, skipped = number + 1, 0

    def validate(self) -> Mapping[str, float]:
        """Compute NDCG@5 and HR@10 on the valid candidates of the method's only task."""
        (lists,) = self.lists.values()
        metrics = self.metrics(lists)
        return {"score": metrics["valid_ndcg@5"], **metrics}

    def metrics(self, lists: ValidLists) -> dict[str, float]:
        """Compute NDCG@5 and HR@10 of the present weights, among candidates or the catalogue."""
        return {f"valid_{name}": value for name, value in lists.metrics(self._ranks).items()}

    def _ranks(self, lists: CandidateLists) -> np.ndarray:
        if self.method.settings.validate_among == "candidates":
            return average_ranks(self.method.score(lists), lists.present)
        targets, n_items = CatalogueTargets(lists.samples), self.method.data.n_items
        table = ranks_by_score(targets, n_items, self.method.score_catalogue, description="validate")
        return table.get_column("rank").to_numpy()


def pooled_batches(
    lengths: np.ndarray, pool: np.ndarray, cuts: int | Sequence[int], rng: np.random.Generator
) -> list[np.ndarray]:
    """Shuffle rows into batches of similar ``lengths`` [rows], which need little padding.

    The shuffled rows of one ``pool`` [rows] are sorted by length, then cut as by `numpy.array_split`. Batches come in
    random order.
    """
    order = rng.permutation(len(lengths))
    order = order[np.lexsort((lengths[order], pool))]
    batches = np.array_split(order, cuts)
    return [batches[position] for position in rng.permutation(len(batches))]

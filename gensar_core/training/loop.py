"""Train every model of the project, from RQ-VAE to T5, by one loop.

A task defines a step. The loop steps, validates, keeps the best weights, stops early, and writes checkpoints from which
a killed run continues to the same result: step ``s`` draws its randomness from (seed, s) alone, and its batch from the
task's own order, so that only weights and optimizer state must be saved.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import torch

from gensar_core.errors import DivergedError
from gensar_core.runtime.progress import progress, say
from gensar_core.runtime.seeds import derive_seed
from gensar_core.training.checkpoints import Checkpoints
from gensar_core.training.processes import ALONE, Processes
from gensar_core.training.state import TrainingRecord, TrainingState


class TrainingTask(Protocol):
    """Provide the loop with a model and its data."""

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer

    def batches(self, first_step: int) -> Iterator[Any]:
        """Return the batches of optimizer steps ``first_step``, ``first_step + 1``, ... in a fixed order.

        With several processes, each gets its own share of a step.
        """

    def backward(self, batch: Any) -> Mapping[str, torch.Tensor]:
        """Run one step's forward and backward passes; return detached losses by name, `loss` being the objective.

        A name may be missing in some steps; its mean is over the steps that have it. With several processes, each
        returns its share under the same names: losses and gradients are summed over them.
        """

    def validate(self) -> Mapping[str, float]:
        """Compute metrics on the validation split; `score` (higher is better) chooses the weights to keep."""


@runtime_checkable
class NamesSamples(Protocol):
    """Extend a task to list the samples that spoil a step."""

    def spoiling_samples(self, step: int) -> str:
        """List the samples of step ``step`` whose own loss is not finite under the current weights.

        Called without gradients, after the random numbers of the step have been seeded as for `backward`.
        """


#: Called after each validation with its number, from 1, and its score; may raise to end the training.
Watch = Callable[[int, float], None]


@dataclass(frozen=True)
class Schedule:
    """Set how long to train and when to validate. All counts are optimizer steps."""

    total_steps: int
    validate_every: int
    #: Stop after this many validations without improvement; None never stops early.
    patience: int | None = None
    gradient_clip: float | None = None
    #: Factor on the optimizer's learning rates, by step.
    rate: Callable[[int], float] | None = None
    #: Validate before the first step as well, so that the weights kept are no worse than the initial ones.
    validate_first: bool = False
    #: Factor, for each step, of an exponential moving average of the weights, which is validated and kept in their
    #: place (Polyak and Juditsky, 1992); None: the weights themselves. No effect on the training.
    weight_average: float | None = None


def warmup_cosine(total_steps: int, warmup_share: float) -> Callable[[int], float]:
    """Warm up linearly over a share of the steps, then follow a cosine down to zero at ``total_steps``."""
    return _after_warmup(total_steps, warmup_share, lambda done, of: 0.5 * (1.0 + math.cos(math.pi * done / of)))


def warmup_linear(total_steps: int, warmup_share: float) -> Callable[[int], float]:
    """Warm up linearly over a share of the steps, then fall linearly to zero at ``total_steps``."""
    return _after_warmup(total_steps, warmup_share, lambda done, of: 1.0 - done / of)


def warmup_constant(total_steps: int, warmup_share: float) -> Callable[[int], float]:
    """Warm up linearly over a share of the steps, then stay."""
    return _after_warmup(total_steps, warmup_share, lambda _done, _of: 1.0)


def inverse_square_root(total_steps: int, warmup_share: float) -> Callable[[int], float]:
    """Stay over a share of the steps, then fall with the square root of the steps done (T5, TIGER)."""
    warmup = max(1, round(total_steps * warmup_share))
    return lambda step: math.sqrt(warmup / max(warmup, step + 1))


def _after_warmup(
    total_steps: int, warmup_share: float, falling: Callable[[int, int], float]
) -> Callable[[int], float]:
    """Warm up linearly, then apply ``falling`` to the steps since the warm-up and their total number."""
    warmup = max(1, round(total_steps * warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return falling(step - warmup, max(1, total_steps - warmup))

    return factor


#: Factors on the learning rate by the name of their schedule, from the number of steps and the share of warm-up.
RATE_SCHEDULES: Final[Mapping[str, Callable[[int, float], Callable[[int], float]]]] = {
    "cosine": warmup_cosine,
    "linear": warmup_linear,
    "constant": warmup_constant,
    "inverse_square_root": inverse_square_root,
}


def train(
    task: TrainingTask,
    schedule: Schedule,
    *,
    seed: int,
    description: str,
    checkpoints: Path | None,
    key: str = "",
    processes: Processes = ALONE,
    clock: Callable[[], float] = time.monotonic,
    watch: Watch | None = None,
) -> TrainingRecord:
    """Train until the steps are done or patience runs out; leave the best weights in ``task.module``.

    ``checkpoints`` is a folder for this training only. A checkpoint there is continued if it was written under the same
    ``key`` (settings, inputs and code), and removed if not. One is written every `checkpoint_seconds` by ``clock``, and
    at the end; the result does not depend on when. The caller deletes the folder once the results are safe. All
    ``processes`` make the same call; the first one makes the decisions and writes checkpoints, which any number of
    processes may continue. ``watch`` is told of every validation, those before a continued checkpoint included. Raises
    DivergedError on a loss that is not finite, and UserError on a damaged checkpoint.
    """
    store = Checkpoints(checkpoints, key, clock)
    if processes.first:
        store.remove_others()
    state = store.load(task.module, task.optimizer) or TrainingState()
    state.base_rates = state.base_rates or [group["lr"] for group in task.optimizer.param_groups]
    state.best_weights = state.best_weights or _copy(task.module)
    if schedule.weight_average is not None and state.average is None:
        state.average = [parameter.detach().clone() for parameter in task.module.parameters()]
    if state.record.steps:
        say(f"{description}: continues at step {state.record.steps:,} of {schedule.total_steps:,}")

    run = _Run(task, schedule, state, seed, description, processes, watch)
    if watch is not None:
        for number, entry in enumerate(state.record.history, start=1):
            watch(number, entry["score"])
    remaining = range(state.record.steps, schedule.total_steps)
    batches = task.batches(state.record.steps)
    if schedule.validate_first and not state.record.history:
        run.validate()
    task.module.train()
    for step in progress(remaining, description, schedule.total_steps, unit="step", initial=state.record.steps):
        if state.stopped:
            break
        run.step(step, next(batches))
        done = step + 1
        if done % schedule.validate_every == 0 or done == schedule.total_steps:
            run.validate()
        # The other processes read no clock: they meet the first one again in the next step.
        if processes.first and (done == schedule.total_steps or state.stopped or store.due):
            run.check_finite()
            store.save(task.module, task.optimizer, state)
    task.module.load_state_dict(state.best_weights)
    return state.record


@dataclass
class _Run:
    """Run the steps and validations of one training."""

    task: TrainingTask
    schedule: Schedule
    state: TrainingState
    seed: int
    description: str
    processes: Processes
    watch: Watch | None

    def step(self, step: int, batch: Any) -> None:
        """Run one optimizer step."""
        task, schedule, state = self.task, self.schedule, self.state
        self._seed(step)
        factor = schedule.rate(step) if schedule.rate else 1.0
        for group, rate in zip(task.optimizer.param_groups, state.base_rates, strict=True):
            group["lr"] = rate * factor
        task.optimizer.zero_grad(set_to_none=True)
        losses = self.processes.sum_step(task.module, task.backward(batch))
        if schedule.gradient_clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(task.module.parameters(), schedule.gradient_clip)
            losses = {**losses, "gradient_norm": norm.detach()}
        state.add(losses)
        # On a CPU this check costs no wait, and the weights are still those that the loss came from.
        if losses["loss"].device.type == "cpu":
            self.check_finite()
        task.optimizer.step()
        state.record.steps = done = step + 1
        if schedule.weight_average is not None and state.average is not None:
            # A short training would otherwise show its initial weights.
            factor = min(schedule.weight_average, (1 + done) / (10 + done))
            with torch.no_grad():
                torch._foreach_lerp_(state.average, list(task.module.parameters()), 1.0 - factor)

    def validate(self) -> None:
        """Validate the model; keep the weights if they are the best so far."""
        self.check_finite()
        task, state, record = self.task, self.state, self.state.record
        task.module.eval()
        with torch.no_grad(), self._averaged():
            metrics = self.processes.agree(task.validate())
            better = metrics["score"] > record.best_score
            if better:
                state.best_weights = _copy(task.module)
        task.module.train()
        means = {f"train_{name}": value for name, value in state.take_means().items()}
        record.history.append({"step": float(record.steps), **means, **metrics})
        shown = ", ".join(f"{name} {value:.4g}" for name, value in {**means, **metrics}.items())
        say(f"{self.description}: step {record.steps:,} of {self.schedule.total_steps:,}: {shown}")
        if better:
            record.best_score, record.best_step = metrics["score"], record.steps
            state.without_gain = 0
        else:
            state.without_gain += 1
            patience = self.schedule.patience
            state.stopped = patience is not None and state.without_gain >= patience
        if self.watch is not None:
            self.watch(len(record.history), metrics["score"])

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the average of the weights in their place meanwhile, if there is one."""
        parameters = list(self.task.module.parameters()) if self.state.average is not None else []
        own = [parameter.detach().clone() for parameter in parameters]
        for parameter, mean in zip(parameters, self.state.average or [], strict=True):
            parameter.copy_(mean)
        yield
        for parameter, value in zip(parameters, own, strict=True):
            parameter.copy_(value)

    def check_finite(self) -> None:
        """Raise DivergedError if some loss since the last validation is not finite."""
        names = self.state.not_finite()
        if not names or self.state.bad_step is None:
            return
        step, samples = int(self.state.bad_step), ""
        if isinstance(self.task, NamesSamples):
            self._seed(step - 1)
            self.task.module.train()
            with torch.no_grad():
                samples = f" ({self.task.spoiling_samples(step - 1)})"
        raise DivergedError(
            f"{self.description}: {', '.join(names)} not a finite number at step {step:,}{samples}; "
            "lower the learning rate or the gradient clip"
        )

    def _seed(self, step: int) -> None:
        seed = derive_seed(self.seed, "step", step)
        if next(self.task.module.parameters()).device.type == "cpu":
            # `torch.manual_seed` seeds all kinds of devices and formats the stack for each: up to a tenth of a small
            # model's step.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)


def _copy(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}

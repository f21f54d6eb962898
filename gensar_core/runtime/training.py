"""The training loop that every trained model of the project shares, from RQ-VAE to T5.

A task says what a step is; the loop steps, validates, keeps the best weights, stops early, and writes checkpoints from
which a killed run continues to the same result: step ``s`` draws its randomness from (seed, s) alone, and its batch
from the task's own order, so nothing but weights and optimizer state has to be remembered.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from gensar_core.errors import UserError
from gensar_core.runtime.progress import progress, say
from gensar_core.runtime.seeds import derive_seed


class TrainingTask(Protocol):
    """What the loop needs to know of a model and its data."""

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer

    def batches(self, first_step: int) -> Iterator[Any]:
        """Batches of optimizer steps ``first_step``, ``first_step + 1``, ... in a fixed order."""

    def backward(self, batch: Any) -> Mapping[str, torch.Tensor]:
        """Run one step's forward and backward passes; return detached losses by name, `loss` the one that counts.

        A name may be missing in some steps; its mean is over the steps that give it.
        """

    def validate(self) -> Mapping[str, float]:
        """Figures on the validation split; `score` (higher is better) chooses the weights that are kept."""


@dataclass(frozen=True)
class Schedule:
    """How long to train and when to look. All counts are optimizer steps."""

    total_steps: int
    validate_every: int
    checkpoint_every: int
    #: Stop after so many validations without improvement; None never stops early.
    patience: int | None = None
    gradient_clip: float | None = None
    #: Factor on the optimizer's learning rates at a step.
    rate: Callable[[int], float] | None = None


@dataclass
class TrainingRecord:
    """What happened: one entry a validation, with mean training losses since the last one."""

    history: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    best_step: int = 0
    best_score: float = -math.inf


def warmup_cosine(total_steps: int, warmup_share: float) -> Callable[[int], float]:
    """Linear warm-up over a share of the steps, then a cosine down to zero at ``total_steps``."""
    warmup = max(1, round(total_steps * warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))

    return factor


def train(
    task: TrainingTask, schedule: Schedule, *, seed: int, description: str, checkpoints: Path | None, key: str = ""
) -> TrainingRecord:
    """Train until the steps are done or patience runs out; leave the best weights in ``task.module``.

    ``checkpoints`` is a folder of this training alone; a checkpoint there is continued if it was written under the
    same ``key`` (settings, inputs and code). The caller deletes the folder when the results are safe. Raises UserError
    on a loss that is not finite.
    """
    store = _Checkpoints(checkpoints, key)
    state = store.load(task) or _State()
    base_rates = [group["lr"] for group in task.optimizer.param_groups] if not state.base_rates else state.base_rates
    state.base_rates = base_rates
    if state.best_weights is None:
        state.best_weights = _copy(task.module)
    if state.record.steps:
        say(f"{description}: continues at step {state.record.steps:,} of {schedule.total_steps:,}")

    remaining = range(state.record.steps, schedule.total_steps)
    batches = task.batches(state.record.steps)
    task.module.train()
    for step in progress(remaining, description, schedule.total_steps, unit="step", initial=state.record.steps):
        if state.stopped:
            break
        torch.manual_seed(derive_seed(seed, "step", step))
        factor = schedule.rate(step) if schedule.rate else 1.0
        for group, rate in zip(task.optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        task.optimizer.zero_grad(set_to_none=True)
        losses = task.backward(next(batches))
        if schedule.gradient_clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(task.module.parameters(), schedule.gradient_clip)
            losses = {**losses, "gradient_norm": norm.detach()}
        task.optimizer.step()
        state.add(losses)
        done = step + 1
        state.record.steps = done
        if done % schedule.validate_every == 0 or done == schedule.total_steps:
            _validate(task, schedule, state, description)
        if done % schedule.checkpoint_every == 0 or done == schedule.total_steps or state.stopped:
            state.check_finite(description)
            store.save(task, state)
    task.module.load_state_dict(state.best_weights)
    return state.record


@dataclass
class _State:
    record: TrainingRecord = field(default_factory=TrainingRecord)
    best_weights: dict[str, torch.Tensor] | None = None
    base_rates: list[float] = field(default_factory=list)
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    summed: int = 0
    #: The first step whose losses held one that is no finite number, -1 so far; on the device, like the sums.
    bad_step: torch.Tensor | None = None
    without_gain: int = 0
    stopped: bool = False

    def add(self, losses: Mapping[str, torch.Tensor]) -> None:
        # Summed on the device: reading a loss at each step would wait for the device each time.
        for name, value in losses.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        finite = torch.stack([value.detach().isfinite() for value in losses.values()]).all()
        if self.bad_step is None:
            self.bad_step = torch.full_like(finite, -1, dtype=torch.int64)
        found = self.bad_step.masked_fill(~finite, self.record.steps + 1)
        self.bad_step = torch.where(self.bad_step < 0, found, self.bad_step)
        self.summed += 1

    def check_finite(self, description: str) -> None:
        bad = [name for name, value in self.sums.items() if not torch.isfinite(value)]
        if not bad:
            return
        step = int(self.bad_step) if self.bad_step is not None else -1
        where = f"at step {step:,}" if step >= 0 else f"in a step before {self.record.steps:,}"
        raise UserError(
            f"{description}: {', '.join(bad)} not a finite number {where}; lower the learning rate or the gradient clip"
        )


def _validate(task: TrainingTask, schedule: Schedule, state: _State, description: str) -> None:
    state.check_finite(description)
    task.module.eval()
    with torch.no_grad():
        figures = dict(task.validate())
    task.module.train()
    means = {f"train_{name}": float(value) / state.counts[name] for name, value in state.sums.items()}
    state.sums, state.counts, state.summed = {}, {}, 0
    record = state.record
    record.history.append({"step": float(record.steps), **means, **figures})
    shown = ", ".join(f"{name} {value:.4g}" for name, value in {**means, **figures}.items())
    say(f"{description}: step {record.steps:,} of {schedule.total_steps:,}: {shown}")
    if figures["score"] > record.best_score:
        record.best_score, record.best_step = figures["score"], record.steps
        state.best_weights = _copy(task.module)
        state.without_gain = 0
    else:
        state.without_gain += 1
        state.stopped = schedule.patience is not None and state.without_gain >= schedule.patience


def _copy(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


class _Checkpoints:
    """One resumable checkpoint in a folder, replaced whole."""

    def __init__(self, folder: Path | None, key: str) -> None:
        self.file = folder / "last.pt" if folder is not None else None
        self.key = key

    def save(self, task: TrainingTask, state: _State) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        torch.save(
            {
                "key": self.key,
                "module": task.module.state_dict(),
                "optimizer": task.optimizer.state_dict(),
                "best_weights": state.best_weights,
                "base_rates": state.base_rates,
                "sums": state.sums,
                "counts": state.counts,
                "summed": state.summed,
                "without_gain": state.without_gain,
                "stopped": state.stopped,
                "history": state.record.history,
                "steps": state.record.steps,
                "best_step": state.record.best_step,
                "best_score": state.record.best_score,
            },
            partial,
        )
        os.replace(partial, self.file)

    def load(self, task: TrainingTask) -> _State | None:
        if self.file is None or not self.file.is_file():
            return None
        device = next(task.module.parameters()).device
        stored = torch.load(self.file, map_location=device, weights_only=True)
        if stored["key"] != self.key:
            say(f"{self.file}: from other settings, inputs or code; training starts anew")
            return None
        task.module.load_state_dict(stored["module"])
        task.optimizer.load_state_dict(stored["optimizer"])
        record = TrainingRecord(stored["history"], stored["steps"], stored["best_step"], stored["best_score"])
        return _State(
            record=record,
            best_weights=stored["best_weights"],
            base_rates=stored["base_rates"],
            sums=stored["sums"],
            counts=stored["counts"],
            summed=stored["summed"],
            without_gain=stored["without_gain"],
            stopped=stored["stopped"],
        )

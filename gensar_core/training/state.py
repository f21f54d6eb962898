"""Keep a training's state between steps: metrics so far, the best weights, and the first step that went wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass
class TrainingRecord:
    """Record a training: one entry per validation, with mean training losses since the last one."""

    history: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    best_step: int = 0
    best_score: float = -math.inf


@dataclass
class TrainingState:
    """Hold everything that a checkpoint stores beside the weights and the optimizer's own state."""

    record: TrainingRecord = field(default_factory=TrainingRecord)
    best_weights: dict[str, torch.Tensor] | None = None
    #: Moving average of each parameter, in the module's order; None if the schedule takes none.
    average: list[torch.Tensor] | None = None
    base_rates: list[float] = field(default_factory=list)
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    without_gain: int = 0
    stopped: bool = False
    #: The first step with a loss that is not finite, -1 if none; on the device, like the sums.
    bad_step: torch.Tensor | None = None

    def add(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Add the losses of the step after ``record.steps``."""
        # Summed on the device: reading a loss at each step would wait for it each time.
        for name, value in losses.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        finite = torch.stack([value.detach().isfinite() for value in losses.values()]).all()
        if self.bad_step is None:
            self.bad_step = torch.full_like(finite, -1, dtype=torch.int64)
        bad_step = self.bad_step.masked_fill(~finite, self.record.steps + 1)
        self.bad_step = torch.where(self.bad_step < 0, bad_step, self.bad_step)

    def not_finite(self) -> list[str]:
        """Return the names of losses that are not finite since the last validation. Waits for the device."""
        if self.bad_step is None or int(self.bad_step) < 0:
            return []
        return [name for name, value in self.sums.items() if not torch.isfinite(value)]

    def take_means(self) -> dict[str, float]:
        """Return the mean losses since the last call, by name."""
        means = {name: float(value) / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

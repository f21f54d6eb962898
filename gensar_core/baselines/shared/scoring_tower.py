"""Score candidates with ReLU towers: initialize them and track their active units.

A ReLU whose input is below zero for every candidate passes no gradient and never recovers. Early steps gain only by
moving the units' biases; if these steps are too long, they deactivate most units within a hundred steps, and the loss
stays at chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import TracebackType

import torch

from gensar_core.nn.dropout import Dropout

#: A tower with a smaller share of active ReLUs counts as dead. At initialization the share is a half.
DEAD_SHARE = 0.1


class Tower(torch.nn.Sequential):
    """Map features [..., widths[0]] to scores [..., 1] by linear layers, each but the last with a ReLU and dropout."""

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        layers: list[torch.nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [torch.nn.Linear(before, after), torch.nn.ReLU(), Dropout(dropout)]
        super().__init__(*layers, torch.nn.Linear(widths[-1], 1))


def towers_of(model: torch.nn.Module) -> list[Tower]:
    """Return all towers in a model."""
    return [part for part in model.modules() if isinstance(part, Tower)]


@torch.no_grad()
def begin_at_chance(model: torch.nn.Module) -> None:
    """Zero the last layer of every tower in a model, so that all candidates start with the same score.

    The first step then moves these layers alone; the layers below learn only as far as they tell candidates apart.
    """
    for tower in towers_of(model):
        for parameter in tower[-1].parameters():
            parameter.zero_()


class ActiveUnits:
    """Count the active ReLUs of a model's towers over all forward passes inside a `with` block."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._units = [unit for tower in towers_of(model) for unit in tower if isinstance(unit, torch.nn.ReLU)]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._active, self._all = 0, 0

    @property
    def share(self) -> float | None:
        """Return the share of units above zero, over units and candidates; None when no tower has run."""
        return self._active / self._all if self._all else None

    def __enter__(self) -> ActiveUnits:
        self._handles = [unit.register_forward_hook(self._count) for unit in self._units]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _count(self, unit: torch.nn.Module, inputs: object, outputs: torch.Tensor) -> None:  # noqa: ARG002
        self._active += int(torch.count_nonzero(outputs))
        self._all += outputs.numel()

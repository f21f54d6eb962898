"""Towers of ReLUs that score candidates: how they begin, and how many of their units stay active.

A ReLU whose input is below zero for every candidate passes no gradient on and does not come back. Steps that are too
long at the beginning, when nothing is to be gained yet but by the bias of the units, put out most of them within a
hundred steps; the loss then stays at chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import TracebackType

import torch

from gensar_core.nn.attention import Dropout

#: Below this share of active ReLUs a tower is taken for dead. One that has just been drawn has a half.
DEAD_SHARE = 0.1


class Tower(torch.nn.Sequential):
    """Linear layers with a ReLU and dropout after each but the last: features [..., widths[0]] -> scores [..., 1]."""

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        layers: list[torch.nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [torch.nn.Linear(before, after), torch.nn.ReLU(), Dropout(dropout)]
        super().__init__(*layers, torch.nn.Linear(widths[-1], 1))


def towers_of(model: torch.nn.Module) -> list[Tower]:
    """Find all towers within a model."""
    return [part for part in model.modules() if isinstance(part, Tower)]


@torch.no_grad()
def begin_at_chance(model: torch.nn.Module) -> None:
    """Zero the last layer of all towers within a model: at first all candidates score the same.

    The first step then moves these layers alone, and what lies below them learns as far as they tell candidates apart.
    """
    for tower in towers_of(model):
        for parameter in tower[-1].parameters():
            parameter.zero_()


class ActiveUnits:
    """Count the active ReLUs of a model's towers in all forward passes within a `with` block."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._units = [unit for tower in towers_of(model) for unit in tower if isinstance(unit, torch.nn.ReLU)]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._active, self._all = 0, 0

    @property
    def share(self) -> float | None:
        """Mean over units and candidates of whether the unit is above zero; None where no tower has run."""
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

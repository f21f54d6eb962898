"""Learning rates of methods trained on rows, and which of their weights decay."""

from __future__ import annotations

from typing import Any

import torch

from gensar_core.baselines.shared.target_model import RankedSettings, RowModel

#: By what learning rates are multiplied on a plateau, and at most altogether.
_PLATEAU_FACTOR, _LOWEST_FACTOR = 0.1, 1.0e-3


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


def parameter_groups(model: RowModel, settings: RankedSettings) -> list[dict[str, Any]]:
    """What the optimizer trains: tables of vectors at their own rate, and everything else; biases do not decay."""
    tables = {id(table.weight) for table in model.tables()}
    decay = settings.weight_decay
    groups: dict[str, dict[str, Any]] = {
        "weights": {"params": [], "weight_decay": decay},
        "biases": {"params": [], "weight_decay": 0.0},
        "tables": {"params": [], "weight_decay": decay, "lr": settings.learning_rate * settings.embedding_rate},
    }
    for name, parameter in model.named_parameters():
        group = "tables" if id(parameter) in tables else "biases" if name.endswith("bias") else "weights"
        groups[group]["params"].append(parameter)
    return list(groups.values())

"""A learning rate that falls when validations bring no gain, and which weights decay."""

from __future__ import annotations

from typing import Any

import torch

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


def decayed(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: biases do not decay."""
    biases = [parameter for name, parameter in module.named_parameters() if name.endswith("bias")]
    others = [parameter for name, parameter in module.named_parameters() if not name.endswith("bias")]
    return [{"params": others, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]

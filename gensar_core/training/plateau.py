"""Lower the learning rate when validations bring no gain."""

from __future__ import annotations

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

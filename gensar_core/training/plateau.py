"""Lower the learning rate when validations stop improving."""

from __future__ import annotations

import torch

#: Factor on learning rates at a plateau, and the lowest factor overall.
_PLATEAU_FACTOR, _LOWEST_FACTOR = 0.1, 1.0e-3


class Plateau:
    """Lower a factor on learning rates when validations stop improving. The optimizer's state holds it."""

    def __init__(self, optimizer: torch.optim.Optimizer, patience: int) -> None:
        self.optimizer = optimizer
        self.patience = patience
        optimizer.param_groups[0] |= {"plateau_factor": 1.0, "plateau_best": -1.0, "plateau_waited": 0}

    def rate(self, step: int) -> float:  # noqa: ARG002
        """Return the factor, whatever the step."""
        factor: float = self.optimizer.param_groups[0]["plateau_factor"]
        return factor

    def see(self, score: float) -> None:
        """Record the score of a validation."""
        state = self.optimizer.param_groups[0]
        if score > state["plateau_best"]:
            state |= {"plateau_best": score, "plateau_waited": 0}
            return
        state["plateau_waited"] += 1
        if state["plateau_waited"] > self.patience:
            factor = max(state["plateau_factor"] * _PLATEAU_FACTOR, _LOWEST_FACTOR)
            state |= {"plateau_factor": factor, "plateau_waited": 0}

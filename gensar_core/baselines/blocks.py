"""Layers that methods over mixed histories share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from gensar_core.generator.dropout import dropout


class Dropout(torch.nn.Module):
    """Dropout that is cheap on a CPU."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return dropout(values, self.rate, self.training)


def xavier(module: torch.nn.Module) -> None:
    """Xavier-normal matrices and tables, zero biases; normalizations stay as they are."""
    for name, parameter in module.named_parameters():
        if parameter.dim() >= 2:
            torch.nn.init.xavier_normal_(parameter)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)


def on_distinct(encode: Callable[[torch.Tensor], torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
    """``encode`` (numbers [n] -> vectors [n, dimensions]) of numbers of any shape, each distinct one encoded once."""
    distinct, place = torch.unique(numbers, return_inverse=True)
    return functional.embedding(place, encode(distinct))


def masked_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of states [..., width, dimensions] where ``mask`` [..., width] holds; zero where it holds nowhere."""
    weights = mask.to(states.dtype)
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1.0)
    return (weights[..., None, :] @ states).squeeze(-2)


def masked_softmax(logits: torch.Tensor, mask: torch.Tensor, dim: int) -> torch.Tensor:
    """Softmax over the places of ``dim`` where ``mask`` (as ``logits``, or broadcast to it) holds; zero elsewhere."""
    weights = torch.softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), dim=dim)
    return weights * mask

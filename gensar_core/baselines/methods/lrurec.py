"""Recommend by LRURec: linear recurrent units over a user's recommendation clicks.

Yue et al.: Linear Recurrent Units for Sequential Recommendation. WSDM 2024. The recurrence is linear with a diagonal
complex decay, so a scan computes all its states in log2(width) steps. |decay| = exp(-exp(nu)) < 1 whatever is learned,
and inputs are scaled by gamma, initially sqrt(1 - |decay|^2), which keeps the variance of states at that of inputs. The
published loss is `softmax`; a softmax-trained SASRec is its fair peer.

Deviations, all deliberate:
- Rows are padded at the end, so no state follows padding; the authors pad in front and mask. The first click of a
  sequence is not a target; theirs is predicted from padding.
- Real parts of complex products are one real product: reading a complex state takes as many weights either way.
- nu, theta and gamma have no weight decay, which would pull |decay| towards exp(-1); the authors decay them too.
- Complex numbers are complex64 whatever the surrounding precision. Items of the history stay in the ranking: candidates
  decide.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.sequence_encoder import SequenceEncoder
from gensar_core.baselines.shared.sequential_recommender import CausalRecommender, CausalSettings
from gensar_core.config.base import Positive, Rate
from gensar_core.config.search_spaces import Among
from gensar_core.nn.attention import Pointwise
from gensar_core.nn.dropout import Dropout

#: Bounds of |decay| at initialization.
_SLOWEST, _FASTEST = 0.99, 0.8


class LRURecSettings(CausalSettings):
    """Hold the sizes of the encoder, on top of the settings of all causal methods."""

    blocks: Annotated[Positive, Among((1, 2, 3))] = 2
    weight_decay: float = 0.01
    gradient_clip: Rate | None = 5.0


def scan(inputs: torch.Tensor, log_decay: torch.Tensor) -> torch.Tensor:
    """Compute states s_t = exp(log_decay) * s_(t-1) + u_t of ``inputs`` u [rows, width, size], from s_0 = 0; complex.

    Round k carries the last state of each left half of 2^k neighbors through the right half.
    """
    rows, width, size = inputs.shape
    rounds = (width - 1).bit_length()
    states = functional.pad(inputs, (0, 0, 0, (1 << rounds) - width))
    for half in (1 << number for number in range(rounds)):
        steps = torch.arange(1, half + 1, device=inputs.device)
        # [rows, groups, halves, half, size]
        left, right = states.view(rows, -1, 2, half, size).unbind(2)
        carried = torch.exp(steps[:, None] * log_decay) * left[:, :, -1:]
        states = torch.stack([left, right + carried], dim=2)
    return states.reshape(rows, -1, size)[:, :width]


class LinearRecurrence(torch.nn.Module):
    """Apply a linear recurrent unit [rows, width, dimensions] -> the same, with 2 * dimensions complex states."""

    def __init__(self, dimensions: int, dropout: float) -> None:
        super().__init__()
        self.size = 2 * dimensions
        self.inputs = torch.nn.Linear(dimensions, 2 * self.size)
        self.outputs = torch.nn.Linear(2 * self.size, dimensions)
        self.normalization = torch.nn.LayerNorm(dimensions)
        self.dropout = Dropout(dropout)
        # Decays are uniform on a ring of the complex plane; rows are nu, theta and log gamma.
        first, second = torch.rand(2, self.size)
        nu = torch.log(-0.5 * torch.log(first * (_SLOWEST**2 - _FASTEST**2) + _FASTEST**2))
        theta = torch.log(2 * math.pi * second)
        gamma = 0.5 * torch.log(1 - torch.exp(-2 * torch.exp(nu)))
        self.recurrence = torch.nn.Parameter(torch.stack([nu, theta, gamma]))

    def log_decay(self) -> torch.Tensor:
        """Return the logarithms of the decays, complex [size]; their real parts are negative."""
        nu, theta, _ = self.recurrence.float()
        return torch.complex(-torch.exp(nu), torch.exp(theta))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(states.device.type, enabled=False):
            pairs = self.inputs(states.float()).unflatten(-1, (self.size, 2))
            scaled = torch.view_as_complex(pairs) * torch.exp(self.recurrence[2].float())
            scanned = torch.view_as_real(scan(scaled, self.log_decay())).flatten(-2)
            read = self.outputs(scanned).to(states.dtype)
        normalized: torch.Tensor = self.normalization(self.dropout(read) + states)
        return normalized


class LRURecBlock(torch.nn.Module):
    """Apply a recurrence, then a point-wise network; add the latter to its input and normalize."""

    def __init__(self, dimensions: int, dropout: float) -> None:
        super().__init__()
        self.recurrence = LinearRecurrence(dimensions, dropout)
        self.pointwise = Pointwise(dimensions, 4 * dimensions, torch.nn.GELU(), dropout)
        self.normalization = torch.nn.LayerNorm(dimensions)
        self.dropout = Dropout(dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = self.recurrence(states)
        normalized: torch.Tensor = self.normalization(states + self.dropout(self.pointwise(states)))
        return normalized


class LRURecEncoder(SequenceEncoder):
    """Encode item vectors by blocks, without positions, and add a bias per item to scores."""

    def __init__(self, data: MethodData, settings: LRURecSettings) -> None:
        size = settings.dimensions
        super().__init__(data.n_items, size, bias=True)
        self.dropout = Dropout(settings.dropout)
        self.normalization = torch.nn.LayerNorm(size)
        self.blocks = torch.nn.ModuleList(LRURecBlock(size, settings.dropout) for _ in range(settings.blocks))
        for module in self.modules():
            if isinstance(module, torch.nn.Embedding | torch.nn.Linear):
                torch.nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.zeros_(module.bias)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Return the states [rows, width, dimensions] after each of the items int64 [rows, width]."""
        states: torch.Tensor = self.normalization(self.dropout(self.items(items)))
        for block in self.blocks:
            states = block(states)
        return states


class LRURec(CausalRecommender[LRURecSettings]):
    """Recommend by LRURec (Yue et al., 2024)."""

    paper = "Yue et al.: Linear Recurrent Units for Sequential Recommendation. WSDM 2024"
    settings_model = LRURecSettings
    module_class = LRURecEncoder

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW, without weight decay on the recurrence's nu, theta and gamma."""
        named = dict(self.module.named_parameters())
        free = [name for name in named if name.endswith("recurrence.recurrence")]
        groups: list[dict[str, Any]] = [
            {"params": [value for name, value in named.items() if name not in free]},
            {"params": [named[name] for name in free], "weight_decay": 0.0},
        ]
        settings = self.settings
        return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


METHOD = LRURec

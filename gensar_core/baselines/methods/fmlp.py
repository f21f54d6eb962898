"""Recommend by FMLP-Rec: learned filters in the frequency domain over a user's recommendation clicks.

Zhou, Yu, Zhao and Wen: Filter-enhanced MLP is All You Need for Sequential Recommendation. WWW 2022. A filter is a
learned circular convolution over a window of fixed width, so every position sees every other: training predicts from
the last position alone, and each prefix of a sequence is a row. A filter has a complex number for each of the
width // 2 + 1 frequencies of a real signal, so the width is the same in training and ranking. Rows are padded in front
with zero vectors that are not masked: they carry their position, as in the authors' code. As published it is trained
with `loss: bce`. Prefixes of all users are shuffled together.

Deviations, all deliberate:
- The negative of `bce` is none of the user's training clicks; the authors exclude only the prefix. Other losses may be
  chosen.
- Filters run in float32 whatever the surrounding precision: no half-precision FFT exists for most widths.
- The last block computes only what the last position needs (equal results in less time).
"""

from __future__ import annotations

import functools
from typing import Annotated

import torch

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.sequence_encoder import SequenceEncoder
from gensar_core.baselines.shared.sequence_examples import LastPlace
from gensar_core.baselines.shared.sequential_recommender import SequentialRecommender, SequentialSettings
from gensar_core.config.base import Positive
from gensar_core.config.search_spaces import Among
from gensar_core.nn.attention import Pointwise, initialize
from gensar_core.nn.dropout import Dropout


class FMLPSettings(SequentialSettings):
    """Hold the sizes of the encoder, on top of the settings of all sequential methods."""

    blocks: Annotated[Positive, Among((1, 2, 3))] = 2


class Filter(torch.nn.Module):
    """Convolve circularly along time, [rows, width, dimensions] -> the same, as a product of spectra."""

    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        self.width = width
        # Real and imaginary parts.
        self.spectrum = torch.nn.Parameter(torch.randn(width // 2 + 1, dimensions, 2) * 0.02)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(states.device.type, enabled=False):
            spectrum = torch.fft.rfft(states.float(), dim=1, norm="ortho") * torch.view_as_complex(self.spectrum)
            filtered: torch.Tensor = torch.fft.irfft(spectrum, n=self.width, dim=1, norm="ortho")
        return filtered.to(states.dtype)


class FMLPBlock(torch.nn.Module):
    """Apply a filter, then a point-wise network; add each to its input and normalize after."""

    def __init__(self, width: int, dimensions: int, dropout: float) -> None:
        super().__init__()
        self.filter = Filter(width, dimensions)
        self.after_filter = torch.nn.LayerNorm(dimensions, eps=1e-12)
        self.pointwise = Pointwise(dimensions, 4 * dimensions, torch.nn.GELU(), 0.0)
        self.after_pointwise = torch.nn.LayerNorm(dimensions, eps=1e-12)
        self.dropout = Dropout(dropout)

    def forward(self, states: torch.Tensor, *, last_only: bool = False) -> torch.Tensor:
        filtered = self.filter(states)
        if last_only:
            states, filtered = states[:, -1:], filtered[:, -1:]
        states = self.after_filter(states + self.dropout(filtered))
        normalized: torch.Tensor = self.after_pointwise(states + self.dropout(self.pointwise(states)))
        return normalized


class FMLPEncoder(SequenceEncoder):
    """Encode item and position vectors by blocks of filters."""

    def __init__(self, data: MethodData, settings: FMLPSettings) -> None:
        size, width = settings.dimensions, settings.max_history
        super().__init__(data.n_items, size)
        self.positions = torch.nn.Embedding(width, size)
        self.normalization = torch.nn.LayerNorm(size, eps=1e-12)
        self.dropout = Dropout(settings.dropout)
        self.blocks = torch.nn.ModuleList(FMLPBlock(width, size, settings.dropout) for _ in range(settings.blocks))
        initialize(self, std=0.02)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Return the last position's state [rows, 1, dimensions] for inputs int64 [rows, width], padded in front."""
        real = items < self.items.num_embeddings
        vectors = self.items(items.where(real, 0)) * real[:, :, None]
        states: torch.Tensor = self.dropout(self.normalization(vectors + self.positions.weight))
        for block in self.blocks[:-1]:
            states = block(states)
        last: torch.Tensor = self.blocks[-1](states, last_only=True)
        return last


class FMLP(SequentialRecommender[FMLPSettings]):
    """Recommend by FMLP-Rec (Zhou et al., 2022)."""

    paper = "Zhou et al.: Filter-enhanced MLP is All You Need for Sequential Recommendation. WWW 2022"
    settings_model = FMLPSettings
    module_class = FMLPEncoder

    @functools.cached_property
    def form(self) -> LastPlace:
        """Predict from the last position of every prefix."""
        return LastPlace(self.settings.max_history, self.data.n_items)


METHOD = FMLP

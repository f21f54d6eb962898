"""The joint RQ-VAE: two autoencoders whose latents share their first codebooks (paper, section 3.2, Eq. 2-10)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gensar_core.config.identifiers import RQVAESettings
from gensar_core.identifiers.quantize import encode, quantize

#: Rows that go through an encoder at once when no gradient is wanted.
_ROWS = 8192


@dataclass(frozen=True)
class Codes:
    """Codes of n items: L_m shared levels, and L_n levels of each side."""

    #: [n, L_m]
    shared: Tensor
    #: side -> [n, L_n]
    specific: dict[str, Tensor]

    def identifier(self, side: str) -> Tensor:
        """Eq. 5: the shared codes followed by the side's own [n, L_m + L_n]."""
        return torch.cat([self.shared, self.specific[side]], dim=1)


class RQVAE(nn.Module):
    """Encoders, codebooks and decoders of one or two sides, `semantic` and `collaborative`.

    With two sides, shared codes have twice the latent's dimensions (Eq. 3). With one side alone, shared and specific
    levels are one chain of codebooks of d dimensions. Vectors come in as the embedding stage wrote them: the mean and
    one factor a side, which brings the mean squared norm to 1, are part of the module.
    """

    def __init__(self, dimensions: Mapping[str, int], settings: RQVAESettings) -> None:
        super().__init__()
        self.sides = tuple(dimensions)
        self.settings = settings
        latent, hidden = settings.latent_size, list(settings.hidden_sizes)
        self.encoders = nn.ModuleDict({side: _mlp([size, *hidden, latent]) for side, size in dimensions.items()})
        self.decoders = nn.ModuleDict({side: _mlp([latent, *hidden[::-1], size]) for side, size in dimensions.items()})
        codes = settings.codebook_size
        self.shared = nn.Parameter(torch.zeros(settings.shared_levels, codes, latent * len(self.sides)))
        self.specific = nn.ParameterDict(
            {side: nn.Parameter(torch.zeros(settings.specific_levels, codes, latent)) for side in self.sides}
        )
        for side, size in dimensions.items():
            self.register_buffer(f"mean_{side}", torch.zeros(size))
            self.register_buffer(f"factor_{side}", torch.ones(()))

    @torch.no_grad()
    def fit_scale(self, vectors: Mapping[str, Tensor]) -> None:
        """Take mean and factor of each side from its vectors [n, d_in]."""
        for side, matrix in vectors.items():
            mean = matrix.mean(dim=0)
            power = (matrix - mean).square().sum(dim=1).mean()
            self.get_buffer(f"mean_{side}").copy_(mean)
            self.get_buffer(f"factor_{side}").copy_(power.rsqrt() if power > 0 else torch.ones(()))

    def scale(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Vectors with mean 0 and mean squared norm 1: then Eq. 8 is each side's share of unexplained variance."""
        return {
            side: (matrix - self.get_buffer(f"mean_{side}")) * self.get_buffer(f"factor_{side}")
            for side, matrix in vectors.items()
        }

    def latents(self, scaled: Mapping[str, Tensor]) -> Tensor:
        """Eq. 2: [z_s; z_c], [n, d * sides]."""
        return torch.cat([self.encoders[side](scaled[side]) for side in self.sides], dim=1)

    def decode(self, quantized: Tensor) -> dict[str, Tensor]:
        """Eq. 7: reconstructions of the scaled vectors from [z^_s; z^_c]."""
        parts = self.split(quantized)
        return {side: self.decoders[side](parts[side]) for side in self.sides}

    def split(self, latents: Tensor) -> dict[str, Tensor]:
        """The part of each side [n, d] of [n, d * sides]."""
        return dict(zip(self.sides, latents.chunk(len(self.sides), dim=1), strict=True))

    def losses(self, scaled: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Codes]:
        """Eq. 8-10 on a batch of scaled vectors, and the codes chosen.

        Squared norms are summed over dimensions and levels as the equations are written, and averaged over the batch.
        """
        settings = self.settings
        latents = self.latents(scaled)
        shared = quantize(latents, self.shared, settings.commitment, settings.residual_gradient)
        own = {
            side: quantize(part, self.specific[side], settings.commitment, settings.residual_gradient)
            for side, part in self.split(shared.residual).items()
        }
        left = torch.cat([own[side].residual for side in self.sides], dim=1).detach()
        # Straight-through: forward the quantized latents of Eq. 6, backward as if they were the latents themselves.
        # Written as z - sg[r] so that both forms of residual gradient train the decoder's path alike.
        decoded = self.decode(latents - left)
        losses = {
            f"reconstruction_{side}": (scaled[side] - decoded[side]).square().sum(dim=1).mean() for side in self.sides
        }
        losses["quantization"] = shared.loss + sum(part.loss for part in own.values())
        losses["loss"] = sum(losses.values())
        return losses, Codes(shared.codes, {side: part.codes for side, part in own.items()})

    @torch.no_grad()
    def all_latents(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Latents of all items [n, d * sides] from raw vectors, in blocks of fixed size."""
        blocks = zip(*(matrix.split(_ROWS) for matrix in vectors.values()), strict=True)
        return torch.cat([self.latents(self.scale(dict(zip(vectors, block, strict=True)))) for block in blocks])

    @torch.no_grad()
    def encode_latents(self, latents: Tensor) -> Codes:
        """Eq. 3-5 for the latents of any number of items."""
        shared, left = encode(latents, self.shared)
        parts = self.split(left)
        return Codes(shared, {side: encode(parts[side].contiguous(), self.specific[side])[0] for side in self.sides})

    def quantized(self, codes: Codes) -> Tensor:
        """Eq. 6: [z^_s; z^_c] of codes, [n, d * sides]."""
        own = [_sum_of_codes(self.specific[side], codes.specific[side]) for side in self.sides]
        return _sum_of_codes(self.shared, codes.shared) + torch.cat(own, dim=1)


def _sum_of_codes(codebooks: Tensor, codes: Tensor) -> Tensor:
    """Sum over levels of the chosen code embeddings: [L, K, D] and [n, L] give [n, D]."""
    total = codebooks.new_zeros((len(codes), codebooks.shape[2]))
    for codebook, chosen in zip(codebooks, codes.unbind(dim=1), strict=True):
        total = total + codebook[chosen]
    return total


def _mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between; Xavier-normal weights, zero biases."""
    layers: list[nn.Module] = []
    for position, (wide, narrow) in enumerate(itertools.pairwise(sizes)):
        if position:
            layers.append(nn.ReLU())
        layer = nn.Linear(wide, narrow)
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers.append(layer)
    return nn.Sequential(*layers)

"""Define the joint RQ-VAE: two autoencoders whose latents share their first codebooks (paper, section 3.2, Eq. 2-10).

With `kind: rq_kmeans` the networks are the identity, and the latents are the scaled vectors themselves.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gensar_core.config.identifiers import QuantizerSettings
from gensar_core.errors import UserError
from gensar_core.identifiers.quantize import Choice, encode, nearest, quantize
from gensar_core.identifiers.sinkhorn import balanced

#: Rows encoded at once when no gradient is needed.
_ROWS = 8192


@dataclass(frozen=True)
class Codes:
    """Hold the codes of n items: L_m shared levels, and L_n specific levels for each side."""

    #: [n, L_m]
    shared: Tensor
    #: side -> [n, L_n]
    specific: dict[str, Tensor]

    def chains(self) -> dict[str, Tensor]:
        """Map the name of each chain of codebooks to its codes: `shared`, then each side."""
        return {"shared": self.shared, **self.specific}

    def identifier(self, side: str) -> Tensor:
        """Return Eq. 5: the shared codes followed by the side's specific codes [n, L_m + L_n]."""
        return torch.cat([self.shared, self.specific[side]], dim=1)


class RQVAE(nn.Module):
    """Encode, quantize and decode the vectors of one or two sides, `semantic` and `collaborative`.

    Shared codes span the latents of all sides together (Eq. 3). With a single side, shared and specific levels form one
    chain of codebooks of d dimensions. The module takes vectors as the embedding stage wrote them and holds, for each
    side, their mean and one factor that brings the mean squared norm to 1.
    """

    def __init__(self, dimensions: Mapping[str, int], settings: QuantizerSettings) -> None:
        super().__init__()
        self.sides = tuple(dimensions)
        self.settings = settings
        trained, hidden = settings.kind == "rqvae", settings.hidden_sizes
        #: Side -> dimensions of its latents.
        self.widths = {side: settings.latent_size if trained else size for side, size in dimensions.items()}
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        for side, size in dimensions.items():
            self.encoders[side] = _mlp([size, *hidden, self.widths[side]]) if trained else nn.Identity()
            self.decoders[side] = _mlp([self.widths[side], *hidden[::-1], size]) if trained else nn.Identity()
        shared_sizes, specific_sizes = (
            settings.sizes[: settings.shared_levels],
            settings.sizes[settings.shared_levels :],
        )
        self.shared = _codebooks(shared_sizes, sum(self.widths.values()))
        self.specific = nn.ModuleDict({side: _codebooks(specific_sizes, width) for side, width in self.widths.items()})
        for side, size in dimensions.items():
            self.register_buffer(f"mean_{side}", torch.zeros(size))
            self.register_buffer(f"factor_{side}", torch.ones(()))

    @torch.no_grad()
    def fit_scale(self, vectors: Mapping[str, Tensor]) -> None:
        """Set the mean and factor of each side from its vectors [n, d_in]."""
        for side, matrix in vectors.items():
            mean = matrix.mean(dim=0)
            power = sum_of_squares(matrix, mean) / len(matrix)
            self.get_buffer(f"mean_{side}").copy_(mean)
            self.get_buffer(f"factor_{side}").fill_(power**-0.5 if power > 0 else 1.0)

    def scale(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scale vectors to mean 0 and mean squared norm 1: then Eq. 8 is each side's share of unexplained variance."""
        # Scale the difference in place: memory should hold a large catalogue's vectors twice at most.
        return {
            side: (matrix - self.get_buffer(f"mean_{side}")).mul_(self.get_buffer(f"factor_{side}"))
            for side, matrix in vectors.items()
        }

    def latents(self, scaled: Mapping[str, Tensor]) -> Tensor:
        """Compute Eq. 2: [z_s; z_c], [n, d * sides]."""
        return torch.cat([self.encoders[side](scaled[side]) for side in self.sides], dim=1)

    def decode(self, quantized: Tensor) -> dict[str, Tensor]:
        """Compute Eq. 7: reconstructions of the scaled vectors from [z^_s; z^_c]."""
        parts = self.split(quantized)
        return {side: self.decoders[side](parts[side]) for side in self.sides}

    def split(self, latents: Tensor) -> dict[str, Tensor]:
        """Split [n, d * sides] into the part of each side [n, d]."""
        return dict(zip(self.sides, torch.split_with_sizes(latents, list(self.widths.values()), dim=1), strict=True))

    def losses(self, scaled: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Codes]:
        """Compute Eq. 8-10 on a batch of scaled vectors, and the chosen codes.

        Squared norms are summed over dimensions and levels, as the equations are written, and averaged over the batch.
        """
        settings = self.settings
        latents = self.latents(scaled)
        shared = quantize(latents, list(self.shared), settings.commitment, settings.residual_gradient)
        specific = {
            side: quantize(
                part, self.specific_codebooks(side), settings.commitment, settings.residual_gradient, self._choices()
            )
            for side, part in self.split(shared.residual).items()
        }
        residual = torch.cat([specific[side].residual for side in self.sides], dim=1).detach()
        # Straight-through: the forward pass uses the quantized latents of Eq. 6, the backward pass the latents
        # themselves. Written as z - sg[r] so that both forms of residual gradient train the decoder's path alike.
        decoded = self.decode(latents - residual)
        losses = {
            f"reconstruction_{side}": (scaled[side] - decoded[side]).square().sum(dim=1).mean() for side in self.sides
        }
        losses["quantization"] = torch.stack([shared.loss, *(part.loss for part in specific.values())]).sum()
        losses["loss"] = torch.stack(list(losses.values())).sum()
        return losses, Codes(shared.codes, {side: part.codes for side, part in specific.items()})

    def specific_codebooks(self, side: str) -> list[nn.Parameter]:
        """Return the codebooks of a side's specific levels, [K, d] each."""
        return list(self.specific[side].parameters())

    def chains(self) -> dict[str, list[nn.Parameter]]:
        """Return the chains of codebooks, [K, dimensions] a level: `shared`, then the specific ones of each side."""
        return {"shared": list(self.shared), **{side: self.specific_codebooks(side) for side in self.sides}}

    def _choices(self) -> list[Choice]:
        """Return the functions by which a side's specific levels choose codes in training."""
        choices: list[Choice] = [nearest] * self.settings.specific_levels
        if sinkhorn := self.settings.sinkhorn:
            choices[-sinkhorn.levels :] = [functools.partial(balanced, settings=sinkhorn)] * sinkhorn.levels
        return choices

    @torch.no_grad()
    def all_latents(self, scaled: Mapping[str, Tensor]) -> Tensor:
        """Compute the latents of all items [n, d * sides], in blocks of fixed size."""
        blocks = zip(*(torch.split(scaled[side], _ROWS) for side in self.sides), strict=True)
        return torch.cat([self.latents(dict(zip(self.sides, block, strict=True))) for block in blocks])

    @torch.no_grad()
    def encode_latents(self, latents: Tensor) -> Codes:
        """Compute Eq. 3-5 for the latents of any number of items."""
        shared, residual = encode(latents, list(self.shared))
        parts = self.split(residual)
        return Codes(
            shared, {side: encode(part.contiguous(), self.specific_codebooks(side))[0] for side, part in parts.items()}
        )

    @torch.no_grad()
    def quantized(self, codes: Codes) -> Tensor:
        """Compute Eq. 6: [z^_s; z^_c] of codes, [n, d * sides]."""
        specific = [
            _sum_of_codes(self.specific_codebooks(side), codes.specific[side], width)
            for side, width in self.widths.items()
        ]
        return torch.cat(specific, dim=1) + _sum_of_codes(list(self.shared), codes.shared, sum(self.widths.values()))

    @torch.no_grad()
    def unexplained_variance(self, scaled: Mapping[str, Tensor], codes: Codes) -> dict[str, float]:
        """Return each side's squared error of reconstruction from codes, divided by the variance of its vectors."""
        error = dict.fromkeys(self.sides, 0.0)
        for start, latents in enumerate(torch.split(self.quantized(codes), _ROWS)):
            rows = slice(start * _ROWS, start * _ROWS + len(latents))
            for side, decoded in self.decode(latents).items():
                error[side] += float((scaled[side][rows] - decoded).double().square().sum())
        power = {side: sum_of_squares(matrix) for side, matrix in scaled.items()}
        return {side: error[side] / power[side] if power[side] else 0.0 for side in self.sides}


def sum_of_squares(matrix: Tensor, center: Tensor | float = 0.0) -> float:
    """Sum the squared norms of all rows less ``center``, in double precision without a copy of the matrix."""
    return sum(float((block - center).double().square().sum()) for block in torch.split(matrix, _ROWS))


def save_rqvae(model: RQVAE, path: Path) -> None:
    """Write weights, codebooks and scales as safetensors, with settings and input sizes in the metadata."""
    sizes = {side: len(model.get_buffer(f"mean_{side}")) for side in model.sides}
    # A single entry, because safetensors writes several in arbitrary order.
    metadata = {"rqvae": json.dumps({"settings": model.settings.canonical(), "dimensions": sizes})}
    save_file({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, path, metadata)


def load_rqvae(path: Path) -> RQVAE:
    """Read a model that `save_rqvae` wrote, onto the CPU. Raises UserError when there is no such file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; build the identifiers first")
    with safe_open(path, framework="pt") as stored:
        metadata = json.loads(stored.metadata()["rqvae"])
        model = RQVAE(metadata["dimensions"], QuantizerSettings.model_validate_json(metadata["settings"]))
        model.load_state_dict({name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
    return model.eval()


def _codebooks(sizes: Sequence[int], width: int) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(torch.zeros(size, width)) for size in sizes)


def _sum_of_codes(codebooks: Sequence[Tensor], codes: Tensor, width: int) -> Tensor:
    """Sum the chosen code embeddings over levels, [n, D], from [K, D] a level and codes [n, L]."""
    total = torch.zeros((len(codes), width), device=codes.device)
    for codebook, chosen in zip(codebooks, codes.unbind(dim=1), strict=True):
        total = total + codebook[chosen]
    return total


def _mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Build linear layers with ReLU between; Xavier-normal weights, zero biases."""
    layers: list[nn.Module] = []
    for position, (wide, narrow) in enumerate(itertools.pairwise(sizes)):
        if position:
            layers.append(nn.ReLU())
        layer = nn.Linear(wide, narrow)
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers.append(layer)
    return nn.Sequential(*layers)

"""Revive dead codes: restart codes that no item chose in a whole epoch beside badly quantized items."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gensar_core.identifiers.quantize import encode
from gensar_core.identifiers.rqvae import RQVAE, Codes


class CodeUse(nn.Module):
    """Count the choices of each code since the last ``clear``, in buffers so that a checkpoint keeps the counts."""

    def __init__(self, model: RQVAE) -> None:
        super().__init__()
        for name, codebooks in model.chains().items():
            for level, codebook in enumerate(codebooks):
                counts = torch.zeros(len(codebook), dtype=torch.int64, device=codebook.device)
                self.register_buffer(f"{name}_{level}", counts)

    def clear(self) -> None:
        """Reset all counts."""
        for counts in self.buffers():
            counts.zero_()

    def count(self, codes: Codes) -> None:
        """Add the codes of a batch."""
        for name, chosen in codes.chains().items():
            for level, code in enumerate(chosen.unbind(dim=1)):
                self.of(name, level).scatter_add_(0, code, torch.ones_like(code))

    def of(self, chain: str, level: int) -> Tensor:
        """Return the counts [K] of one level of a chain."""
        return self.get_buffer(f"{chain}_{level}")


@torch.no_grad()
def revive(model: RQVAE, use: CodeUse, scaled: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Move every unused code to a residual of the batch ``scaled``, drawn in proportion to its squared error.

    The optimizer's averages of a moved code are cleared, because they belong to its old position. Draws come from the
    device's global generator, which the training loop seeds at each step.
    """
    parts = {"shared": model.latents(scaled)}
    for name, codebooks in model.chains().items():
        residual = parts[name].contiguous()
        for level, codebook in enumerate(codebooks):
            residual = _revive_level(codebook, use.of(name, level), residual, optimizer)
        if name == "shared":
            parts |= model.split(residual)


def _revive_level(codebook: nn.Parameter, counts: Tensor, residual: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """Revive the codes [K, D] of one level on residuals [batch, D]; return the residuals after this level."""
    dead = torch.nonzero(counts == 0).squeeze(1)
    _, remaining = encode(residual, [codebook])
    error = remaining.square().sum(dim=1)
    if len(dead) and error.sum() > 0:
        drawn = torch.multinomial(error, len(dead), replacement=True)
        codebook[dead] = residual[drawn]
        for average in optimizer.state.get(codebook, {}).values():
            if isinstance(average, Tensor) and average.shape == codebook.shape:
                average[dead] = 0.0
        _, remaining = encode(residual, [codebook])
    return remaining

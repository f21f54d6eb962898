"""Dead codes: codes that no item chose in a whole epoch start again beside badly quantized items."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gensar_core.identifiers.quantize import encode
from gensar_core.identifiers.rqvae import RQVAE, Codes


class CodeUse(nn.Module):
    """How often each code was chosen since the last ``clear``: buffers, so that a checkpoint continues the count."""

    def __init__(self, model: RQVAE) -> None:
        super().__init__()
        for name, codebooks in model.chains().items():
            self.register_buffer(name, torch.zeros(codebooks.shape[:2], dtype=torch.int64, device=codebooks.device))

    def clear(self) -> None:
        """Start counting anew."""
        for counts in self.buffers():
            counts.zero_()

    def count(self, codes: Codes) -> None:
        """Add the codes of a batch."""
        for name, chosen in codes.chains().items():
            by_level = chosen.T
            self.get_buffer(name).scatter_add_(1, by_level, torch.ones_like(by_level))


@torch.no_grad()
def revive(model: RQVAE, use: CodeUse, scaled: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Move every unused code to a residual of the batch ``scaled``, drawn in proportion to its squared error.

    The optimizer's averages of a moved code are cleared: they belong to the place it has left. Draws come from the
    global generator of the device, which the training loop seeds at each step.
    """
    latents = model.latents(scaled)
    left = _revive_chain(model.shared, use.get_buffer("shared"), latents, optimizer)
    for side, part in model.split(left).items():
        _revive_chain(model.specific[side], use.get_buffer(side), part.contiguous(), optimizer)


def _revive_chain(
    codebooks: nn.Parameter, counts: Tensor, residual: Tensor, optimizer: torch.optim.Optimizer
) -> Tensor:
    """Revive one chain of codebooks [L, K, D] on residuals [batch, D]; return what they leave."""
    for level, counts_of_level in enumerate(counts):
        dead = torch.nonzero(counts_of_level == 0).squeeze(1)
        codebook = codebooks[level : level + 1]
        _, left = encode(residual, codebook)
        error = left.square().sum(dim=1)
        if len(dead) and error.sum() > 0:
            drawn = torch.multinomial(error, len(dead), replacement=True)
            codebooks[level, dead] = residual[drawn]
            for average in optimizer.state.get(codebooks, {}).values():
                if isinstance(average, Tensor) and average.shape == codebooks.shape:
                    average[level, dead] = 0.0
            _, left = encode(residual, codebook)
        residual = left
    return residual

"""Cut prompts into batches of similar lengths, and pad them."""

from __future__ import annotations

import numpy as np
import torch

from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import send


def cut_by_length(prompts: Ragged, size: int) -> list[np.ndarray]:
    """Return the rows of batches of ``size`` prompts (at least 1), shortest first."""
    rows, size = np.argsort(prompts.lengths, kind="stable"), max(1, size)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def padded_tokens(prompts: Ragged, device: torch.device) -> torch.Tensor:
    """Return the prompts as a matrix on ``device``, int32 [prompts, longest], -1 past a prompt's end."""
    return send(prompts.padded(int(prompts.lengths.max()), -1), device)

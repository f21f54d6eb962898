"""Cut prompts into batches of similar lengths, and pad them."""

from __future__ import annotations

import numpy as np
import torch

from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import send


def cut_by_length(prompts: Ragged, size: int) -> list[np.ndarray]:
    """Return the rows of batches of at most ``size`` prompts (at least 1), shortest first."""
    return cut_evenly(np.argsort(prompts.lengths, kind="stable"), size)


def cut_evenly(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut ``rows`` into as few batches of at most ``size`` (at least 1) as can be, all of one size or one less."""
    return np.array_split(rows, -(-len(rows) // max(1, size))) if len(rows) else []


def distinct_prompts(prompts: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """Return a row of each different prompt [distinct], and each prompt's place among them [prompts]."""
    tokens = prompts.padded(max(1, int(prompts.lengths.max(initial=0))), -1)
    _, first, place = np.unique(tokens, axis=0, return_index=True, return_inverse=True)
    return first, place.reshape(-1)


def padded_tokens(prompts: Ragged, device: torch.device) -> torch.Tensor:
    """Return the prompts as a matrix on ``device``, int32 [prompts, longest], -1 past a prompt's end."""
    return send(prompts.padded(int(prompts.lengths.max()), -1), device)

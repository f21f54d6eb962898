"""Attend from decoder tokens in trees, each to its own ancestors and to itself."""

from __future__ import annotations

import torch
from torch.nn import functional

#: Tokens whose ancestors' keys and values are gathered at a time; on a CPU they stay in its cache.
_CPU_TOKENS = 512
_GPU_TOKENS = 1 << 16


def attend_ancestors(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, ancestors: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Mix the ancestors' values for each ``query`` [n, H * D]; return [n, H * D].

    ``ancestors`` [n, A] are rows of ``keys`` and ``values`` [m, H * D], where m may exceed n; ``bias`` [n, A, H] (or
    [1, A, H]) is added to the attention scores.
    """
    heads = bias.shape[-1]
    mixed = torch.empty_like(query)
    size = _CPU_TOKENS if query.device.type == "cpu" else _GPU_TOKENS
    for first in range(0, len(query), size):
        part = slice(first, first + size)
        # [n, A, H, D]
        gathered = split_heads(functional.embedding(ancestors[part], keys), heads)
        scores = (split_heads(query[part], heads)[:, None] * gathered).sum(-1)
        scores = scores + (bias if len(bias) == 1 else bias[part])
        gathered = split_heads(functional.embedding(ancestors[part], values), heads)
        mixed[part] = (scores.softmax(1)[..., None] * gathered).sum(1).flatten(-2)
    return mixed


def split_heads(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Reshape [..., H * D] to [..., H, D]."""
    return values.view(*values.shape[:-1], heads, -1)

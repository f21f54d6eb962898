"""Attend from decoder tokens in trees, each to its own ancestors and to itself."""

from __future__ import annotations

import torch
from torch.nn import functional

from gensar_core.generator.backbones.t5 import T5, position_bias, split_heads

#: Tokens whose ancestors' keys and values are gathered at a time; on a CPU they stay in its cache.
_CPU_TOKENS = 512
_GPU_TOKENS = 1 << 16


def ancestor_bias(model: T5, depth: int, device: torch.device) -> torch.Tensor:
    """Compute the position bias [depth, depth, H] of a token at depth i to its ancestor at depth j; -inf for j > i."""
    place = torch.arange(depth, device=device)
    relative = place[None, :] - place[:, None]
    bias = position_bias(model.decoder, relative, bidirectional=False)
    return bias.masked_fill(relative[..., None] > 0, -torch.inf)


def attend_ancestors(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, ancestors: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Mix the ancestors' values for each ``query`` [n, H * D]; return [n, H * D].

    ``ancestors`` [n, A] are rows of ``keys`` and ``values`` [m, H * D], where m may exceed n; ``bias`` [n, A, H] (or
    [1, A, H]) is added to the attention scores.
    """
    count = bias.shape[-1]
    mixed = torch.empty_like(query)
    size = _CPU_TOKENS if query.device.type == "cpu" else _GPU_TOKENS
    for first in range(0, len(query), size):
        part = slice(first, first + size)
        # [n, A, H, D]
        gathered = split_heads(functional.embedding(ancestors[part], keys), count)
        scores = (split_heads(query[part], count)[:, None] * gathered).sum(-1) + (
            bias if len(bias) == 1 else bias[part]
        )
        gathered = split_heads(functional.embedding(ancestors[part], values), count)
        mixed[part] = (scores.softmax(1)[..., None] * gathered).sum(1).flatten(-2)
    return mixed

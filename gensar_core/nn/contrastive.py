"""Compute contrastive losses: align what belongs together, against everything else of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

#: Lowest value of learned temperatures; below it, a softmax of logits up to 1 / temperature would overflow.
_LOWEST_TEMPERATURE = 0.01


def nt_xent(logits: torch.Tensor, alike: torch.Tensor) -> torch.Tensor:
    """Compute NT-Xent (Chen et al., 2020, Eq. 1) of 2 n views, where i and n + i are a pair.

    ``logits`` [2 n, 2 n] are their similarities over the temperature. The other views are negatives, except those
    ``alike`` bool [2 n, 2 n]. n must not be 0.
    """
    places = torch.arange(len(logits), device=logits.device)
    partners = places.roll(len(logits) // 2)
    left_out = alike.clone()
    left_out[places, partners] = False
    left_out.fill_diagonal_(True)
    return functional.cross_entropy(logits.masked_fill(left_out, -torch.inf), partners)


class QueryItemAlignment(torch.nn.Module):
    """Align the vectors of a query and of an item clicked after it by InfoNCE, both ways (SESRec, Eq. 6).

    Negatives are drawn from ``n_queries`` queries, and from the items that are not marked in ``cold`` bool [n_items].
    """

    warm_items: torch.Tensor

    def __init__(self, dimensions: int, temperature: float, negatives: int, n_queries: int, cold: torch.Tensor) -> None:
        super().__init__()
        self.bilinear = torch.nn.Linear(dimensions, dimensions, bias=False)
        self.temperature = torch.nn.Parameter(torch.tensor(temperature))
        self.negatives, self.n_queries = negatives, n_queries
        self.register_buffer("warm_items", (~cold).nonzero().flatten(), persistent=False)

    def forward(
        self,
        queries: torch.Tensor,
        items: torch.Tensor,
        encode_queries: Callable[[torch.Tensor], torch.Tensor],
        encode_items: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Compute the loss of (``queries``, ``items``) int64 [pairs], all against the same random items and queries.

        A pair's partner may be among the random ones; with 1,024 of them that changes the loss little.
        """
        device = queries.device
        query, query_place = torch.unique(queries, return_inverse=True)
        item, item_place = torch.unique(items, return_inverse=True)
        query_vectors, item_vectors = self.bilinear(encode_queries(query)), encode_items(item)
        drawn = torch.randperm(len(self.warm_items), device=device)[: self.negatives]
        random_items = encode_items(self.warm_items[drawn])
        random_queries = self.bilinear(encode_queries(torch.randperm(self.n_queries, device=device)[: self.negatives]))
        temperature = self.temperature.clamp(min=_LOWEST_TEMPERATURE)
        positive = (query_vectors[query_place] * item_vectors[item_place]).sum(dim=1).tanh() / temperature
        # A pair's negatives depend on its query alone, or on its item alone.
        to_items = torch.logsumexp((query_vectors @ random_items.T).tanh() / temperature, dim=1)[query_place]
        to_queries = torch.logsumexp((item_vectors @ random_queries.T).tanh() / temperature, dim=1)[item_place]
        losses = [functional.softplus(negative - positive).mean() for negative in (to_items, to_queries)]
        return (losses[0] + losses[1]) / 2


class ViewAlignment(torch.nn.Module):
    """Align two views of a row by NT-Xent, with tanh(z W z') / temperature as similarity (UniSAR, Eq. 12)."""

    def __init__(self, dimensions: int, temperature: float) -> None:
        super().__init__()
        self.bilinear = torch.nn.Linear(dimensions, dimensions, bias=False)
        self.temperature = torch.nn.Parameter(torch.tensor(temperature))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Compute the loss of views [rows, d]; a view's negatives are the 2 rows - 2 others. Zero without rows."""
        if not len(first):
            return first.sum() * 0.0
        views = torch.cat([first, second])
        logits = (self.bilinear(views) @ views.T).tanh() / self.temperature.clamp(min=_LOWEST_TEMPERATURE)
        return nt_xent(logits, torch.zeros_like(logits, dtype=torch.bool))

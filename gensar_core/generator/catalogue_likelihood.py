"""Normalize over the catalogue: a token of an identifier competes only with tokens that continue some item.

A factor p(c_l | c_<l, prompt) is normalized over the prefix's children in the trie of all items, not over the
vocabulary as in Eq. 12. The probabilities of all items then sum to one, and none is lost to identifiers that do not
exist. A prefix with a single continuation costs nothing: the model learns which item to choose, not which identifiers
exist. Shapes: n prefixes, d = d_model.
"""

from __future__ import annotations

import torch

from gensar_core.corpora.trie import TokenTrie


def log_normalizers(
    outputs: torch.Tensor, weight: torch.Tensor, trie: TokenTrie, depth: int, node: torch.Tensor
) -> torch.Tensor:
    """Compute the log-sum-exp over the logits of each prefix's continuations, float32 [n].

    ``outputs`` [n, d] are the decoder outputs after the prefixes, ``node`` int64 [n] the prefixes' nodes at level
    ``depth``; none of them is a whole token row. ``weight`` [vocabulary, d] is the output matrix.
    """
    logits, row = _continuations(outputs, weight, trie, depth, node)
    return logits.logsumexp(1) if row is None else _grouped_logsumexp(logits, row, len(outputs))


def token_losses(
    outputs: torch.Tensor, weight: torch.Tensor, trie: TokenTrie, targets: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Compute the negative log-probability of each token of the items' rows, float32 [rows, L]; 0 past a row's end.

    ``outputs`` [rows, L, d] are the decoder outputs before each token, ``targets`` int64 [rows, L] the tokens, negative
    past a row's end. Every row must be in the trie. ``smoothing`` spreads that share of the target's mass evenly over
    all continuations.
    """
    losses = torch.zeros(targets.shape, dtype=torch.float32, device=outputs.device)
    places = torch.arange(len(targets), device=targets.device)
    node = torch.zeros_like(places)
    for depth in range(min(trie.depth, targets.shape[1])):
        goes_on = targets[places, depth] >= 0
        places, node = places[goes_on], node[goes_on]
        token = targets[places, depth]
        first = trie.levels[depth].first_child
        choice = (first[node + 1] - first[node] > 1).nonzero().squeeze(1)
        if len(choice):
            found = _losses(outputs[places[choice], depth], weight, trie, depth, node[choice], token[choice], smoothing)
            losses = losses.index_put((places[choice], torch.full_like(choice, depth)), found)
        node = trie.descend(depth, node, token)
    return losses


def _losses(
    outputs: torch.Tensor,
    weight: torch.Tensor,
    trie: TokenTrie,
    depth: int,
    node: torch.Tensor,
    token: torch.Tensor,
    smoothing: float,
) -> torch.Tensor:
    logits, row = _continuations(outputs, weight, trie, depth, node)
    # Take the token's logit from those that are normalized: recomputed, perhaps at another precision, it could exceed
    # their log-sum-exp.
    aim = _chosen(logits, row, trie, depth, node, token)
    if smoothing:
        aim = (1.0 - smoothing) * aim + smoothing * _means(logits, row, len(outputs))
    normalizers = logits.logsumexp(1) if row is None else _grouped_logsumexp(logits, row, len(outputs))
    return normalizers - aim


def _continuations(
    outputs: torch.Tensor, weight: torch.Tensor, trie: TokenTrie, depth: int, node: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute the logits of the nodes' children: [n, span], -inf for no child; or [all children] and their rows."""
    branches = trie.branches[depth]
    if branches.table is not None:
        logits = (outputs @ weight[branches.first_token : branches.last_token + 1].T).float()
        return logits.masked_fill(branches.table[node] < 0, -torch.inf), None
    first = trie.levels[depth].first_child
    counts = (first[node + 1] - first[node]).long()
    row = torch.repeat_interleave(torch.arange(len(node), device=node.device), counts)
    within = torch.arange(len(row), device=node.device) - (counts.cumsum(0) - counts)[row]
    token = trie.levels[depth + 1].token[first[node].long()[row] + within].long()
    return (outputs[row] * weight[token]).float().sum(1), row


def _chosen(
    logits: torch.Tensor,
    row: torch.Tensor | None,
    trie: TokenTrie,
    depth: int,
    node: torch.Tensor,
    token: torch.Tensor,
) -> torch.Tensor:
    """Select, from the logits of `_continuations`, that of each node's child by ``token`` [n]."""
    if row is None:
        return logits.gather(1, (token - trie.branches[depth].first_token)[:, None]).squeeze(1)
    first = trie.levels[depth].first_child
    counts = (first[node + 1] - first[node]).long()
    within = trie.descend(depth, node, token) - first[node].long()
    return logits[counts.cumsum(0) - counts + within]


def _grouped_logsumexp(values: torch.Tensor, group: torch.Tensor, groups: int) -> torch.Tensor:
    """Compute the logsumexp of ``values`` [m] by ``group`` [m], [groups]; every group has values."""
    largest = torch.full((groups,), -torch.inf, device=values.device)
    largest = largest.scatter_reduce(0, group, values.detach(), "amax")
    sums = torch.zeros(groups, device=values.device).index_add(0, group, (values - largest[group]).exp())
    return sums.log() + largest


def _means(logits: torch.Tensor, row: torch.Tensor | None, rows: int) -> torch.Tensor:
    """Average the logits of each row's children, [rows]."""
    if row is None:
        real = logits > -torch.inf
        return logits.where(real, 0.0).sum(1) / real.sum(1)
    counts = torch.bincount(row, minlength=rows)
    return torch.zeros(rows, device=logits.device).index_add(0, row, logits) / counts

"""Normalize over the continuations of a trie's nodes, with vectors of nodes and click evidence in the logits.

Shapes: n prefixes, c continuations of all of them one after the other, d hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gensar_core.corpora.trie import TokenTrie
from gensar_core.generator.backbones.causal import CausalGenerator
from gensar_core.generator.click_evidence import NodeEvidence
from gensar_core.generator.item_nodes import ItemNodes
from gensar_core.schema import TASKS


@dataclass(frozen=True)
class Continuations:
    """Hold the log-probabilities of all continuations of some prefixes.

    ``log_probability`` float32 [c]; ``first`` int64 [n] is the place of each prefix's first continuation, ``child``
    int64 [n] its number in the next level.
    """

    log_probability: torch.Tensor
    first: torch.Tensor
    child: torch.Tensor

    def of(self, prefix: torch.Tensor, child: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of the nodes ``child`` after the prefixes [j]."""
        return self.log_probability[self.first[prefix] + child - self.child[prefix]]


class TrieSoftmax:
    """Score the continuations of prefixes in the trie of one task."""

    def __init__(
        self,
        model: CausalGenerator,
        task: str,
        trie: TokenTrie,
        nodes: ItemNodes,
        node_vectors: torch.Tensor,
        evidence: NodeEvidence | None,
    ) -> None:
        self.model, self.trie, self._evidence = model, trie, evidence
        self._task = TASKS.index(task)
        self._nodes = nodes.of_level[task]
        self._vectors = node_vectors

    def choices(self, depth: int, node: torch.Tensor) -> torch.Tensor:
        """Mark the nodes of level ``depth`` that have more than one continuation, bool [n]."""
        first = self.trie.levels[depth].first_child
        return first[node + 1] - first[node] > 1

    def continuations(
        self, states: torch.Tensor, depth: int, node: torch.Tensor, question: torch.Tensor
    ) -> Continuations:
        """Normalize over the continuations of ``node`` [n] of level ``depth`` after ``states`` [n, d].

        ``question`` [n] selects the click evidence of each prefix.
        """
        first_child = self.trie.levels[depth].first_child
        child = first_child[node].long()
        sizes = first_child[node + 1].long() - child
        first = sizes.cumsum(0) - sizes
        row = torch.repeat_interleave(torch.arange(len(node), device=node.device), sizes)
        below = self.trie.levels[depth + 1]
        children = child[row] + torch.arange(len(row), device=node.device) - first[row]
        if len(self.trie.levels[depth]) == 1:
            logits = (states @ self._weights(depth, torch.arange(len(below), device=node.device)).T).flatten()
        else:
            logits = (states[row] * self._weights(depth, children)).sum(1)
        logits = logits.float()
        if self._evidence is not None:
            beneath = self._evidence.beneath(question[row], below.start[children].long(), below.stop[children].long())
            logits = logits + self.model.with_evidence(self._task, depth, beneath)
        largest = torch.full((len(node),), -torch.inf, device=logits.device)
        largest = largest.scatter_reduce(0, row, logits.detach(), "amax")
        sums = torch.zeros(len(node), device=logits.device).index_add(0, row, (logits - largest[row]).exp())
        return Continuations(logits - (largest + sums.log())[row], first, child)

    def _weights(self, depth: int, children: torch.Tensor) -> torch.Tensor:
        """Return the output vectors of nodes of the level below ``depth`` [j, d]."""
        weights = torch.nn.functional.embedding(self.trie.levels[depth + 1].token[children].long(), self.model.outputs)
        numbers = self._nodes[depth + 1][children]
        if len(self._vectors):
            added = torch.nn.functional.embedding(numbers.clamp_min(0), self._vectors)
            weights = weights + added * (numbers >= 0)[:, None]
        return weights


def path_losses(
    softmax: TrieSoftmax, states: torch.Tensor, targets: torch.Tensor, question: torch.Tensor
) -> torch.Tensor:
    """Compute the negative log-probability of each item's row, float32 [n].

    ``states`` [n, L, d] are those before each token of the rows ``targets`` int64 [n, L], negative past a row's end.
    """
    trie = softmax.trie
    losses = torch.zeros(len(targets), device=states.device)
    rows = torch.arange(len(targets), device=states.device)
    node = torch.zeros_like(rows)
    for depth in range(min(trie.depth, targets.shape[1])):
        goes_on = targets[rows, depth] >= 0
        rows, node = rows[goes_on], node[goes_on]
        below = trie.descend(depth, node, targets[rows, depth])
        choice = softmax.choices(depth, node).nonzero().squeeze(1)
        if len(choice):
            chosen = rows[choice]
            found = softmax.continuations(states[chosen, depth], depth, node[choice], question[chosen])
            values = found.of(torch.arange(len(choice), device=states.device), below[choice])
            losses = losses.index_add(0, chosen, -values)
        node = below
    return losses

"""Normalize over the continuations of a trie's nodes, with vectors of nodes and click evidence in the logits.

Shapes: n prefixes, c continuations of all of them one after the other, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gensar_core.corpora.trie import Children, TokenTrie
from gensar_core.generator.backbones.causal import CausalGenerator
from gensar_core.generator.click_evidence import NodeEvidence
from gensar_core.generator.item_nodes import ItemNodes
from gensar_core.generator.likelihoods import grouped_logsumexp, grouped_means
from gensar_core.schema import TASKS

#: Continuations whose vectors are looked up at a time on a CPU; they stay in its cache.
_CPU_CONTINUATIONS = 2048


@dataclass(frozen=True)
class Continuations:
    """Hold the log-probabilities float32 [c] of all continuations of some prefixes, the ``children`` of their nodes."""

    log_probability: torch.Tensor
    children: Children

    def of(self, prefix: torch.Tensor, child: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of the nodes ``child`` after the prefixes [j]."""
        return self.log_probability[self.children.place(prefix, child)]


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
        open_nodes: Sequence[torch.Tensor] | None = None,
        added: Sequence[torch.Tensor] | None = None,
    ) -> None:
        """Score for a ``model``; of each level's nodes, only ``open_nodes`` bool [n] compete (None: all).

        ``added`` float32 [n] a level is added to the nodes' logits (None: nothing).
        """
        self._open, self._added = open_nodes, added
        self.model, self.trie, self._evidence = model, trie, evidence
        self._task = TASKS.index(task)
        self._nodes = nodes.of_level[task]
        self._vectors = node_vectors

    def continuations(self, states: torch.Tensor, children: Children, question: torch.Tensor) -> Continuations:
        """Normalize over the ``children`` of the prefixes' nodes after ``states`` [n, d].

        ``question`` [n] selects the click evidence of each prefix.
        """
        depth = children.depth
        if self._at_root(children):
            return self.normalized(states, children, self.vectors([children])[0], question)
        branches, number = self.trie.branches[depth], self._nodes[depth + 1][children.number]
        token = self.trie.levels[depth + 1].token[children.number].long() - branches.first_token
        # One product serves all prefixes; to gather a token's vector for each continuation takes longer.
        logits = (states @ self.model.outputs[branches.first_token : branches.last_token + 1].T)[children.row, token]
        if len(self._vectors):
            own = _products(states, children.row, self._vectors, number.clamp_min(0))
            logits = logits + own.masked_fill(number < 0, 0.0)
        return self._normalized(logits, children, question)

    def vectors(self, parts: Sequence[Children]) -> list[torch.Tensor]:
        """Look up the output vectors of all continuations of each part, [c, d]; for the root, of its children once.

        The gradient of a lookup is a pass over the whole matrix, so one lookup serves all parts.
        """
        tokens, numbers = [], []
        for part in parts:
            wanted = part.number
            if self._at_root(part):
                wanted = torch.arange(len(self.trie.levels[part.depth + 1]), device=wanted.device)
            tokens.append(self.trie.levels[part.depth + 1].token[wanted].long())
            numbers.append(self._nodes[part.depth + 1][wanted])
        found = torch.nn.functional.embedding(torch.cat(tokens), self.model.outputs)
        if len(self._vectors):
            number = torch.cat(numbers)
            added = torch.nn.functional.embedding(number.clamp_min(0), self._vectors)
            found = found + added * (number >= 0)[:, None]
        return list(torch.split(found, [len(part) for part in tokens]))

    def normalized(
        self, states: torch.Tensor, children: Children, vectors: torch.Tensor, question: torch.Tensor
    ) -> Continuations:
        """Normalize over ``children`` with their ``vectors`` after ``states`` [n, d]; see `continuations`."""
        if self._at_root(children):
            return self._normalized((states @ vectors.T).flatten(), children, question)
        return self._normalized((states[children.row] * vectors).sum(1), children, question)

    def _normalized(self, logits: torch.Tensor, children: Children, question: torch.Tensor) -> Continuations:
        row, logits = children.row, logits.float()
        if self._evidence is not None:
            below = self.trie.levels[children.depth + 1]
            start, stop = below.start[children.number].long(), below.stop[children.number].long()
            beneath = self._evidence.beneath(question[row], start, stop)
            logits = logits + self.model.with_evidence(self._task, children.depth, beneath)
        if self._added is not None:
            logits = logits + self._added[children.depth + 1][children.number]
        if self._open is not None:
            logits = logits.masked_fill(~self._open[children.depth + 1][children.number], -torch.inf)
        return Continuations(logits - grouped_logsumexp(logits, children)[row], children)

    def _at_root(self, children: Children) -> bool:
        return len(self.trie.levels[children.depth]) == 1


def _products(states: torch.Tensor, row: torch.Tensor, vectors: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Return the product of the state ``row`` with the vector ``number`` of each continuation, [c]."""
    size = _CPU_CONTINUATIONS if states.device.type == "cpu" else max(1, len(row))
    parts = zip(torch.split(row, size), torch.split(number, size), strict=True)
    lookup = torch.nn.functional.embedding
    return torch.cat([(lookup(left, states) * lookup(right, vectors)).sum(1) for left, right in parts])


def path_losses(
    softmax: TrieSoftmax, states: torch.Tensor, targets: np.ndarray, question: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Compute the negative log-probability of each item's row, float32 [n].

    ``states`` [n, L, d] are those before each token of the rows ``targets`` int [n, L], negative past a row's end.
    ``smoothing`` spreads that share of a token's mass evenly over all continuations that compete.
    """
    losses = torch.zeros(len(targets), device=states.device)
    choices = softmax.trie.choices(targets)
    parts = [softmax.trie.children(step.depth, step.node, step.total) for step in choices]
    vectors = softmax.vectors(parts) if parts else []
    for step, children, found in zip(choices, parts, vectors, strict=True):
        values = softmax.normalized(states[step.row, step.depth], children, found, question[step.row])
        gain = values.of(torch.arange(len(step.row), device=states.device), step.child)
        if smoothing:
            gain = (1.0 - smoothing) * gain + smoothing * grouped_means(values.log_probability, children)
        losses = losses.index_add(0, step.row, -gain)
    return losses

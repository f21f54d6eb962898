"""Add what popularity alone tells to the logits of a training, so that the scores need not learn it.

A model that is fitted to p(item | history) ranks what is often clicked high. Where candidates are drawn by popularity,
this says nothing of which one is clicked. With s log(clicks(item)) added to its logits in training alone, the model's
own scores approach log p(item | history) - s log(clicks(item)) (logit adjustment; Menon et al., ICLR 2021).

What is added to a token is s times the log of two means: that of the clicks of items beneath it over that of the items
beneath its prefix. The sum along an identifier is s log(clicks(item)), up to the same number for all items, and where
all items have as many clicks nothing is added. One click more is counted for each item.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from gensar_core.corpora.trie import TokenTrie
from gensar_core.generator.likelihoods import CatalogueLikelihood
from gensar_core.nn.cross_entropy import cross_entropy
from gensar_core.runtime.device import send
from gensar_core.samples.popularity import count_clicks

#: What is added to each node of a trie, float32 [nodes], by level.
Added: TypeAlias = tuple[torch.Tensor, ...]


def added_logits(trie: TokenTrie, clicks: np.ndarray, strength: float) -> Added:
    """Compute what is added to each node, from the ``clicks`` [items] of the items in the order of their numbers."""
    host = trie.host
    below = np.append(0.0, np.cumsum(clicks[host.items.numpy()] + 1.0))
    added = [np.zeros(1)]
    means = below[-1:] / len(host)
    for level, deeper in zip(host.levels[:-1], host.levels[1:], strict=True):
        start, stop = deeper.start.numpy(), deeper.stop.numpy()
        mean = (below[stop] - below[start]) / (stop - start)
        added.append(strength * np.log(mean / np.repeat(means, np.diff(level.first_child.numpy()))))
        means = mean
    return tuple(send(one.astype(np.float32), trie.items.device) for one in added)


@dataclass(frozen=True)
class AdjustedVocabulary:
    """Train items over the whole vocabulary (Eq. 12) with ``added`` logits of the ``trie``'s nodes."""

    trie: TokenTrie
    added: Added

    def token_losses(
        self, outputs: torch.Tensor, weight: torch.Tensor, targets: np.ndarray, smoothing: float = 0.0
    ) -> torch.Tensor:
        """Compute the losses of the tokens of items' rows, as `CatalogueLikelihood.token_losses` does."""
        first, more = self.of_rows(targets)
        real = targets >= 0
        places, tokens = (send(part, outputs.device).long() for part in (np.flatnonzero(real), targets[real]))
        losses = cross_entropy(
            outputs.flatten(0, 1)[places], weight, tokens, smoothing, more.flatten(0, 1)[places], first
        )
        return torch.zeros(targets.size, device=outputs.device).index_put((places,), losses.float()).view(targets.shape)

    def of_rows(self, targets: np.ndarray) -> tuple[int, torch.Tensor]:
        """Return the first token that something is added to, and what is added before each token of items' rows.

        ``targets`` int [rows, L] are the rows, the result is [rows, L, tokens from that one on].
        """
        levels = self.trie.levels[1:]
        tokens = [int(bound) for level in self.trie.host.levels[1:] for bound in (level.token.min(), level.token.max())]
        first, last = min(tokens), max(tokens)
        more = torch.zeros((*targets.shape, last - first + 1), device=self.trie.items.device)
        for step in self.trie.choices(targets):
            children = self.trie.children(step.depth, step.node, step.total)
            token = levels[step.depth].token[children.number].long() - first
            at = step.row[children.row], torch.full_like(children.row, step.depth), token
            more = more.index_put(at, self.added[step.depth + 1][children.number])
        return first, more


#: Likelihood of the items of a training task.
TrainedLikelihood: TypeAlias = AdjustedVocabulary | CatalogueLikelihood


def adjusted(
    likelihood: TrainedLikelihood | None, trie: TokenTrie, clicks: np.ndarray, strength: float
) -> TrainedLikelihood:
    """Return a task's ``likelihood`` (None: over the vocabulary) with added logits; ``trie`` is that of its targets."""
    if isinstance(likelihood, CatalogueLikelihood):
        return replace(likelihood, added=added_logits(likelihood.trie, clicks, strength))
    return AdjustedVocabulary(trie, added_logits(trie, clicks, strength))


def clicks_of_items(training_events: Path, n_items: int) -> np.ndarray:
    """Count the training clicks on every item, of both tasks together, int64 [n_items]."""
    clicks = np.zeros(n_items, dtype=np.int64)
    counted = count_clicks(training_events)
    clicks[: len(counted)] = counted
    return clicks

"""Turn outputs into log-probabilities: a token competes with the vocabulary, or with what continues some item.

Eq. 12 normalizes over the vocabulary. Over the catalogue, a factor p(c_l | c_<l, prompt) is normalized over the
prefix's children in the trie of all items. The probabilities of all items then sum to one, and none is lost to
identifiers that do not exist. A prefix with a single continuation costs nothing: the model learns which item to choose,
not which identifiers exist. Shapes: n prefixes, d = d_model; ``weight`` [vocabulary, d] is the output matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

import numpy as np
import torch

from gensar_core.corpora.trie import Children, Choices, TokenTrie
from gensar_core.generator.backbones.t5 import Backbone
from gensar_core.generator.prefix_tree import PrefixTrees, keep_choices
from gensar_core.runtime.device import send

#: Outputs and tokens whose logits are held at a time. On a CPU both operands and the logits then stay in its cache:
#: with all tokens at once, the output matrix would be read from memory again for every few rows.
_CPU_ROWS, _CPU_TOKENS = 512, 1024
_GPU_LOGITS = 1 << 28


class VocabularyLikelihood:
    """Normalize over the whole vocabulary, without ever holding all logits."""

    #: Scores of items that differ in length are divided by their numbers of tokens.
    by_length: ClassVar[bool] = True

    def choices(self, trees: PrefixTrees) -> PrefixTrees:
        """Return all of the trees: no token is certain."""
        return trees

    def log_normalizers(
        self, outputs: torch.Tensor, weight: torch.Tensor, _depth: int, _node: torch.Tensor
    ) -> torch.Tensor:
        """Compute the log-sum-exp over the logits of each of the ``outputs`` [n, d], float32 [n]."""
        return _vocabulary_normalizers(outputs, weight)

    def tree_normalizers(self, outputs: torch.Tensor, weight: torch.Tensor, _trees: PrefixTrees) -> torch.Tensor:
        """Compute the log-sum-exp over the logits of each node's output, float32 [n]."""
        return _vocabulary_normalizers(outputs, weight)


@dataclass(frozen=True)
class CatalogueLikelihood:
    """Normalize over the continuations of each prefix in the ``trie`` of all items, which is on the model's device.

    ``added`` float32 [nodes] a level is added to the logits of nodes in training (see `logit_adjustment`).
    """

    trie: TokenTrie
    added: tuple[torch.Tensor, ...] | None = None
    by_length: ClassVar[bool] = False

    def choices(self, trees: PrefixTrees) -> PrefixTrees:
        """Return the trees without their certain tokens, and with the trie's nodes."""
        return keep_choices(trees, self.trie)

    def log_normalizers(
        self, outputs: torch.Tensor, weight: torch.Tensor, depth: int, node: torch.Tensor, total: int | None = None
    ) -> torch.Tensor:
        """Compute the log-sum-exp over the logits of each prefix's continuations, float32 [n].

        ``outputs`` [n, d] are those after the prefixes, ``node`` int64 [n] the prefixes' nodes at level ``depth`` of
        the trie; none of them is a whole token row. ``total`` is the number of all continuations, if known.
        """
        return grouped_logsumexp(*self._continuations(outputs, weight, depth, node, total))

    def tree_normalizers(self, outputs: torch.Tensor, weight: torch.Tensor, trees: PrefixTrees) -> torch.Tensor:
        """Compute the log-sum-exp over the continuations of each node [n], be they candidates or not."""
        assert trees.trie_node is not None
        normalizers = torch.zeros(len(outputs), device=outputs.device)
        for depth in range(self.trie.depth):
            rows = np.flatnonzero(trees.node_depth == depth)
            total = int(self.trie.count_children(depth, trees.trie_node[rows]).sum())
            nodes, node = (send(part, outputs.device) for part in (rows, trees.trie_node[rows]))
            normalizers[nodes] = self.log_normalizers(outputs[nodes], weight, depth, node, total)
        return normalizers

    def token_losses(
        self, outputs: torch.Tensor, weight: torch.Tensor, targets: np.ndarray, smoothing: float = 0.0
    ) -> torch.Tensor:
        """Compute the negative log-probability of each token of items' rows, float32 [rows, L]; 0 past a row's end.

        ``outputs`` [rows, L, d] are those before each token, ``targets`` int [rows, L] the tokens, negative past a
        row's end. Every row must be in the trie. ``smoothing`` spreads that share of the target's mass evenly over all
        continuations.
        """
        losses = torch.zeros(targets.shape, dtype=torch.float32, device=outputs.device)
        for step in self.trie.choices(targets):
            at = step.row, torch.full_like(step.row, step.depth)
            losses = losses.index_put(at, self._losses(outputs[step.row, step.depth], weight, step, smoothing))
        return losses

    def _losses(self, outputs: torch.Tensor, weight: torch.Tensor, step: Choices, smoothing: float) -> torch.Tensor:
        logits, children = self._continuations(outputs, weight, step.depth, step.node, step.total)
        if self.added is not None:
            table = self.trie.branches[step.depth].table
            number = children.number if children is not None else table[step.node].clamp_min(0)  # type: ignore[index]
            logits = logits + self.added[step.depth + 1][number]
        # Take the token's logit from those that are normalized: recomputed, perhaps at another precision, it could
        # exceed their log-sum-exp.
        if children is None:
            token = self.trie.levels[step.depth + 1].token[step.child].long()
            aim = logits.gather(1, (token - self.trie.branches[step.depth].first_token)[:, None]).squeeze(1)
        else:
            aim = logits[children.place(torch.arange(len(outputs), device=outputs.device), step.child)]
        if smoothing:
            aim = (1.0 - smoothing) * aim + smoothing * grouped_means(logits, children)
        return grouped_logsumexp(logits, children) - aim

    def _continuations(
        self, outputs: torch.Tensor, weight: torch.Tensor, depth: int, node: torch.Tensor, total: int | None
    ) -> tuple[torch.Tensor, Children | None]:
        """Compute the logits of the nodes' children: [n, span], -inf for no child; or [all children], and these."""
        branches = self.trie.branches[depth]
        if branches.table is not None:
            logits = (outputs @ weight[branches.first_token : branches.last_token + 1].T).float()
            return logits.masked_fill(branches.table[node] < 0, -torch.inf), None
        children = self.trie.children(depth, node, total)
        token = self.trie.levels[depth + 1].token[children.number].long()
        return (outputs[children.row] * weight[token]).float().sum(1), children


Likelihood: TypeAlias = VocabularyLikelihood | CatalogueLikelihood

#: The likelihood of texts, and of items unless the model's settings name the other.
VOCABULARY: Final = VocabularyLikelihood()


def item_likelihoods(
    model: Backbone, read_tries: Callable[[], Mapping[str, TokenTrie]]
) -> dict[str, CatalogueLikelihood]:
    """Return the likelihood of each task's items by the model's config.json; tasks that it lacks use the vocabulary.

    ``read_tries`` returns the trie of all items by task; it is called if the model was trained over the catalogue.
    """
    if getattr(model.config, "identifier_likelihood", "vocabulary") != "catalogue":
        return {}
    device = model.lm_head.weight.device
    return {task: CatalogueLikelihood(trie.to(device)) for task, trie in read_tries().items()}


def _vocabulary_normalizers(outputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    on_cpu = outputs.device.type == "cpu"
    tokens = _CPU_TOKENS if on_cpu else len(weight)
    rows = _CPU_ROWS if on_cpu else max(1, _GPU_LOGITS // len(weight))
    normalizers = torch.empty(len(outputs), device=outputs.device)
    logits = outputs.new_empty(min(rows, len(outputs)) * min(tokens, len(weight)))
    for first in range(0, len(outputs), rows):
        part = outputs[first : first + rows]
        sums = []
        for start in range(0, len(weight), tokens):
            block = weight[start : start + tokens]
            block_logits = logits[: len(part) * len(block)].view(len(part), len(block))
            values = torch.mm(part, block.T, out=block_logits).float()
            # In place: `logsumexp` would fill another array as large.
            largest = values.amax(1)
            sums.append(values.sub_(largest[:, None]).exp_().sum(1).log_() + largest)
        normalizers[first : first + rows] = torch.logsumexp(torch.stack(sums), 0)
    return normalizers


def grouped_logsumexp(logits: torch.Tensor, children: Children | None) -> torch.Tensor:
    """Compute the log-sum-exp of each node's logits, [n]; every node has some.

    ``logits`` are [n, span], -inf for none, or those of ``children``.
    """
    if children is None:
        return logits.logsumexp(1)
    row, largest = children.row, torch.full((len(children.sizes),), -torch.inf, device=logits.device)
    largest = largest.scatter_reduce(0, row, logits.detach(), "amax")
    sums = torch.zeros_like(largest).index_add(0, row, (logits - largest[row]).exp())
    return sums.log() + largest


def grouped_means(logits: torch.Tensor, children: Children | None) -> torch.Tensor:
    """Average those of each node's logits that are not -inf, [n]; shapes as for `grouped_logsumexp`."""
    real = logits > -torch.inf
    kept = logits.where(real, 0.0)
    if children is None:
        return kept.sum(1) / real.sum(1)
    none = torch.zeros(len(children.sizes), device=logits.device)
    return none.index_add(0, children.row, kept) / none.index_add(0, children.row, real.float())

"""Score candidates with a causal model: each log is read once, then each question's prefix tree in one pass.

The nodes of a question's prefix tree follow the tokens that the question sees. A node sees those and its ancestors. The
scores equal those of scoring each candidate alone. Shapes: B questions, N nodes, W candidates, D longest item row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

from gensar_core.corpora.trie import Branches
from gensar_core.generator.backbones.causal import CausalGenerator
from gensar_core.generator.beam_search import by_slot, questions_at_once, search_beams
from gensar_core.generator.click_evidence import ClickEvidence, NodeEvidence
from gensar_core.generator.item_nodes import NO_NODE
from gensar_core.generator.likelihoods import VOCABULARY
from gensar_core.generator.log_rows import LogRows, questions, row_tensors
from gensar_core.generator.one_pass_training import Catalogue
from gensar_core.generator.prefix_tree import PrefixTrees, build_trees, keep_choices, trie_nodes
from gensar_core.generator.prompt_batches import cut_evenly
from gensar_core.generator.trie_softmax import TrieSoftmax
from gensar_core.generator.validation import BEAMS, retrieved_ranks, shared_ranks, validation_metrics
from gensar_core.ranking.candidates import CandidateLists
from gensar_core.ranking.metrics import average_ranks
from gensar_core.ranking.validation_candidates import ValidLists
from gensar_core.runtime.device import send
from gensar_core.training.processes import ALONE, Processes
from gensar_core.training.threads import side_by_side


@dataclass(frozen=True)
class Heard:
    """Hold what questions see, read once: keys and values, and which of the S tokens each question sees.

    ``seen`` bool [B, S]; ``position`` int64 [B] is the position of each question's first token after its history;
    ``state`` [B, d] are the states that predict the next token.
    """

    cache: transformers.DynamicCache
    seen: torch.Tensor
    position: torch.Tensor
    state: torch.Tensor


class OnePassScorer:
    """Score items for questions to the logs that a model reads."""

    def __init__(
        self, model: CausalGenerator, catalogue: Catalogue, evidence: ClickEvidence | None, *, over_catalogue: bool
    ) -> None:
        self.model, self.catalogue, self.evidence = model, catalogue, evidence
        self.over_catalogue = over_catalogue

    @property
    def device(self) -> torch.device:
        """Return the model's device."""
        return self.model.embeddings.device

    def read(self, logs: LogRows, row: np.ndarray, entry: np.ndarray) -> Heard:
        """Read the rows of some target entries once, and return what each of these questions sees."""
        rows, of_row = np.unique(row, return_inverse=True)
        batch = row_tensors(logs, rows, self.catalogue.nodes, self.catalogue.lead, self.device)
        cache = transformers.DynamicCache(config=self.model.lm.config)
        mask = batch.mask()
        states = self.model.states(
            batch.tokens, batch.nodes, batch.queries, batch.positions, mask, self.model.node_vectors, cache, batch.words
        )
        places = batch.places[_lookup(batch.entry, entry)]
        width = batch.tokens.shape[1]
        # The last token that a question reads is its entry's first one: a behavior token.
        column = send(places - of_row * width, self.device)
        chosen = send(of_row, self.device)
        cache.batch_select_indices(chosen)
        return Heard(
            cache,
            mask[chosen, column],
            batch.positions[chosen, column] + 1,
            states[chosen, column],
        )

    def questions(
        self, logs: LogRows, row: np.ndarray, entry: np.ndarray, task: str, per_batch: int
    ) -> OnePassQuestions:
        """Return target entries as questions to search items for."""
        return OnePassQuestions(self, logs, row, entry, task, per_batch)

    def softmax(self, task: str, evidence: NodeEvidence | None) -> TrieSoftmax:
        """Return the softmax over the continuations of a task's prefixes."""
        catalogue = self.catalogue
        return TrieSoftmax(self.model, task, catalogue.tries[task], catalogue.nodes, self.model.node_vectors, evidence)

    def evidence_of(self, logs: LogRows, row: np.ndarray, entry: np.ndarray, task: str) -> NodeEvidence | None:
        """Collect the click evidence of some target entries; None for a model without any."""
        if self.evidence is None or not self.over_catalogue:
            return None
        return self.evidence.of(questions(logs, row, entry), self.catalogue.tries[task])

    def score(
        self, logs: LogRows, targets: np.ndarray, candidates: np.ndarray, task: str, per_batch: int
    ) -> np.ndarray:
        """Score ``candidates`` int [n, W] (-1: none) for the questions ``targets`` [n], float32 [n, W]."""
        scores = np.full(candidates.shape, -np.inf, dtype=np.float32)
        row, entry = logs.places_of(targets)
        order = np.lexsort((row, logs.lengths_of(row)))
        batches = [order[start : start + per_batch] for start in range(0, len(order), per_batch)]

        def score(chosen: np.ndarray) -> np.ndarray:
            return self._score(logs, row[chosen], entry[chosen], candidates[chosen], task)

        for chosen, values in zip(batches, side_by_side(score, batches, self.device), strict=True):
            scores[chosen] = values
        return scores

    @torch.inference_mode()
    def _score(
        self, logs: LogRows, row: np.ndarray, entry: np.ndarray, candidates: np.ndarray, task: str
    ) -> np.ndarray:
        trees = build_trees(candidates, self.catalogue.items[task])
        heard = self.read(logs, row, entry)
        trie = self.catalogue.tries[task]
        if self.over_catalogue:
            trees = keep_choices(trees, trie)
        node = trees.trie_node if trees.trie_node is not None else trie_nodes(trees, trie)
        states = self._node_states(trees, node, heard, task)
        if self.over_catalogue:
            edges = self._over_catalogue(trees, node, states, task, self.evidence_of(logs, row, entry, task))
        else:
            edges = self._over_vocabulary(trees, states)
        steps = np.append(edges.cpu().numpy(), np.float32(0.0))[trees.paths].sum(axis=2)
        return np.where(candidates >= 0, steps, np.float32(-np.inf))

    def _node_states(self, trees: PrefixTrees, node: np.ndarray, heard: Heard, task: str) -> torch.Tensor:
        """Compute the state after each node of the trees, [N, d]; a root and a behavior token have the question's."""
        device, first = self.device, self.catalogue.first_code
        depth, user = trees.node_depth, trees.node_user
        states = heard.state[send(user, device)]
        read = np.flatnonzero(depth > first)
        if not len(read):
            return states
        # Only nodes of codes are read; their places among those of their question.
        counts = np.bincount(user[read], minlength=len(heard.seen))
        place = np.arange(len(read)) - np.repeat(np.cumsum(counts) - counts, counts)
        width = int(counts.max())
        number = np.full(len(depth), -1)
        number[read] = place
        tokens, positions = (np.zeros((len(counts), width), dtype=np.int64) for _ in range(2))
        nodes = torch.full((len(counts), width), NO_NODE, device=device)
        tokens[user[read], place] = trees.node_token[read]
        positions[user[read], place] = depth[read] - first - 1
        for level in range(first + 1, int(depth.max()) + 1):
            mine = read[depth[read] == level]
            numbers = self.catalogue.nodes.of_level[task][level]
            at = send(user[mine], device), send(number[mine], device)
            nodes[at] = numbers[send(node[mine], device)]
        sees = np.zeros((len(counts), width, width), dtype=bool)
        for level in range(first + 1, trees.ancestors.shape[1]):
            mine = read[depth[read] >= level]
            sees[user[mine], number[mine], number[trees.ancestors[mine, level]]] = True
        fill = np.arange(width)
        sees[:, fill, fill] = True
        seen = heard.seen[:, None, :].expand(-1, width, -1)
        found = self.model.states(
            send(tokens, device),
            nodes,
            None,
            send(positions, device) + heard.position[:, None],
            torch.cat([seen, send(sees, device)], 2),
            self.model.node_vectors,
            heard.cache,
        )
        states[send(read, device)] = found[send(user[read], device), send(place, device)]
        return states

    def _over_catalogue(
        self, trees: PrefixTrees, node: np.ndarray, states: torch.Tensor, task: str, evidence: NodeEvidence | None
    ) -> torch.Tensor:
        """Compute each edge's log-probability among the continuations of its prefix, [E]."""
        trie = self.catalogue.tries[task]
        softmax = self.softmax(task, evidence)
        edges = torch.zeros(len(trees.edge_parent), device=self.device)
        depth = trees.node_depth[trees.edge_parent]
        for level in range(trie.depth):
            mine = np.flatnonzero(depth == level)
            parent, of_parent = np.unique(trees.edge_parent[mine], return_inverse=True)
            if not len(parent):
                continue
            numbers = node[parent]
            total = int(trie.count_children(level, numbers).sum())
            found = softmax.continuations(
                states[send(parent, self.device)],
                trie.children(level, send(numbers, self.device), total),
                send(trees.node_user[parent], self.device),
            )
            child = trie.descend(level, numbers[of_parent], trees.edge_token[mine])
            edges[send(mine, self.device)] = found.of(send(of_parent, self.device), send(child, self.device))
        return edges

    def _over_vocabulary(self, trees: PrefixTrees, states: torch.Tensor) -> torch.Tensor:
        """Compute each edge's log-probability among all tokens, [E]; 0 for the behavior token and the end."""
        parent = send(trees.edge_parent, self.device)
        token = send(trees.edge_token, self.device)
        logits = (states[parent] * torch.nn.functional.embedding(token, self.model.outputs)).float().sum(1)
        values = logits - VOCABULARY.log_normalizers(states, self.model.outputs, 0, parent)[parent]
        given = send(trees.node_depth < self.catalogue.first_code, self.device)[parent]
        return values.masked_fill(given | (token == self.model.lm.config.eos_token_id), 0.0)


@dataclass(frozen=True)
class AskedLogs:
    """Hold the logs of valid and test samples, and the samples ``targets`` [n] that are asked."""

    logs: LogRows
    targets: np.ndarray

    @classmethod
    def load(cls, path: Path, vocabulary: int) -> AskedLogs:
        """Read asked_logs.parquet. Raises UserError when it is missing or holds tokens outside the vocabulary."""
        return cls(LogRows.load(vocabulary, path), np.zeros(0, dtype=np.int64))

    def of(self, sample_ids: np.ndarray) -> AskedLogs:
        """Ask for the given samples."""
        return AskedLogs(self.logs, sample_ids)


@dataclass(frozen=True)
class OnePassQuestions:
    """Hold target entries, whose items are searched."""

    scorer: OnePassScorer
    logs: LogRows
    row: np.ndarray
    entry: np.ndarray
    task: str
    per_batch: int

    def __len__(self) -> int:
        return len(self.row)

    def batches(self, beams: int) -> list[np.ndarray]:
        """Return batches of questions, shortest logs first."""
        order = np.lexsort((self.row, self.logs.lengths_of(self.row)))
        return cut_evenly(order, questions_at_once(self.per_batch, beams, self.scorer.device))

    def beams(self, rows: np.ndarray, _beams: int) -> OnePassBeams:
        """Read some questions' logs."""
        return OnePassBeams(self.scorer, self.logs, self.row[rows], self.entry[rows], self.task)


class OnePassBeams:
    """Run a causal model for the beams of a batch of questions, one level of the trie after the other."""

    def __init__(self, scorer: OnePassScorer, logs: LogRows, row: np.ndarray, entry: np.ndarray, task: str) -> None:
        self._scorer, self._task = scorer, task
        self._heard = scorer.read(logs, row, entry)
        self._softmax = None
        if scorer.over_catalogue:
            self._softmax = scorer.softmax(task, scorer.evidence_of(logs, row, entry, task))
        self._outputs = self._heard.state[:, None]
        #: Places of each beam's own tokens among those read for all beams of its question, int64 [B, K, tokens].
        self._ancestors = torch.zeros((len(row), 1, 0), dtype=torch.int64, device=scorer.device)
        self._read = 0

    def start(self) -> torch.Tensor:
        """Return the states before the first token [B, 1, d]."""
        return self._outputs

    def step(self, token: torch.Tensor, beam: torch.Tensor, node: torch.Tensor, depth: int) -> torch.Tensor:
        """Return the states after ``token`` [B, K]; a behavior token has been read with the question.

        A code before the end of sequence is not read: the end is certain.
        """
        catalogue, model = self._scorer.catalogue, self._scorer.model
        above = self._ancestors.gather(1, beam[:, :, None].expand(-1, -1, self._ancestors.shape[2]))
        if depth <= catalogue.first_code or catalogue.tries[self._task].host.levels[depth + 1].all_end:
            self._ancestors = above
            self._outputs = self._outputs.gather(1, beam[:, :, None].expand(-1, -1, self._outputs.shape[2]))
            return self._outputs
        row = self._read + torch.arange(token.shape[1], device=token.device)
        self._ancestors = torch.cat([above, row.expand(len(token), -1)[:, :, None]], 2)
        self._read += token.shape[1]
        own = torch.zeros((*token.shape, self._read), dtype=torch.bool, device=token.device)
        seen = self._heard.seen[:, None].expand(-1, token.shape[1], -1)
        position = self._heard.position[:, None] + (depth - catalogue.first_code - 1)
        self._outputs = model.states(
            token,
            catalogue.nodes.of_level[self._task][depth][node],
            None,
            position.expand(-1, token.shape[1]),
            torch.cat([seen, own.scatter_(2, self._ancestors, True)], 2),
            model.node_vectors,
            self._heard.cache,
        )
        return self._outputs

    def chances(self, outputs: torch.Tensor, node: torch.Tensor, depth: int, branches: Branches) -> torch.Tensor:
        """Return the log-probabilities of the children of ``node`` [B, K] by slot, [B, K, W]; -inf for no child."""
        trie = self._scorer.catalogue.tries[self._task]
        if self._softmax is None:
            return self._over_vocabulary(outputs, node, depth, branches)
        flat = node.flatten()
        question = torch.arange(len(node), device=node.device).repeat_interleave(node.shape[1])
        found = self._softmax.continuations(outputs.flatten(0, 1), trie.children(depth, flat), question)
        if branches.table is not None:
            child = branches.table[flat].long()
            none = child < 0
        else:
            first = trie.levels[depth].first_child
            child = first[flat][:, None].long() + torch.arange(branches.width, device=node.device)
            none = child >= first[flat + 1][:, None]
            child = child.clamp_max(len(trie.levels[depth + 1]) - 1)
            if branches.alive is not None:
                none |= ~branches.alive[child]
        prefix = torch.arange(len(flat), device=node.device)[:, None].expand_as(child)
        places = torch.where(none, found.children.child[:, None], child)
        return found.of(prefix, places).masked_fill(none, -torch.inf).view(*node.shape, -1)

    def _over_vocabulary(
        self, outputs: torch.Tensor, node: torch.Tensor, depth: int, branches: Branches
    ) -> torch.Tensor:
        catalogue, weight = self._scorer.catalogue, self._scorer.model.outputs
        logits = (outputs @ weight[branches.first_token : branches.last_token + 1].T).float()
        if depth < catalogue.first_code or catalogue.tries[self._task].host.levels[depth + 1].all_end:
            # The behavior token is given, and the end of sequence is not asked for.
            logits = torch.zeros_like(logits)
        else:
            flat = outputs.flatten(0, 1)
            logits -= VOCABULARY.log_normalizers(flat, weight, depth, node.flatten()).view(*node.shape, 1)
        return by_slot(logits, node, catalogue.tries[self._task], depth, branches)


@dataclass(frozen=True)
class OnePassValidation:
    """Read the valid candidate lists of one task, block by block."""

    task: str
    lists: ValidLists
    logs: LogRows
    scorer: OnePassScorer
    #: Whether targets are searched in the catalogue, or ranked among their candidates.
    among_catalogue: bool = False

    def metrics(self, processes: Processes = ALONE) -> dict[str, float]:
        """Compute metrics of the model's ranking; each process ranks a share of the lists."""
        return validation_metrics(self.task, shared_ranks(self.lists, self._ranks, processes))

    def _ranks(self, lists: CandidateLists, share: np.ndarray) -> np.ndarray:
        """Rank the targets of some of the lists."""
        ids = lists.samples.get_column("sample_id").to_numpy()[share]
        if self.among_catalogue:
            questions = self.scorer.questions(self.logs, *self.logs.places_of(ids), self.task, per_batch=32)
            retrieved = search_beams(questions, self.scorer.catalogue.tries[self.task], beams=BEAMS)
            return retrieved_ranks(retrieved, lists, share)
        candidates = lists.items[share]
        return average_ranks(self.scorer.score(self.logs, ids, candidates, self.task, per_batch=32), candidates >= 0)


def _lookup(entries: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    order = np.argsort(entries, kind="stable")
    found: np.ndarray = order[np.searchsorted(entries[order], wanted)]
    return found

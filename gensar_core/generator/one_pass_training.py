"""Define a training step of a causal model over user logs: each entry of each row is a target of one pass."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch

from gensar_core.config.generators import TaskWeight, TrainingSettings
from gensar_core.corpora.alignment_logs import NO_QUERY, NO_USER
from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie, counts
from gensar_core.generator.backbones.causal import CausalGenerator
from gensar_core.generator.batches import draws_by_block, repeats
from gensar_core.generator.click_evidence import ClickEvidence
from gensar_core.generator.item_nodes import ItemNodes
from gensar_core.generator.log_rows import (
    LOG_TASKS,
    TRAINING_TASKS,
    WORD_TASKS,
    LogRows,
    RowTensors,
    item_targets,
    questions,
    row_tensors,
)
from gensar_core.generator.logit_adjustment import AdjustedVocabulary, added_logits
from gensar_core.generator.training_task import add_gradients
from gensar_core.generator.trie_softmax import TrieSoftmax, path_losses
from gensar_core.nn.cross_entropy import cross_entropy
from gensar_core.nn.dropout import chosen, drawing_from
from gensar_core.runtime.arrays import stretches
from gensar_core.runtime.device import autocast, send
from gensar_core.runtime.seeds import generator as make_rng
from gensar_core.training.blocks import BlockOrder
from gensar_core.training.loop import RATE_SCHEDULES, Schedule
from gensar_core.training.processes import ALONE, Processes
from gensar_core.training.threads import side_by_side

#: File of the counts of training clicks in a model's folder.
EVIDENCE_FILE: Final = "click_evidence.safetensors"
#: Batches whose rows are sorted by length together, so that padding stays small.
_POOL = 16
#: Padded tokens of a pass on a CPU: a step of 32 logs then has two or three, which keep two cores busy at a twentieth
#: more work.
_CPU_TOKENS: Final = 1536
_WORDS: Final = [TRAINING_TASKS.index(name) for name in WORD_TASKS]


@dataclass(frozen=True)
class Catalogue:
    """Hold what items are to a model: their token rows and tries by task, and the numbers of their prefixes.

    ``lead`` is the number of tokens by which an entry is longer than its item's codes before them: see `row_tensors`.
    ``first_code`` is the place of the first code in an item's token row.
    """

    items: Mapping[str, ItemTokens]
    tries: Mapping[str, TokenTrie]
    nodes: ItemNodes
    first_code: int

    def to(self, device: torch.device) -> Catalogue:
        """Return the same catalogue with its tries and the numbers of their nodes on another device."""
        tries = {task: trie.to(device) for task, trie in self.tries.items()}
        return Catalogue(self.items, tries, self.nodes.to(device), self.first_code)

    @property
    def lead(self) -> int:
        """Return by how many tokens an entry is longer than the item's token row in front."""
        return 1 - self.first_code

    def state_places(self, task: str) -> np.ndarray:
        """Return, for each token of an item's row, which token of its entry predicts it, int64 [longest]."""
        longest = self.items[task].tokens.shape[1]
        places: np.ndarray = np.maximum(np.arange(longest) + self.lead - 1, 0)
        return places


@dataclass(frozen=True)
class RowPart:
    """Hold the rows of a micro-batch, and its place among those of the step."""

    rows: np.ndarray
    place: int


@dataclass(frozen=True)
class RowStep:
    """Hold this process' micro-batches of a step, and by training task what the whole step predicts: items or words."""

    parts: list[RowPart]
    targets: np.ndarray


class RowOrder:
    """Decide which rows each step reads: rows of like length together.

    An epoch reads every log once, and the rows of each task without a user as often as its weight says.
    """

    def __init__(
        self,
        logs: LogRows,
        batch_size: int,
        tokens: int,
        seed: int,
        processes: Processes,
        weights: Mapping[str, TaskWeight] = MappingProxyType({}),
    ) -> None:
        self._logs = logs
        self._batch_size, self._tokens, self._seed, self._processes = batch_size, tokens, seed, processes
        self._order = BlockOrder(len(logs), seed)
        alone = [rows[logs.user[rows] == NO_USER] for rows in stretches(len(logs))]
        of_no_user = np.concatenate([np.zeros(0, dtype=np.int64), *alone])
        place, task, _ = logs.asked(of_no_user)
        #: Rows of each task without a user, how often an epoch reads each, and by block, how many it reads once more.
        self._others: list[tuple[np.ndarray, int, np.ndarray]] = []
        for number, name in enumerate(TRAINING_TASKS[len(LOG_TASKS) :], len(LOG_TASKS)):
            rows = of_no_user[place[task == number]]
            times, more = repeats(len(rows), weights.get(name, 1.0))
            sizes = [len(rows[block :: self._order.count]) for block in range(self._order.count)]
            self._others.append((rows, times, draws_by_block(more, np.array(sizes))))
        sizes = [len(self._users(block)) + sum(map(len, self._drawn(block))) for block in range(self._order.count)]
        self.epoch_rows = sum(sizes)
        self._steps = [math.ceil(size / batch_size) for size in sizes]
        self.per_epoch = max(1, sum(self._steps))

    def from_step(self, step: int) -> Iterator[RowStep]:
        """Yield the steps from ``step`` on."""
        epoch, place = divmod(step, self.per_epoch)
        while True:
            for block, number in self._order.of(epoch):
                if place < self._steps[block]:
                    for rows in self._visit(block, number)[place:]:
                        parts = self._parts(rows)
                        own = self._processes.own(len(parts))
                        _, task, counts = self._logs.asked(rows)
                        targets = np.bincount(task, counts, len(TRAINING_TASKS)).astype(np.int64)
                        yield RowStep([parts[number] for number in np.arange(len(parts))[own]], targets)
                place = max(0, place - self._steps[block])
            epoch += 1

    def _users(self, block: int) -> np.ndarray:
        """Return the rows of a block that belong to users."""
        rows = self._order.members(block)
        users: np.ndarray = rows[self._logs.user[rows] != NO_USER]
        return users

    def _drawn(self, block: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """Return the rows of no user that a visit of a block reads; without ``rng``, some as many."""
        drawn = []
        for rows, times, more in self._others:
            own = rows[block :: self._order.count]
            drawn += [*[own] * times, (own if rng is None else rng.permutation(own))[: more[block]]]
        return drawn

    def _visit(self, block: int, number: int) -> list[np.ndarray]:
        """Return the rows of each step of one visit of a block."""
        rng = make_rng(self._seed, "rows", number)
        order = rng.permutation(self._users(block))
        drawn = self._drawn(block, rng)
        if any(map(len, drawn)):
            order = rng.permutation(np.concatenate([order, *drawn]))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), self._batch_size * _POOL):
            pool = order[start : start + self._batch_size * _POOL]
            pool = pool[np.argsort(self._logs.lengths_of(pool), kind="stable")]
            batches += [pool[first : first + self._batch_size] for first in range(0, len(pool), self._batch_size)]
        return [batches[number] for number in rng.permutation(len(batches))]

    def _parts(self, rows: np.ndarray) -> list[RowPart]:
        """Cut a step into micro-batches of at most so many padded tokens."""
        parts: list[RowPart] = []
        start = 0
        lengths = self._logs.lengths_of(rows)
        while start < len(rows):
            widest = np.maximum.accumulate(lengths[start:])
            fits = widest * np.arange(1, len(widest) + 1) <= self._tokens
            stop = start + max(1, int(fits.argmin()) if not fits.all() else len(fits))
            parts.append(RowPart(rows[start:stop], len(parts)))
            start = stop
        return parts


class OnePassTask:
    """Define steps, gradients and validation for the shared training loop."""

    def __init__(
        self,
        model: CausalGenerator,
        settings: TrainingSettings,
        logs: LogRows,
        catalogue: Catalogue,
        evidence: ClickEvidence | None,
        validation: Any,
        seed: int,
        processes: Processes = ALONE,
        trained: Collection[str] = LOG_TASKS,
        cold: np.ndarray | None = None,
        clicks: np.ndarray | None = None,
    ) -> None:
        """Take the tasks of the corpus, ``trained``: targets of other tasks are only read.

        Items marked in ``cold`` [n_items] (None: none) compete with no target. ``clicks`` [n_items] are those that the
        settings' `logit_adjustment` needs.
        """
        self.module: torch.nn.Module = model
        self.model = model
        self.settings = settings
        self.logs = logs
        self.catalogue = catalogue
        self.evidence = evidence
        self.validation = validation
        self._open: dict[str, list[torch.Tensor]] = {}
        if cold is not None and cold.any():
            for task, trie in catalogue.tries.items():
                warm = torch.from_numpy(~cold).to(trie.items.device)
                self._open[task] = [beneath > 0 for beneath in counts(trie, warm)]
        #: Logits added to the nodes of the trie of recommended items.
        self._adjusted: AdjustedVocabulary | None = None
        if settings.logit_adjustment and clicks is not None:
            trie = catalogue.tries["rec"]
            self._adjusted = AdjustedVocabulary(trie, added_logits(trie, clicks, settings.logit_adjustment))
        self.processes = processes
        self.device = model.embeddings.device
        weights = {str(name): weight for name, weight in settings.task_weights.items()}
        tokens = settings.batch_tokens if self.device.type != "cpu" else min(settings.batch_tokens, _CPU_TOKENS)
        self.order = RowOrder(logs, settings.batch_size, tokens, seed, processes, weights)
        #: Factors of the tasks' losses; rows of no user are weighed by how often they are read.
        self.weights = np.ones(len(TRAINING_TASKS))
        for number, name in enumerate(LOG_TASKS):
            weight = weights.get(name, 1.0)
            self.weights[number] = weight if name in trained and isinstance(weight, int | float) else 0.0
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            parameter_groups(model, settings), betas=(0.9, 0.98), fused=True
        )

    def save(self, folder: Path) -> None:
        """Write the Hugging Face folder, and what belongs to the catalogue beside it."""
        self.model.save(folder)
        if self.evidence is not None:
            self.evidence.save(folder / EVIDENCE_FILE)

    def counts(self) -> dict[str, int]:
        """Return the counts of rows and targets for the stage's record."""
        targets = sum(len(self.logs.asked(rows)[0]) for rows in stretches(len(self.logs)))
        return {"rows": len(self.logs), "epoch_rows": self.order.epoch_rows, "targets": targets}

    def schedule(self) -> Schedule:
        """Convert the settings' epochs to optimizer steps."""
        settings = self.settings
        total = max(1, round(self.order.per_epoch * settings.epochs))
        return Schedule(
            total_steps=total,
            validate_every=max(1, round(self.order.per_epoch / settings.validations_per_epoch)),
            patience=settings.patience,
            gradient_clip=settings.gradient_clip,
            rate=RATE_SCHEDULES[settings.rate_schedule](total, settings.warmup_share),
            weight_average=settings.weight_average,
        )

    def batches(self, first_step: int) -> Iterator[RowStep]:
        """Return the steps from ``first_step`` on, each as this process' share of its micro-batches."""
        return self.order.from_step(first_step)

    def backward(self, batch: RowStep) -> Mapping[str, torch.Tensor]:
        """Compute gradients of the weighted mean loss of all targets of the step.

        Returns that mean as `loss`, and each task's mean as `loss_{task}` (words: of each word): this process'
        contribution to them.
        """
        total = max(float(self.weights @ batch.targets), 1e-9)
        sums = torch.zeros(len(TRAINING_TASKS), dtype=torch.float64, device=self.device)
        weights = send(self.weights, self.device)
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        first_seed = torch.initial_seed()

        def gradients(part: RowPart) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
            with drawing_from(first_seed + part.place, self.device):
                losses = self.losses(part.rows)
            objective = (losses * weights.to(losses.dtype)).sum() / total
            if not objective.requires_grad:
                return losses.double(), (None,) * len(parameters)
            return losses.detach().double(), torch.autograd.grad(objective, parameters, allow_unused=True)

        for losses, part_gradients in side_by_side(gradients, batch.parts, self.device):
            sums += losses
            add_gradients(parameters, part_gradients)
        by_task = {
            f"loss_{name}": sums[number] / count
            for number, (name, count) in enumerate(zip(TRAINING_TASKS, batch.targets.tolist(), strict=True))
            if count and self.weights[number]
        }
        return {"loss": (sums * weights).sum() / total, **by_task}

    def losses(self, rows: np.ndarray) -> torch.Tensor:
        """Sum up the losses of all targets of some rows by training task, [len(TRAINING_TASKS)]; 0 where unweighted.

        That of an item's other identifier is part of its target's, by `other_identifier_weight`.
        """
        batch = row_tensors(self.logs, rows, self.catalogue.nodes, self.catalogue.lead, self.device)
        vectors = self.model.drawn_nodes()
        new = self._drawn_new_queries(batch)
        queries = batch.queries.flatten().index_fill(0, self._send(batch.places[new]), NO_QUERY)
        with self._precision():
            states = self.model.states(
                batch.tokens,
                batch.nodes,
                queries.view_as(batch.queries),
                batch.positions,
                batch.mask(self.model.settings.hidden_share if self.model.training else 0.0),
                vectors,
                words=batch.words,
            )
        states = states.flatten(0, 1).float()
        task = self.logs.training_task(rows[batch.row], batch.entry)
        weighed = (task >= 0) & (self.weights[task] > 0)
        sums = torch.zeros(len(TRAINING_TASKS), device=self.device)
        other = self.settings.one_pass.other_identifier_weight
        for ranked, places in item_targets(self.logs, batch.entry).items():
            mine = places[weighed[places]]
            if len(mine):
                losses = self._item_losses(ranked, states, batch, rows, mine, vectors, new[mine])
                if other:
                    factor = np.where(self.logs.for_other(batch.entry[mine]), other, 1.0).astype(np.float32)
                    losses = losses * send(factor, self.device)
                sums = sums.index_add(0, self._send(task[mine]), losses)
        words = np.flatnonzero(weighed & np.isin(task, _WORDS))
        if len(words):
            sums = sums.index_add(0, *self._word_losses(states, batch, words, task))
        return sums

    def _drawn_new_queries(self, batch: RowTensors) -> np.ndarray:
        """Draw the entries whose query counts as one that nobody typed before, bool [entries of the batch]."""
        share = self.model.settings.query_dropout if self.model.training else 0.0
        if not share:
            return np.zeros(len(batch.entry), dtype=bool)
        # Drawn on the host, which would wait for a GPU's answer.
        return chosen((len(batch.entry),), share, torch.device("cpu")).numpy()

    def _item_losses(
        self,
        task: str,
        states: torch.Tensor,
        batch: RowTensors,
        rows: np.ndarray,
        mine: np.ndarray,
        vectors: torch.Tensor,
        new: np.ndarray,
    ) -> torch.Tensor:
        entry = batch.entry[mine]
        before = batch.places[mine][:, None] + self.catalogue.state_places(task)
        targets = self.catalogue.items[task].tokens[self.logs.object[entry]]
        adjusted = self._adjusted if task == "rec" else None
        if self.settings.likelihood == "vocabulary":
            # Chosen on the host: a GPU would make it wait for the number of real tokens.
            real = (targets >= 0) & (targets != self.model.lm.config.eos_token_id)
            real[:, 0] &= self.catalogue.first_code == 0
            first, more = adjusted.of_rows(targets) if adjusted is not None else (0, None)
            losses = cross_entropy(
                states[self._send(before[real])],
                self.model.outputs,
                self._send(targets[real]),
                self.settings.label_smoothing,
                None if more is None else more.flatten(0, 1)[self._send(np.flatnonzero(real))],
                first,
            )
            return torch.zeros(len(mine), device=self.device).index_add(0, self._send(np.nonzero(real)[0]), losses)
        evidence = None
        trie = self.catalogue.tries[task]
        if self.evidence is not None:
            asked = questions(self.logs, rows[batch.row[mine]], entry)
            asked = replace(asked, query=np.where(new, NO_QUERY, asked.query))
            evidence = self.evidence.of(asked, trie)
        added = None if adjusted is None else adjusted.added
        softmax = TrieSoftmax(
            self.model, task, trie, self.catalogue.nodes, vectors, evidence, self._open.get(task), added
        )
        places = self._send(np.minimum(before, len(states) - 1))
        question = torch.arange(len(mine), device=self.device)
        return path_losses(softmax, states[places], targets, question, self.settings.label_smoothing)

    def _word_losses(
        self, states: torch.Tensor, batch: RowTensors, asked: np.ndarray, task: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each word's task, and its loss after the words before it, over the vocabulary; both [words]."""
        words = self.logs.tokens.take(batch.entry[asked])
        within = np.arange(len(words.values)) - words.offsets[words.rows]
        wanted = within > 0
        places = batch.places[asked][words.rows[wanted]] + within[wanted] - 1
        losses = cross_entropy(
            states[self._send(places)],
            self.model.outputs,
            self._send(words.values[wanted]),
            self.settings.label_smoothing,
        )
        return self._send(task[asked][words.rows[wanted]]), losses

    def validate(self) -> Mapping[str, float]:
        """Rank the valid lists exactly and return metrics; the score is the mean NDCG@5 of the tasks."""
        metrics: dict[str, float] = {}
        for lists in self.validation:
            metrics.update(lists.metrics(self.processes))
        metrics["score"] = float(np.mean([metrics[f"{lists.task}_ndcg@5"] for lists in self.validation]))
        return metrics

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return autocast(self.device, on_cpu=self.model.lm.config.hidden_size >= 128)

    def _send(self, array: np.ndarray) -> torch.Tensor:
        return send(array, self.device).long()


def parameter_groups(model: CausalGenerator, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Group parameters for the optimizer: embeddings, vectors of nodes and queries, weights of evidence, the others."""
    rate, decay = settings.learning_rate, settings.weight_decay
    embeddings = {id(parameter) for parameter in (model.embeddings, model.outputs)}
    vectors = [model.node_vectors, model.query_vectors]
    evidence = [model.evidence_weight, model.evidence_floor]
    apart = embeddings | {id(parameter) for parameter in (*vectors, *evidence)}
    shared = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    return [
        {
            "params": [parameter for parameter in model.parameters() if id(parameter) in embeddings],
            "lr": rate * settings.embedding_rate,
            "weight_decay": 0.0,
        },
        {"params": vectors, "lr": rate, "weight_decay": decay},
        {"params": evidence, "lr": 3.0 * rate, "weight_decay": 0.0},
        {"params": shared, "lr": rate, "weight_decay": decay},
    ]

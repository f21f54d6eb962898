"""Assign examples to optimizer steps, as a function of the step's number alone.

A step is ``batch_size`` examples of a random order over the whole corpus, so that its gradient is unbiased. Sorting by
length happens inside the step: it is cut into micro-batches of similar lengths, each within a budget of padded tokens.

Examples that share a prompt stay together, so that the encoder reads the prompt once for all of them. An epoch is
therefore a random order of prompts. A step may be a little less varied, but its gradient stays unbiased.

The order of very many prompts would not fit into memory. They are divided into blocks, each of every n-th prompt, so
that a block is as varied as the whole; an epoch takes the blocks in a random order, and each in a random order.

Each time a step holds a prompt, it draws a new instruction for it, the same for all of its examples there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gensar_core.config.generators import ExamplesPerEpoch
from gensar_core.corpora.read import Examples
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import ranges, stretches
from gensar_core.runtime.seeds import generator
from gensar_core.training.blocks import BlockOrder
from gensar_core.training.processes import ALONE, Processes, shares

#: Targets up to this length form one group when a step is sorted; longer ones are grouped by powers of two.
_SHORT_TARGET = 8


@dataclass(frozen=True)
class MicroBatch:
    """Hold the arrays of one forward pass, filled with -1 past a row's end.

    ``inputs`` int32 [prompts, longest input], ``targets`` int32 [rows, longest target]; ``prompt`` int64 [rows]
    (ascending) is the input of each target, ``task`` uint8 [rows] its task, ``rows`` int64 [rows] the example's number.
    ``place`` is the micro-batch's number within its step.
    """

    inputs: np.ndarray
    targets: np.ndarray
    prompt: np.ndarray
    task: np.ndarray
    rows: np.ndarray
    place: int


@dataclass(frozen=True)
class Step:
    """Hold one process' share of an optimizer step.

    ``parts`` are its micro-batches; ``tokens`` int64 [tasks] counts the target tokens of the whole step.
    """

    parts: list[MicroBatch]
    tokens: np.ndarray


class Batches:
    """Cut ``examples`` into optimizer steps.

    An epoch is a seeded permutation. A task of weight w contributes each of its examples floor(w) times, and the
    remaining share of them, redrawn each epoch, once more. A task with a number of examples contributes that many,
    redrawn each epoch, or all it has. Weights of tasks absent from ``examples`` do not count. ``tokens`` bounds the
    padded input and target tokens of a micro-batch. ``processes`` share each step. Raises UserError if a single example
    is longer than ``tokens``, or if no example is left.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        batch_size: int,
        tokens: int,
        weights: Mapping[str, float | ExamplesPerEpoch],
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        self.examples = examples
        self.processes = processes
        self.batch_size = batch_size
        self.tokens = tokens
        self.seed = seed
        longest = prompt_tokens(examples)[1]
        if longest > tokens:
            raise UserError(
                f"batch_tokens: an example has {longest} tokens, more than the {tokens} of one forward pass; "
                f"set batch_tokens to at least {longest}"
            )
        self._order = BlockOrder(len(examples.inputs), seed)
        rows = np.stack([self._block(block).rows_of_tasks for block in range(self._order.count)])
        repeated = [
            repeats(total, weights.get(name, 1.0))
            for name, total in zip(examples.task_names, rows.sum(0).tolist(), strict=True)
        ]
        #: By task: how many times an epoch takes all of its rows; by block and task, how many more of them it draws.
        self._times = np.array([times for times, _ in repeated])
        self._more = np.stack([draws_by_block(more, rows[:, code]) for code, (_, more) in enumerate(repeated)], 1)
        self._sizes = (self._times * rows + self._more).sum(1)
        self.epoch_size = int(self._sizes.sum())
        self._latest: tuple[int, np.ndarray] | None = None
        if not self.epoch_size:
            raise UserError("task_weights: no example is left to train on; give some task a larger weight")

    def steps(self, epochs: float) -> int:
        """Return the number of optimizer steps in ``epochs`` epochs, at least one."""
        return max(1, round(epochs * self.epoch_size / self.batch_size))

    def from_step(self, step: int) -> Iterator[Step]:
        """Yield this process' share of step ``step`` and of each step after it, without end."""
        while True:
            rows = self.rows(step)
            tokens = np.zeros(len(self.examples.task_names), dtype=np.int64)
            np.add.at(tokens, self.examples.task[rows], self.examples.targets.lengths_of(rows))
            yield Step(self.micro_batches(rows, step, self.processes), tokens)
            step += 1

    def rows(self, step: int) -> np.ndarray:
        """Return the examples of one step, int64 [batch_size]; epochs follow each other without a gap."""
        start, stop = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        for epoch in range(start // self.epoch_size, math.ceil(stop / self.epoch_size)):
            begin = epoch * self.epoch_size
            for block, number in self._order.of(epoch):
                if begin < stop and begin + self._sizes[block] > start:
                    parts.append(self._visit(block, number)[max(start - begin, 0) : stop - begin])
                begin += int(self._sizes[block])
        return np.concatenate(parts)

    def micro_batches(self, rows: np.ndarray, step: int, processes: Processes = ALONE) -> list[MicroBatch]:
        """Cut a step's examples into micro-batches of similar lengths within the budget; return this process' share.

        The cuts do not depend on the processes, and shares have about equally many padded tokens.
        """
        rows = np.sort(rows)
        prompts, first, counts = np.unique(self.examples.prompt[rows], return_index=True, return_counts=True)
        chosen = self.examples.inputs.draw(self.seed, step, prompts)
        inputs = self.examples.inputs.lengths(prompts, chosen)
        targets = np.maximum.reduceat(self.examples.targets.lengths_of(rows), first)
        group = np.ceil(np.log2(np.maximum(targets, _SHORT_TARGET)))
        order = np.lexsort((prompts, inputs, group))
        ends = cuts(inputs[order], targets[order], counts[order], self.tokens)
        parts = np.split(order, ends[:-1])
        padded = [int(len(part) * inputs[part].max() + counts[part].sum() * targets[part].max()) for part in parts]
        return [
            self._micro_batch(place, prompts[part], chosen[part], rows[ranges(first[part], counts[part])], counts[part])
            for place, part in ((place, parts[place]) for place in shares(padded, processes.count)[processes.rank])
        ]

    def _micro_batch(
        self, place: int, prompts: np.ndarray, chosen: np.ndarray, rows: np.ndarray, counts: np.ndarray
    ) -> MicroBatch:
        inputs, targets = self.examples.inputs.write(prompts, chosen), self.examples.targets.take(rows)
        return MicroBatch(
            inputs.padded(int(inputs.lengths.max()), -1),
            targets.padded(int(targets.lengths.max()), -1),
            np.repeat(np.arange(len(prompts)), counts),
            self.examples.task[rows],
            rows,
            place,
        )

    def _visit(self, block: int, number: int) -> np.ndarray:
        """Return the rows of one visit of a block. The latest is cached, because consecutive steps read it."""
        if self._latest is None or self._latest[0] != number:
            draw = generator(self.seed, "epoch", number)
            prompts = self._block(block)
            taken = []
            for code, (times, more) in enumerate(zip(self._times, self._more[block], strict=True)):
                of_task = np.flatnonzero(prompts.task == code)
                whole = np.tile(of_task, times)
                taken += [(whole, prompts.rows[whole]), _some(draw.permutation(of_task), prompts.rows, int(more))]
            places, counts = (np.concatenate(both) for both in zip(*taken, strict=True))
            order = draw.permutation(len(places))
            self._latest = number, ranges(prompts.first[places[order]], counts[order])
        return self._latest[1]

    def _block(self, block: int) -> PromptBlock:
        numbers = self._order.members(block)
        first = self.examples.first_rows(numbers)
        rows = self.examples.first_rows(numbers + 1) - first
        return PromptBlock(first, rows, self.examples.task[first], len(self.examples.task_names))


@dataclass(frozen=True)
class PromptBlock:
    """Hold some prompts: their first rows, their numbers of rows and their tasks, each [prompts]."""

    first: np.ndarray
    rows: np.ndarray
    task: np.ndarray
    n_tasks: int

    @property
    def rows_of_tasks(self) -> np.ndarray:
        """Count the rows of each task, int64 [tasks]."""
        return np.bincount(self.task, self.rows, self.n_tasks).astype(np.int64)


def draws_by_block(count: int, rows: np.ndarray) -> np.ndarray:
    """Divide ``count`` draws among blocks in proportion to their ``rows`` [blocks], none more than it has of them."""
    ends = count * np.cumsum(rows) // max(int(rows.sum()), 1)
    shares: np.ndarray = np.diff(ends, prepend=0)
    return shares


def _some(prompts: np.ndarray, rows_of: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first of ``prompts`` that have ``rows`` rows together, and their counts; the last may be cut."""
    total = np.cumsum(rows_of[prompts])
    taken = prompts[: np.searchsorted(total, rows) + 1] if rows else prompts[:0]
    counts = rows_of[taken]
    if len(counts):
        counts[-1] -= total[len(taken) - 1] - rows
    return taken, counts


def prompt_tokens(examples: Examples) -> tuple[int, int]:
    """Count the maximum tokens of each prompt with all its targets, which share a forward pass.

    Returns the sum of all prompts and the largest.
    """
    total = longest = 0
    for prompts in stretches(len(examples.inputs)):
        first = examples.first_rows(np.append(prompts, prompts[-1] + 1))
        rows = np.arange(first[0], first[-1])
        targets = np.maximum.reduceat(examples.targets.lengths_of(rows), first[:-1] - first[0])
        tokens = examples.inputs.longest(prompts) + np.diff(first) * targets
        total, longest = total + int(tokens.sum()), max(longest, int(tokens.max()))
    return total, longest


def cuts(inputs: np.ndarray, targets: np.ndarray, counts: np.ndarray, tokens: int) -> list[int]:
    """Return where micro-batches end, over prompts in the given order.

    ``inputs`` are the prompts' lengths, ``targets`` the length of each one's longest target, ``counts`` its number of
    targets. Each micro-batch takes as many prompts as keep (prompts) * (longest input) + (targets) * (longest target)
    within ``tokens``, and at least one.
    """
    ends = []
    start = 0
    while start < len(inputs):
        # No more prompts than these can fit.
        window = slice(start, start + tokens // int(inputs[start] + targets[start]))
        longest_input, longest_target = np.maximum.accumulate(inputs[window]), np.maximum.accumulate(targets[window])
        padded = longest_input * np.arange(1, len(longest_input) + 1) + longest_target * np.cumsum(counts[window])
        start += max(1, int(np.searchsorted(padded, tokens, side="right")))
        ends.append(start)
    return ends


def repeats(rows: int, weight: float | ExamplesPerEpoch) -> tuple[int, int]:
    """Return how many times an epoch takes all ``rows`` of a task, and how many of them once more."""
    if isinstance(weight, ExamplesPerEpoch):
        return divmod(min(weight.examples, rows), rows) if rows else (0, 0)
    whole = math.floor(weight)
    return whole, round((weight - whole) * rows)

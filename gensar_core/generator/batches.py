"""Which examples make which optimizer step, as a function of the step's number alone.

A step is ``batch_size`` examples of a random order over the whole corpus, so that its gradient is unbiased. Sorting by
length happens inside the step: it is cut into micro-batches of like lengths, each within a budget of padded tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gensar_core.errors import UserError
from gensar_core.generator.corpus import Examples
from gensar_core.runtime.seeds import generator

#: Targets up to this length are one group when a step is sorted; longer ones are grouped by powers of two.
_SHORT_TARGET = 8


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes. Filled with -1 where a row has ended.

    ``inputs`` int32 [rows, longest input], ``targets`` int32 [rows, longest target], ``task`` uint8 [rows].
    """

    inputs: np.ndarray
    targets: np.ndarray
    task: np.ndarray


class Batches:
    """Optimizer steps over ``examples``.

    An epoch is a seeded permutation. A task of weight w gives each of its examples floor(w) times, and the remaining
    share of them, drawn anew each epoch, once more. ``tokens`` bounds the padded input and target tokens of a
    micro-batch. Raises UserError when a single example is longer, or a weight names no task.
    """

    def __init__(
        self, examples: Examples, *, batch_size: int, tokens: int, weights: Mapping[str, float], seed: int
    ) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.tokens = tokens
        self.seed = seed
        self._input_lengths = examples.inputs.lengths
        self._target_lengths = examples.targets.lengths
        longest = int((self._input_lengths + self._target_lengths).max())
        if longest > tokens:
            raise UserError(
                f"batch_tokens: an example has {longest} tokens, more than the {tokens} of one forward pass; "
                f"set batch_tokens to at least {longest}"
            )
        unknown = set(weights) - set(examples.task_names)
        if unknown:
            raise UserError(
                f"task_weights.{min(unknown)}: the corpus has no such task (there: {', '.join(examples.task_names)})"
            )
        self._rows_of = [np.flatnonzero(examples.task == code) for code in range(len(examples.task_names))]
        self._weights = [weights.get(name, 1.0) for name in examples.task_names]
        self.epoch_size = sum(
            _count(len(rows), weight) for rows, weight in zip(self._rows_of, self._weights, strict=True)
        )
        self._kept: tuple[int, np.ndarray] | None = None
        if not self.epoch_size:
            raise UserError("task_weights: no example is left to train on; give some task a larger weight")

    def steps(self, epochs: float) -> int:
        """Optimizer steps of so many epochs, at least one."""
        return max(1, round(epochs * self.epoch_size / self.batch_size))

    def from_step(self, step: int) -> Iterator[list[MicroBatch]]:
        """Micro-batches of step ``step``, of the next one, and so on without end."""
        while True:
            yield self.micro_batches(self.rows(step))
            step += 1

    def rows(self, step: int) -> np.ndarray:
        """The examples of one step, int64 [batch_size]; epochs follow each other without a gap."""
        start, stop = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        for epoch in range(start // self.epoch_size, math.ceil(stop / self.epoch_size)):
            begin = epoch * self.epoch_size
            parts.append(self._order(epoch)[max(start - begin, 0) : stop - begin])
        return np.concatenate(parts)

    def micro_batches(self, rows: np.ndarray) -> list[MicroBatch]:
        """Cut examples into micro-batches of like lengths within the budget."""
        group = np.ceil(np.log2(np.maximum(self._target_lengths[rows], _SHORT_TARGET)))
        rows = rows[np.lexsort((rows, self._input_lengths[rows], group))]
        ends = cuts(self._input_lengths[rows], self._target_lengths[rows], self.tokens)
        return [self._micro_batch(part) for part in np.split(rows, ends[:-1])]

    def _micro_batch(self, rows: np.ndarray) -> MicroBatch:
        inputs, targets = self.examples.inputs.take(rows), self.examples.targets.take(rows)
        return MicroBatch(
            inputs.padded(int(inputs.lengths.max()), -1),
            targets.padded(int(targets.lengths.max()), -1),
            self.examples.task[rows],
        )

    def _order(self, epoch: int) -> np.ndarray:
        """The permutation of one epoch. The last one is kept: steps ask for it again and again."""
        if self._kept is None or self._kept[0] != epoch:
            draw = generator(self.seed, "epoch", epoch)
            parts = []
            for rows, weight in zip(self._rows_of, self._weights, strict=True):
                parts.append(np.tile(rows, math.floor(weight)))
                parts.append(draw.permutation(rows)[: _count(len(rows), weight) - len(parts[-1])])
            self._kept = epoch, draw.permutation(np.concatenate(parts))
        return self._kept[1]


def cuts(inputs: np.ndarray, targets: np.ndarray, tokens: int) -> list[int]:
    """Where micro-batches end, over examples in the given order.

    Each takes as many examples as keep (examples) * (longest input + longest target) within ``tokens``.
    """
    ends = []
    start = 0
    while start < len(inputs):
        # More examples than these cannot fit, whatever follows.
        window = slice(start, start + tokens // int(inputs[start] + targets[start]))
        longest = np.maximum.accumulate(inputs[window]) + np.maximum.accumulate(targets[window])
        padded = longest * np.arange(1, len(longest) + 1)
        start += max(1, int(np.searchsorted(padded, tokens, side="right")))
        ends.append(start)
    return ends


def _count(rows: int, weight: float) -> int:
    whole = math.floor(weight)
    return whole * rows + round((weight - whole) * rows)

"""How click sequences become training examples, and how a history is asked for the next click.

A form belongs to an encoder: one that is causal learns at every place of a sequence at once; one that looks both ways
can only be asked about places whose item it does not see, or about the end.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.runtime.seeds import generator

#: Batches whose rows are sorted by length together, so that rows of a batch are about equally long.
_POOLED_BATCHES = 32


@dataclass(frozen=True)
class SequenceBatch:
    """Rows of one optimizer step.

    ``inputs`` int64 [rows, width]; ``places`` int64 [targets] are the asked positions of the flattened states;
    ``targets`` int64 [targets] is the item clicked at each; ``rows`` int64 [targets] the sequence each belongs to.
    """

    step: int
    inputs: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    rows: np.ndarray


class Form(abc.ABC):
    """Examples out of sequences of items 0 to ``n_items`` - 1, of which a state sees ``width`` places at most."""

    def __init__(self, width: int, n_items: int) -> None:
        self.width = width
        self.n_items = n_items

    @property
    def padding(self) -> int:
        """The input that stands for no item, in forms whose encoders see it."""
        return self.n_items

    @property
    def mask(self) -> int:
        """The input that stands for an item to be guessed."""
        return self.n_items + 1

    @abc.abstractmethod
    def examples(self, clicks: Ragged) -> tuple[np.ndarray, Ragged]:
        """The row of each training sequence and the sequences, of two items or more, from the ``clicks`` of users."""

    @abc.abstractmethod
    def batch(self, step: int, rows: np.ndarray, sequences: Ragged) -> SequenceBatch:
        """The step that trains on ``sequences``, which are the given ``rows`` of all examples."""

    @abc.abstractmethod
    def question(self, histories: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """Inputs int64 [rows, width], and which of their flattened states tells each next click; no row is empty."""


class EveryPlace(Form):
    """For causal encoders: the item after each place is its target.

    Rows are padded after their end. A padding then follows all real places and can reach none of them, so it needs
    no mask, no vector of its own, and an empty history no special case in attention.
    """

    def examples(self, clicks: Ragged) -> tuple[np.ndarray, Ragged]:
        """Windows that have each item but a user's first as a target once."""
        return windows(clicks, self.width)

    def batch(self, step: int, rows: np.ndarray, sequences: Ragged) -> SequenceBatch:
        """A target a place."""
        lengths = sequences.lengths - 1
        width = int(lengths.max())
        inputs = sequences.padded(width + 1, 0)[:, :-1].astype(np.int64)
        # The first item of a row is never a target.
        targets = np.delete(sequences.values, sequences.offsets[:-1]).astype(np.int64)
        places = ranges(np.arange(len(rows)) * width, lengths)
        return SequenceBatch(step, inputs, places, targets, np.repeat(rows, lengths))

    def question(self, histories: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """The state of the last item."""
        histories = histories.tail(self.width)
        width = int(histories.lengths.max())
        return histories.padded(width, 0).astype(np.int64), np.arange(len(histories)) * width + histories.lengths - 1


class EachPrefix(EveryPlace):
    """For causal encoders too, but each prefix of a sequence is a row, of which only what follows its end is asked."""

    def examples(self, clicks: Ragged) -> tuple[np.ndarray, Ragged]:
        """Every prefix of two items or more, or its last ``width`` + 1 items."""
        return prefixes(clicks, self.width)

    def batch(self, step: int, rows: np.ndarray, sequences: Ragged) -> SequenceBatch:
        """A target a row: its last item."""
        last = sequences.offsets[1:] - 1
        shown = Ragged.from_lengths(sequences.lengths - 1, np.delete(sequences.values, last))
        return SequenceBatch(step, *self.question(shown), sequences.values[last].astype(np.int64), rows)


class LastPlace(Form):
    """For encoders that mix all places of a fixed width and give one state a row: each prefix is an example.

    Rows are padded before their beginning, to the full width.
    """

    def examples(self, clicks: Ragged) -> tuple[np.ndarray, Ragged]:
        """Every prefix of two items or more, or its last ``width`` + 1 items."""
        return prefixes(clicks, self.width)

    def batch(self, step: int, rows: np.ndarray, sequences: Ragged) -> SequenceBatch:
        """A target a row."""
        ends = sequences.offsets[1:] - 1
        inputs = self._laid_out(sequences.padded(self.width + 1, -1, left=True)[:, :-1])
        return SequenceBatch(step, inputs, np.arange(len(rows)), sequences.values[ends].astype(np.int64), rows)

    def question(self, histories: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """The state of the last place, where the last item stands."""
        return self._laid_out(histories.padded(self.width, -1, left=True)), np.arange(len(histories))

    def _laid_out(self, items: np.ndarray) -> np.ndarray:
        return np.where(items < 0, self.padding, items).astype(np.int64)


class MaskedPlaces(Form):
    """For encoders that look both ways: masked items are the targets, and a mask after the history asks what follows.

    In each step, each item of a row is masked with probability ``share``, one at least; in a ``last_share`` of the rows
    the last item alone is, which is how a history is asked. Rows are padded after their end.
    """

    def __init__(self, width: int, n_items: int, share: float, last_share: float, seed: int) -> None:
        super().__init__(width, n_items)
        self.seed = seed
        self.share = share
        self.last_share = last_share

    def examples(self, clicks: Ragged) -> tuple[np.ndarray, Ragged]:
        """Windows of ``width`` items at most, which cover every click of users with two or more."""
        return windows(clicks, self.width - 1)

    def batch(self, step: int, rows: np.ndarray, sequences: Ragged) -> SequenceBatch:
        """Targets are what the masks hide."""
        rng = generator(self.seed, "masks", step)
        lengths, ends = sequences.lengths, sequences.offsets[1:] - 1
        masked = rng.random(len(sequences.values)) < self.share
        # One place of each row is masked in any case: its last, or any.
        last = rng.random(len(rows)) < self.last_share
        masked &= ~last[sequences.rows]
        unmasked = np.bincount(sequences.rows, weights=masked, minlength=len(rows)) == 0
        any_place = sequences.offsets[:-1] + rng.integers(lengths)
        masked[np.where(last, ends, any_place)[unmasked]] = True

        width = int(lengths.max())
        inputs = np.where(masked, self.mask, sequences.values)
        laid_out = Ragged(sequences.offsets, inputs).padded(width, self.padding).astype(np.int64)
        columns = np.arange(len(masked)) - sequences.offsets[:-1][sequences.rows]
        places = sequences.rows * width + columns
        return SequenceBatch(
            step, laid_out, places[masked], sequences.values[masked].astype(np.int64), rows[sequences.rows[masked]]
        )

    def question(self, histories: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """The state of the mask that follows the last item."""
        histories = histories.tail(self.width - 1)
        lengths = histories.lengths
        width = int(lengths.max()) + 1
        inputs = histories.padded(width, self.padding, left=False)
        inputs[np.arange(len(histories)), lengths] = self.mask
        return inputs.astype(np.int64), np.arange(len(histories)) * width + lengths


class SequenceBatches:
    """All sequences once an epoch, in an order that depends on the seed and the epoch alone.

    ``sequences`` have two items or more each.
    """

    def __init__(self, sequences: Ragged, batch_size: int, seed: int, form: Form) -> None:
        self.sequences = sequences
        self.batch_size = batch_size
        self.seed = seed
        self.form = form
        self.steps_per_epoch = max(1, -(-len(sequences) // batch_size))

    def __call__(self, first_step: int) -> Iterator[SequenceBatch]:
        """Batches of the steps ``first_step``, ``first_step`` + 1, ... without end."""
        epoch, skipped = divmod(first_step, self.steps_per_epoch)
        while True:
            for position, rows in enumerate(self._epoch(epoch)):
                if position >= skipped:
                    step = epoch * self.steps_per_epoch + position
                    yield self.form.batch(step, rows, self.sequences.take(rows))
            epoch, skipped = epoch + 1, 0

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of one epoch."""
        rng = generator(self.seed, "epoch", epoch)
        order = rng.permutation(len(self.sequences))
        pool = np.arange(len(order)) // (_POOLED_BATCHES * self.batch_size)
        order = order[np.lexsort((self.sequences.lengths[order], pool))]
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        return [batches[position] for position in rng.permutation(len(batches))]


def windows(sequences: Ragged, width: int) -> tuple[np.ndarray, Ragged]:
    """Cut sequences into windows of at most ``width`` + 1 items, so that each item but the first is a target once.

    Neighboring windows share one item: the last target of one is the first input of the next. Cuts are made from the
    end, so a sequence's last window is its longest. Returns the row of each window and the windows.
    """
    targets = np.maximum(sequences.lengths - 1, 0)
    counts = -(-targets // width)
    rows = np.repeat(np.arange(len(sequences)), counts)
    after = np.repeat(np.cumsum(counts), counts) - np.arange(len(rows)) - 1
    stops = sequences.offsets[1:][rows] - after * width
    starts = np.maximum(stops - width - 1, sequences.offsets[:-1][rows])
    lengths = stops - starts
    return rows, Ragged.from_lengths(lengths, sequences.values[ranges(starts, lengths)])


def prefixes(sequences: Ragged, width: int) -> tuple[np.ndarray, Ragged]:
    """Every prefix of two items or more, or the last ``width`` + 1 items of it: the last one is its target.

    Returns the row of each prefix and the prefixes.
    """
    counts = np.maximum(sequences.lengths - 1, 0)
    rows = np.repeat(np.arange(len(sequences)), counts)
    begins = sequences.offsets[:-1][rows]
    stops = ranges(sequences.offsets[:-1] + 2, counts)
    starts = np.maximum(stops - width - 1, begins)
    lengths = stops - starts
    return rows, Ragged.from_lengths(lengths, sequences.values[ranges(starts, lengths)])

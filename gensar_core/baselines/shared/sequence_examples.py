"""Turn click sequences into training examples, and histories into inputs that predict the next click.

The form depends on the encoder: a causal encoder learns at every place of a sequence at once; a bidirectional one can
only predict items that it does not see, or the item after the end.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import numpy as np

from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.runtime.seeds import generator


@dataclass(frozen=True)
class SequenceBatch:
    """Hold the rows of one optimizer step.

    ``inputs`` int64 [rows, width]; ``places`` int64 [targets] are the positions of the predicting states among the
    flattened states; ``targets`` int64 [targets] are the items to predict there; ``rows`` int64 [targets] are the
    sequences they belong to.
    """

    step: int
    inputs: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    rows: np.ndarray


class Cuts(abc.ABC):
    """Cut ``rows`` into sequences of two items or more, at most ``width`` + 1 each, in the order of rows.

    Sequences are made when they are asked for: they would take many times the memory of the rows. ``first`` int64
    [rows + 1] are the numbers of each row's first sequence, and their total.
    """

    def __init__(self, rows: Ragged, width: int) -> None:
        self._rows, self.width = rows, width
        self.first = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(self.counts(np.maximum(rows.lengths - 1, 0)), out=self.first[1:])

    @abc.abstractmethod
    def counts(self, targets: np.ndarray) -> np.ndarray:
        """Count the sequences of rows with so many items behind their first, int64 [rows]."""

    @abc.abstractmethod
    def stops(self, row: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Return where sequences end among the items of all rows, by row and by place among its sequences."""

    def __len__(self) -> int:
        return int(self.first[-1])

    def rows_of(self, numbers: np.ndarray) -> np.ndarray:
        """Return the row of each of these sequences, int64."""
        rows: np.ndarray = np.searchsorted(self.first, numbers, side="right") - 1
        return rows

    def lengths_of(self, numbers: np.ndarray) -> np.ndarray:
        """Return the lengths of these sequences, int64."""
        return self._spans(numbers)[1]

    def take(self, numbers: np.ndarray) -> Ragged:
        """Return these sequences, in the given order."""
        starts, lengths = self._spans(numbers)
        return Ragged.from_lengths(lengths, self._rows.values[ranges(starts, lengths)])

    def _spans(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        row = self.rows_of(numbers)
        stops = self.stops(row, numbers - self.first[row])
        starts = np.maximum(stops - self.width - 1, self._rows.offsets[row])
        return starts, stops - starts


class ClickWindows(Cuts):
    """Cut rows into windows in which each item but a row's first is a target once.

    Neighboring windows share one item: the last target of one is the first input of the next. Cuts are made from the
    end, so the last window of a row is its longest.
    """

    def counts(self, targets: np.ndarray) -> np.ndarray:
        """Count the windows."""
        return -(-targets // self.width)

    def stops(self, row: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Return the ends of windows."""
        after = self.first[row + 1] - self.first[row] - place - 1
        stops: np.ndarray = self._rows.offsets[row + 1] - after * self.width
        return stops


class ClickPrefixes(Cuts):
    """Take every prefix of a row, cut to its last items; its last item is the target."""

    def counts(self, targets: np.ndarray) -> np.ndarray:
        """Count the prefixes."""
        return targets

    def stops(self, row: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Return the ends of prefixes."""
        stops: np.ndarray = self._rows.offsets[row] + 2 + place
        return stops


class Form(abc.ABC):
    """Turn sequences of items 0 to ``n_items`` - 1 into examples in which a state sees at most ``width`` places."""

    def __init__(self, width: int, n_items: int) -> None:
        self.width = width
        self.n_items = n_items

    @property
    def padding(self) -> int:
        """Return the input that means no item, for forms whose encoders read padding."""
        return self.n_items

    @property
    def mask(self) -> int:
        """Return the input that replaces an item to predict."""
        return self.n_items + 1

    @abc.abstractmethod
    def examples(self, clicks: Ragged) -> Cuts:
        """Cut users' ``clicks`` into training sequences."""

    @abc.abstractmethod
    def batch(self, step: int, rows: np.ndarray, sequences: Ragged) -> SequenceBatch:
        """Build the batch of a step from ``sequences``, which are the given ``rows`` of all examples."""

    @abc.abstractmethod
    def question(self, histories: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs int64 [rows, width] and the flattened state that predicts each next click; no row is empty."""


class EveryPlace(Form):
    """Train causal encoders at every place: the target of a place is the next item.

    Rows are padded at the end. Padding then follows all real places and cannot affect them, so it needs no mask and no
    vector, and empty histories need no special case in attention.
    """

    def examples(self, clicks: Ragged) -> Cuts:
        """Cut windows in which each item but a user's first is a target once."""
        return ClickWindows(clicks, self.width)

    def batch(self, step: int, rows: np.ndarray, sequences: Ragged) -> SequenceBatch:
        """Build a batch with one target per place."""
        lengths = sequences.lengths - 1
        width = int(lengths.max())
        inputs = sequences.padded(width + 1, 0)[:, :-1].astype(np.int64)
        # The first item of a row is never a target.
        targets = np.delete(sequences.values, sequences.offsets[:-1]).astype(np.int64)
        places = ranges(np.arange(len(rows)) * width, lengths)
        return SequenceBatch(step, inputs, places, targets, np.repeat(rows, lengths))

    def question(self, histories: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and the state of each last item."""
        histories = histories.tail(self.width)
        width = int(histories.lengths.max())
        return histories.padded(width, 0).astype(np.int64), np.arange(len(histories)) * width + histories.lengths - 1


class EachPrefix(EveryPlace):
    """Train causal encoders on every prefix of a sequence: each prefix is a row with one target, its last item."""

    def examples(self, clicks: Ragged) -> Cuts:
        """Return every prefix of two items or more, cut to its last ``width`` + 1 items."""
        return ClickPrefixes(clicks, self.width)

    def batch(self, step: int, rows: np.ndarray, sequences: Ragged) -> SequenceBatch:
        """Build a batch with one target per row, its last item."""
        last = sequences.offsets[1:] - 1
        shown = Ragged.from_lengths(sequences.lengths - 1, np.delete(sequences.values, last))
        return SequenceBatch(step, *self.question(shown), sequences.values[last].astype(np.int64), rows)


class LastPlace(Form):
    """Train encoders that mix all places of a fixed width into one state per row: each prefix is an example.

    Rows are padded at the start, to the full width.
    """

    def examples(self, clicks: Ragged) -> Cuts:
        """Return every prefix of two items or more, cut to its last ``width`` + 1 items."""
        return ClickPrefixes(clicks, self.width)

    def batch(self, step: int, rows: np.ndarray, sequences: Ragged) -> SequenceBatch:
        """Build a batch with one target per row, its last item."""
        ends = sequences.offsets[1:] - 1
        inputs = self._laid_out(sequences.padded(self.width + 1, -1, left=True)[:, :-1])
        return SequenceBatch(step, inputs, np.arange(len(rows)), sequences.values[ends].astype(np.int64), rows)

    def question(self, histories: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and the single state of each row; the last item is at the last place."""
        return self._laid_out(histories.padded(self.width, -1, left=True)), np.arange(len(histories))

    def _laid_out(self, items: np.ndarray) -> np.ndarray:
        return np.where(items < 0, self.padding, items).astype(np.int64)


class MaskedPlaces(Form):
    """Train bidirectional encoders to predict masked items; a mask after the history predicts the next click.

    In each step, each item of a row is masked with probability ``share``, at least one per row; in a ``last_share`` of
    the rows only the last item is masked, as in prediction. Rows are padded at the end.
    """

    def __init__(self, width: int, n_items: int, share: float, last_share: float, seed: int) -> None:
        super().__init__(width, n_items)
        self.seed = seed
        self.share = share
        self.last_share = last_share

    def examples(self, clicks: Ragged) -> Cuts:
        """Cut windows of at most ``width`` items that cover every click of users with two or more clicks."""
        return ClickWindows(clicks, self.width - 1)

    def batch(self, step: int, rows: np.ndarray, sequences: Ragged) -> SequenceBatch:
        """Build a batch whose targets are the masked items."""
        rng = generator(self.seed, "masks", step)
        lengths, ends = sequences.lengths, sequences.offsets[1:] - 1
        masked = rng.random(len(sequences.values)) < self.share
        # Every row has at least one masked place: its last, or a random one.
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
        """Return inputs and the state of the mask that follows each last item."""
        histories = histories.tail(self.width - 1)
        lengths = histories.lengths
        width = int(lengths.max()) + 1
        inputs = histories.padded(width, self.padding, left=False)
        inputs[np.arange(len(histories)), lengths] = self.mask
        return inputs.astype(np.int64), np.arange(len(histories)) * width + lengths

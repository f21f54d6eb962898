"""Sequences of recommendation clicks as arrays: what sequential methods train on and are asked with.

Rows are padded after their end. Under a causal encoder a padding then follows all real positions and can reach none
of them, so padding needs no mask, no row of its own in the item table, and an empty history no special case in
attention.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from gensar_core import schema
from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.runtime.seeds import generator

#: Batches whose rows are sorted by length together, so that rows of a batch are about equally long.
_POOLED_BATCHES = 32


def recommended_clicks(events: pl.DataFrame) -> tuple[np.ndarray, Ragged]:
    """Users [rows] with recommendation clicks, and each one's clicked items in event order."""
    clicks = events.filter(pl.col("task") == "rec").sort("user_id", "event_id")
    users, counts = np.unique(clicks.get_column("user_id").to_numpy(), return_counts=True)
    return users, Ragged.from_lengths(counts, clicks.get_column("item_id").to_numpy())


def recommended_histories(samples: pl.DataFrame) -> Ragged:
    """Items of the recommendation clicks in each sample's history, oldest first."""
    behaviors = Ragged.from_series(samples.get_column("history_behavior"))
    objects = Ragged.from_series(samples.get_column("history_object"))
    return objects.filter(behaviors.values == schema.RECOMMENDED_ITEM)


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


@dataclass(frozen=True)
class SequenceBatch:
    """Rows of one optimizer step.

    ``inputs`` int64 [rows, width]; ``places`` int64 [targets] are the real positions of the flattened inputs;
    ``targets`` int64 [targets] is the item clicked after each; ``rows`` int64 [targets] the sequence each belongs to.
    """

    step: int
    inputs: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    rows: np.ndarray


class SequenceBatches:
    """All sequences once an epoch, in an order that depends on the seed and the epoch alone.

    ``sequences`` have two items or more each.
    """

    def __init__(self, sequences: Ragged, batch_size: int, seed: int) -> None:
        self.sequences = sequences
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = max(1, -(-len(sequences) // batch_size))

    def __call__(self, first_step: int) -> Iterator[SequenceBatch]:
        """Batches of the steps ``first_step``, ``first_step`` + 1, ... without end."""
        epoch, skipped = divmod(first_step, self.steps_per_epoch)
        while True:
            for position, rows in enumerate(self._epoch(epoch)):
                if position >= skipped:
                    yield self._batch(epoch * self.steps_per_epoch + position, rows)
            epoch, skipped = epoch + 1, 0

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of one epoch."""
        rng = generator(self.seed, "epoch", epoch)
        order = rng.permutation(len(self.sequences))
        pool = np.arange(len(order)) // (_POOLED_BATCHES * self.batch_size)
        order = order[np.lexsort((self.sequences.lengths[order], pool))]
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        return [batches[position] for position in rng.permutation(len(batches))]

    def _batch(self, step: int, rows: np.ndarray) -> SequenceBatch:
        taken = self.sequences.take(rows)
        lengths = taken.lengths - 1
        width = int(lengths.max())
        inputs = taken.padded(width + 1, 0)[:, :-1].astype(np.int64)
        # The first item of a row is never a target.
        targets = np.delete(taken.values, taken.offsets[:-1]).astype(np.int64)
        places = ranges(np.arange(len(rows)) * width, lengths)
        return SequenceBatch(step, inputs, places, targets, np.repeat(rows, lengths))


class SequenceEncoder(torch.nn.Module, abc.ABC):
    """Items -> states, causally: no state depends on a later item.

    ``items`` is the table that states are compared with; ``seen`` bool [n_items] says which items training has shown.
    """

    seen: torch.Tensor

    def __init__(self, n_items: int, dimensions: int) -> None:
        super().__init__()
        self.items = torch.nn.Embedding(n_items, dimensions)
        self.register_buffer("seen", torch.zeros(n_items, dtype=torch.bool))

    @abc.abstractmethod
    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """States [rows, width, dimensions] after each of the items int64 [rows, width]."""


def last_states(
    encoder: SequenceEncoder, histories: Ragged, width: int, device: torch.device, *, batch_size: int = 1024
) -> torch.Tensor:
    """The encoder's state after the last item of each history, float32 [rows, dimensions], on ``device``.

    The state of an empty history is zero: it prefers nothing.
    """
    histories = histories.tail(width)
    lengths = histories.lengths
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    states = torch.zeros(len(histories), encoder.items.embedding_dim, device=device)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        longest = int(lengths[rows[-1]])
        items = torch.from_numpy(histories.take(rows).padded(longest, 0).astype(np.int64)).to(device)
        last = torch.from_numpy(lengths[rows] - 1).to(device)
        places = torch.arange(len(rows), device=device)
        states[torch.from_numpy(rows).to(device)] = encoder(items)[places, last].to(states.dtype)
    return states

"""Extract sequences of recommendation clicks as arrays, and encode them."""

from __future__ import annotations

import abc

import numpy as np
import polars as pl
import torch

from gensar_core import schema
from gensar_core.baselines.shared.sequence_examples import Form
from gensar_core.baselines.shared.text_item_vectors import TextItems
from gensar_core.runtime.arrays import Ragged, stretches
from gensar_core.runtime.device import send


def recommended_histories(samples: pl.DataFrame) -> Ragged:
    """Return the items of the recommendation clicks in each sample's history, oldest first."""
    behaviors = Ragged.from_series(samples.get_column("history_behavior"))
    objects = Ragged.from_series(samples.get_column("history_object"))
    return objects.filter(behaviors.values == schema.RECOMMENDED_ITEM)


class SequenceEncoder(torch.nn.Module, abc.ABC):
    """Encode items as states; an item's score is its inner product with a state, plus its bias unless None.

    ``items`` is the table of item vectors; ``seen`` bool [n_items] marks the items that training showed.
    """

    items: torch.nn.Embedding | TextItems
    seen: torch.Tensor
    bias: torch.nn.Parameter | None

    def __init__(self, n_items: int, dimensions: int, *, bias: bool = False) -> None:
        super().__init__()
        self.items = torch.nn.Embedding(n_items, dimensions)
        self.bias = torch.nn.Parameter(torch.zeros(n_items)) if bias else None
        self.register_buffer("seen", torch.zeros(n_items, dtype=torch.bool))

    @abc.abstractmethod
    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Compute states [rows, width, dimensions] of inputs int64 [rows, width], laid out by the method's form.

        A method whose form predicts from one place only returns that state, [rows, 1, dimensions].
        """

    def states(self, inputs: np.ndarray, places: np.ndarray) -> torch.Tensor:
        """Compute states [places, columns] at the given places of the flattened states, to multiply `table`."""
        device = self.items.weight.device
        states = self(send(inputs, device)).flatten(0, 1)
        states = states.index_select(0, send(places, device))
        return states if self.bias is None else torch.cat([states, states.new_ones(len(states), 1)], dim=1)

    def table(self) -> torch.Tensor:
        """Return the matrix that states multiply, [n_items, columns]: the bias is an extra column, against ones."""
        return self.items.weight if self.bias is None else torch.cat([self.items.weight, self.bias[:, None]], dim=1)

    @torch.no_grad()
    def settle_unseen(self) -> None:
        """Set the vectors and biases of unseen items to the mean of the seen ones, since theirs are still random."""
        vectors = self.items.weight if isinstance(self.items, torch.nn.Embedding) else None
        for learned in (vectors, self.bias):
            if learned is not None:
                learned[~self.seen] = learned[self.seen].mean(dim=0)


def mark(seen: torch.Tensor, numbers: np.ndarray) -> None:
    """Set ``seen`` at these numbers, a stretch at a time: they may be mapped from the disk."""
    for places in stretches(len(numbers)):
        seen[torch.from_numpy(numbers[places].astype(np.int64))] = True


def last_states(encoder: SequenceEncoder, form: Form, histories: Ragged, *, batch_size: int = 1024) -> torch.Tensor:
    """Compute the state that predicts each history's next click, float32 [rows, columns], on the encoder's device.

    The state of an empty history is zero: it prefers no item.
    """
    lengths = np.minimum(histories.lengths, form.width)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    table = encoder.table()
    states = torch.zeros(len(histories), table.shape[1], device=table.device)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        last = encoder.states(*form.question(histories.take(rows)))
        states[send(rows, table.device)] = last.to(states.dtype)
    return states

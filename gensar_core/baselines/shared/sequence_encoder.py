"""Sequences of recommendation clicks as arrays, and what encodes them."""

from __future__ import annotations

import abc

import numpy as np
import polars as pl
import torch

from gensar_core import schema
from gensar_core.baselines.shared.sequence_examples import Form
from gensar_core.baselines.shared.text_item_vectors import TextItems
from gensar_core.runtime.arrays import Ragged


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


class SequenceEncoder(torch.nn.Module, abc.ABC):
    """Items -> states, which are compared with items by inner products, plus a bias of the item if there is one.

    ``items`` is the table that states are compared with; ``seen`` bool [n_items] says which items training has shown.
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
        """States [rows, width, dimensions] of inputs int64 [rows, width], laid out by the method's form.

        A method whose form asks one place alone gives that state alone, [rows, 1, dimensions].
        """

    def states(self, inputs: np.ndarray, places: np.ndarray) -> torch.Tensor:
        """States [places, columns] at some places of all states flattened, to be multiplied with `table`."""
        device = self.items.weight.device
        states = self(torch.from_numpy(inputs).to(device)).flatten(0, 1)
        states = states.index_select(0, torch.from_numpy(places).to(device))
        return states if self.bias is None else torch.cat([states, states.new_ones(len(states), 1)], dim=1)

    def table(self) -> torch.Tensor:
        """What states are multiplied with, [n_items, columns]: a bias is one more column, against ones."""
        return self.items.weight if self.bias is None else torch.cat([self.items.weight, self.bias[:, None]], dim=1)

    @torch.no_grad()
    def settle_unseen(self) -> None:
        """Give items that training never showed the mean of the others: their own vectors are still random."""
        own = self.items.weight if isinstance(self.items, torch.nn.Embedding) else None
        for learned in (own, self.bias):
            if learned is not None:
                learned[~self.seen] = learned[self.seen].mean(dim=0)


def last_states(encoder: SequenceEncoder, form: Form, histories: Ragged, *, batch_size: int = 1024) -> torch.Tensor:
    """The state that tells what follows each history, float32 [rows, columns], on the encoder's device.

    The state of an empty history is zero: it prefers nothing.
    """
    lengths = np.minimum(histories.lengths, form.width)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    table = encoder.table()
    states = torch.zeros(len(histories), table.shape[1], device=table.device)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        found = encoder.states(*form.question(histories.take(rows)))
        states[torch.from_numpy(rows).to(table.device)] = found.to(states.dtype)
    return states

"""What models share that score a few candidates of a row: their settings, their tables, and their loss."""

from __future__ import annotations

import abc
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.target_rows import RowBatch
from gensar_core.baselines.shared.text_item_vectors import TextItems
from gensar_core.config.base import Count, Positive, Rate, Settings, Share


class RankedSettings(Settings):
    """How a method is trained on rows."""

    dimensions: Positive = 64
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    #: The part of a history that the method sees: the last recommendation clicks and search sessions.
    max_recommendations: Count = 30
    max_searches: Count = 30
    #: bce: mean over a row's candidates; softmax: cross-entropy of the target among them.
    loss: Literal["bce", "softmax"] = "bce"
    #: A row's negatives: those stored for it, and so many drawn anew in each epoch in proportion to the task's
    #: clicks ** popularity_power.
    stored_negatives: bool = True
    sampled_negatives: Count = 0
    popularity_power: Share = 1.0
    #: Rows of the task with more rows; the other task's batches are smaller, so that both end an epoch together.
    batch_size: Positive = 1024
    learning_rate: Rate = 1.0e-3
    #: Factor on the learning rate of learned vectors (of items, users, words, queries, places). Where they meet in a
    #: network, they need longer steps than its matrices, which every target moves.
    embedding_rate: Rate = 1.0
    #: Of all parameters but biases.
    weight_decay: Annotated[float, Field(ge=0.0)] = 1.0e-5
    epochs: Positive = 100
    #: Let the learning rate fall to zero along a cosine over `epochs`, in place of falling on a plateau.
    falling_rate: bool = False
    #: Validate every so many epochs, on at most so many targets a task (0: all); stop after `patience` times without a
    #: gain, and after `plateau_patience` lower the learning rate to a tenth.
    validate_every: Positive = 1
    validation_users: Count = 0
    patience: Positive = 5
    plateau_patience: Positive = 3


class RowModel(torch.nn.Module, abc.ABC):
    """A batch of rows -> logits of its candidates.

    ``items`` and ``users`` (unless ``user_size`` is 0) are the tables of learned vectors; ``seen_items`` [n_items],
    ``seen_users`` [n_users] and ``seen_queries`` [n_queries] say which of them training has shown.
    """

    items: torch.nn.Embedding | TextItems
    seen_items: torch.Tensor
    seen_users: torch.Tensor
    seen_queries: torch.Tensor
    #: Whether the queries of histories are read, beside the one that is asked.
    reads_past_queries: ClassVar[bool] = False

    def __init__(self, data: MethodData, item_size: int, user_size: int = 0) -> None:
        super().__init__()
        self.items = torch.nn.Embedding(data.n_items, item_size)
        self.users = torch.nn.Embedding(data.n_users, user_size) if user_size else None
        self.register_buffer("seen_items", torch.zeros(data.n_items, dtype=torch.bool))
        self.register_buffer("seen_users", torch.zeros(data.n_users, dtype=torch.bool))
        self.register_buffer("seen_queries", torch.zeros(data.n_queries, dtype=torch.bool))

    def tables(self) -> list[torch.nn.Embedding]:
        """The tables of learned vectors: of items, users, words, queries and places."""
        return [part for part in self.modules() if isinstance(part, torch.nn.Embedding)]

    @abc.abstractmethod
    def forward(self, batch: RowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits [rows, width] of the batch's candidates; and, in training, further losses, weighted, by name."""

    def item_vectors(self) -> torch.Tensor:
        """The learned vector of every item [n_items, dimensions]."""
        return self.items.weight

    def query_table(self) -> torch.nn.Embedding | None:
        """The table of vectors that queries have of their own, beside those of their words, if there is one."""
        return None

    @torch.no_grad()
    def settle_unseen(self) -> None:
        """Give items, users and queries that training never showed the mean of the others: theirs are still random.

        Where it has shown none, they are zero.
        """
        tables = (self.items, self.seen_items), (self.users, self.seen_users), (self.query_table(), self.seen_queries)
        for table, seen in tables:
            if isinstance(table, torch.nn.Embedding):
                table.weight[~seen] = table.weight[seen].mean(dim=0) if seen.any() else 0.0


def ranking_loss(logits: torch.Tensor, present: torch.Tensor, loss: str) -> torch.Tensor:
    """Loss of logits [rows, width] whose positive stands in column 0, over the places that are ``present``."""
    if loss == "softmax":
        return (torch.logsumexp(logits.masked_fill(~present, -torch.inf), dim=1) - logits[:, 0]).mean()
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1.0
    return functional.binary_cross_entropy_with_logits(logits[present], labels[present])


def parameter_groups(model: RowModel, settings: RankedSettings) -> list[dict[str, Any]]:
    """Group the weights for the optimizer: tables of vectors have a rate of their own, biases do not decay."""
    tables = {id(table.weight) for table in model.tables()}
    decay = settings.weight_decay
    groups: dict[str, dict[str, Any]] = {
        "weights": {"params": [], "weight_decay": decay},
        "biases": {"params": [], "weight_decay": 0.0},
        "tables": {"params": [], "weight_decay": decay, "lr": settings.learning_rate * settings.embedding_rate},
    }
    for name, parameter in model.named_parameters():
        group = "tables" if id(parameter) in tables else "biases" if name.endswith("bias") else "weights"
        groups[group]["params"].append(parameter)
    return list(groups.values())

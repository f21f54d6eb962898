"""Define settings, vector tables and the loss of models that score a few candidates per row."""

from __future__ import annotations

import abc
import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.target_rows import RowBatch
from gensar_core.baselines.shared.text_item_vectors import TextItems
from gensar_core.baselines.shared.trained_method import TrainedSettings
from gensar_core.config.base import Count, Positive, Rate, Share
from gensar_core.config.search_spaces import Among, Between


class RankedSettings(TrainedSettings):
    """Configure the training of a method on rows."""

    dimensions: Annotated[Positive, Among((32, 64, 128))] = 64
    dropout: Annotated[float, Field(ge=0.0, lt=1.0), Between(0.0, 0.5)] = 0.1
    max_recommendations: Count = 30
    """Length of the history that the method reads: the last recommendation clicks and search sessions."""
    max_searches: Count = 30
    loss: Literal["bce", "softmax"] = "bce"
    """bce: binary cross-entropy, averaged over the candidates; softmax: cross-entropy of the target among a row's
    candidates."""
    stored_negatives: bool = True
    """Negatives of a row: the stored ones, plus `sampled_negatives` drawn anew in each epoch in proportion to the
    task's clicks ** popularity_power."""
    sampled_negatives: Count = 0
    popularity_power: Share = 1.0
    batch_size: Positive = 1024
    """Batch size of the task with more rows; the other task's batches are smaller, so that both finish an epoch
    together."""
    embedding_rate: Rate = 1.0
    """Factor on the learning rate of learned vectors (of items, users, words, queries, places). As inputs of a network
    they need longer steps than its matrices, which every target moves."""
    weight_decay: Annotated[float, Field(ge=0.0), Between(1.0e-7, 1.0e-3, log=True)] = 1.0e-5
    """Applies to all parameters except biases."""
    falling_rate: bool = False
    """Decay the learning rate to zero along a cosine over `epochs`, instead of lowering it on a plateau."""
    validate_every: Positive = 1
    """Epochs between validations."""
    plateau_patience: Positive = 3
    """Lower the learning rate to a tenth after this many validations without a gain."""


class JointSettings(RankedSettings):
    """Configure the training of one model for both tasks."""

    search_weight: Annotated[Rate, Between(0.1, 10.0, log=True)] = 1.0
    """Weight of the search loss."""


class RowModel(torch.nn.Module, abc.ABC):
    """Map a batch of rows to logits of its candidates.

    ``items`` and ``users`` (unless ``user_size`` is 0) are tables of learned vectors; ``seen_items`` [n_items],
    ``seen_users`` [n_users] and ``seen_queries`` [n_queries] mark those that training showed.
    """

    items: torch.nn.Embedding | TextItems
    seen_items: torch.Tensor
    seen_users: torch.Tensor
    seen_queries: torch.Tensor
    #: True for a model that also reads the queries of histories, not only the target's query.
    reads_past_queries: ClassVar[bool] = False

    def __init__(self, data: MethodData, item_size: int, user_size: int = 0) -> None:
        super().__init__()
        self.items = torch.nn.Embedding(data.n_items, item_size)
        self.users = torch.nn.Embedding(data.n_users, user_size) if user_size else None
        self.register_buffer("seen_items", torch.zeros(data.n_items, dtype=torch.bool))
        self.register_buffer("seen_users", torch.zeros(data.n_users, dtype=torch.bool))
        self.register_buffer("seen_queries", torch.zeros(data.n_queries, dtype=torch.bool))

    def tables(self) -> list[torch.nn.Embedding]:
        """Return the tables of learned vectors: items, users, words, queries and places."""
        return [part for part in self.modules() if isinstance(part, torch.nn.Embedding)]

    @abc.abstractmethod
    def forward(self, batch: RowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the candidates' logits [rows, width] and, in training, further losses, weighted, by name."""

    def item_vectors(self) -> torch.Tensor:
        """Return the learned vector of every item [n_items, dimensions]."""
        return self.items.weight

    def query_table(self) -> torch.nn.Embedding | None:
        """Return the table of vectors learned per query, besides those of words; None without one."""
        return None

    @torch.no_grad()
    def settle_unseen(self) -> None:
        """Set the still random vectors of unseen items, users and queries to the mean of the seen ones.

        Where none was seen, the vectors become zero.
        """
        tables = (self.items, self.seen_items), (self.users, self.seen_users), (self.query_table(), self.seen_queries)
        for table, seen in tables:
            if isinstance(table, torch.nn.Embedding):
                table.weight[~seen] = table.weight[seen].mean(dim=0) if seen.any() else 0.0


def sinusoids(places: int, dimensions: int) -> torch.Tensor:
    """Return position vectors [places, dimensions], counted from 0 (Vaswani et al., 2017, Section 3.5)."""
    rates = torch.exp(torch.arange(0, dimensions, 2) * (-math.log(10000.0) / dimensions))
    angles = torch.arange(places)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def ranking_loss(logits: torch.Tensor, present: torch.Tensor, loss: str) -> torch.Tensor:
    """Compute the loss of logits [rows, width] with the positive in column 0, over ``present`` candidates only."""
    if loss == "softmax":
        return (torch.logsumexp(logits.masked_fill(~present, -torch.inf), dim=1) - logits[:, 0]).mean()
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1.0
    return functional.binary_cross_entropy_with_logits(logits[present], labels[present])


def weight_groups(model: RowModel, settings: RankedSettings) -> list[dict[str, Any]]:
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

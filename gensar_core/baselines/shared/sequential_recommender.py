"""Train methods that read a user's recommendation clicks in order and predict the next one.

A method adds an encoder (items -> states), its settings and, unless it is causal, the form of its examples. This module
provides data, losses and scoring.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch.nn import functional

from gensar_core.baselines.shared.next_item_losses import (
    PopularityNegatives,
    UnseenNegatives,
    binary,
    bpr_max,
    full_softmax,
    generalized_binary,
    sampled_softmax,
)
from gensar_core.baselines.shared.sequence_encoder import (
    SequenceEncoder,
    last_states,
    mark,
    recommended_histories,
)
from gensar_core.baselines.shared.sequence_examples import EachPrefix, EveryPlace, Form, SequenceBatch
from gensar_core.baselines.shared.trained_method import (
    TrainedMethod,
    TrainedSettings,
    Training,
    pooled_batches,
)
from gensar_core.config.base import Positive, Rate, Share
from gensar_core.config.search_spaces import Among, Between
from gensar_core.embeddings.sequential import ItemVectors
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists
from gensar_core.ranking.validation_candidates import ValidLists
from gensar_core.runtime.arrays import Ragged, stretches
from gensar_core.runtime.device import send
from gensar_core.runtime.seeds import generator
from gensar_core.samples.user_clicks import UserClicks
from gensar_core.training.blocks import BlockOrder
from gensar_core.training.loop import Schedule, warmup_cosine
from gensar_core.training.state import TrainingRecord

#: Candidate lists per scoring batch.
_LISTS_AT_ONCE = 1024
#: Batches whose rows are sorted by length together, so that the rows of a batch have similar lengths.
_POOLED_BATCHES = 32


class SequentialSettings(TrainedSettings):
    """Configure the training of a sequential method."""

    dimensions: Annotated[Positive, Among((32, 64, 128))] = 64
    dropout: Annotated[float, Field(ge=0.0, lt=1.0), Between(0.0, 0.7)] = 0.5
    max_history: Positive = 50
    """Maximum number of clicks that a state depends on."""
    loss: Literal["softmax", "sampled_softmax", "bce", "gbce", "bpr_max"] = "sampled_softmax"
    """softmax: over the catalogue; sampled_softmax, gbce, bpr_max: against `negatives` items shared by a batch; bce:
    against one item that the user has not clicked."""
    negatives: Positive = 512
    popularity_power: Share = 1.0
    """Shared negatives are drawn in proportion to clicks ** popularity_power (gbce requires 0)."""
    calibration: Share = 0.75
    """For gbce: 0 is plain binary cross-entropy, 1 targets the scores of a softmax."""
    score_regularization: Annotated[float, Field(ge=0.0)] = 1.0
    """For bpr_max: weight of the negatives' squared scores."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    gradient_clip: Rate | None = None
    """Maximum gradient norm; longer gradients are scaled down to it."""
    falling_rate: bool = False
    """Decay the learning rate to zero along a cosine over `epochs`; otherwise it is constant."""
    validate_every: Positive = 1
    """Epochs between validations."""


class CausalSettings(SequentialSettings):
    """Configure a method whose states see no later click, which can be trained at all places of a sequence at once."""

    rows: Annotated[Literal["sequences", "prefixes"], Among(("sequences", "prefixes"))] = "sequences"
    """Training rows: users' sequences with a target at every place, or all their prefixes with a target at the end.
    Prefixes of all users are shuffled, so a step sees more users and fewer targets of each. Prefixes cost a few
    times as much per epoch, learn more from it, and recommended better wherever both were tried (docs/tuning.md)."""


S = TypeVar("S", bound=SequentialSettings)
C = TypeVar("C", bound=CausalSettings)


class SequentialRecommender(TrainedMethod[S, SequenceEncoder]):
    """Recommend by the inner product of an encoded click sequence and each item's vector.

    An item that training never showed gets the mean vector of the others, and is counted in the stage's record.
    """

    tasks: ClassVar[tuple[str, ...]] = ("rec",)
    inputs: ClassVar[tuple[str, ...]] = ("clicks",)

    @property
    @abc.abstractmethod
    def form(self) -> Form:
        """Return the form that turns sequences into examples."""

    def optimizer(self) -> torch.optim.Optimizer:
        """Build the encoder's optimizer."""
        settings = self.settings
        # Fused: one pass over the weights instead of a dozen, which matters when the item table dominates the model.
        return torch.optim.Adam(
            self.module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    def training(self) -> SequenceTraining:
        """Gather training sequences and the valid candidates."""
        lists = self.valid_lists()
        if not lists:
            raise UserError(f"{self.data.samples_folder}: no user has a valid target of recommendation to choose by")
        return SequenceTraining(self, lists)

    def finish(self, training: SequenceTraining, record: TrainingRecord) -> dict[str, Any]:  # noqa: ARG002
        """Give unseen items the mean vector, and count them."""
        self.module.settle_unseen()
        return {
            "training_sequences": len(training.sequences),
            "unseen_items": int((~self.module.seen).sum()),
        }

    @torch.no_grad()
    def states(self, histories: Ragged) -> torch.Tensor:
        """Compute the state that predicts each history's next click, float32 [rows, columns], to multiply `table`."""
        self.module.eval()
        return last_states(self.module, self.form, histories)

    @torch.no_grad()
    def score(self, lists: CandidateLists) -> np.ndarray:
        """Score candidates by inner products with the last state."""
        states, table = self.states(recommended_histories(lists.samples)), self.module.table()
        items = torch.from_numpy(np.maximum(lists.items, 0).astype(np.int64))
        scores = [
            torch.bmm(functional.embedding(rows.to(table.device), table), state[:, :, None]).squeeze(2)
            for rows, state in zip(torch.split(items, _LISTS_AT_ONCE), torch.split(states, _LISTS_AT_ONCE), strict=True)
        ]
        return np.asarray(torch.cat(scores).cpu())

    @torch.no_grad()
    def score_catalogue(self, samples: pl.DataFrame) -> np.ndarray:
        """Score all items by inner products with the last state."""
        return np.asarray((self.states(recommended_histories(samples)) @ self.module.table().T).cpu())

    def item_vectors(self) -> ItemVectors:
        """Return the learned item vectors."""
        return ItemVectors(self.module.items.weight.detach().cpu().numpy(), self.module.seen.cpu().numpy())


class CausalRecommender(SequentialRecommender[C]):
    """Train and score a sequential method with a causal encoder."""

    @functools.cached_property
    def form(self) -> EveryPlace:
        """Return the form of the examples: sequences, or each of their prefixes."""
        form = EachPrefix if self.settings.rows == "prefixes" else EveryPlace
        return form(self.settings.max_history, self.data.n_items)


class SequenceTraining(Training):
    """Train an encoder on click sequences."""

    method: SequentialRecommender[Any]

    def __init__(self, method: SequentialRecommender[Any], lists: Mapping[str, ValidLists]) -> None:
        settings, data = method.settings, method.data
        clicks = UserClicks.read(data.events_file, "rec").items
        self.sequences = method.form.examples(clicks)
        if not len(self.sequences):
            raise UserError(
                f"{data.samples_folder}: too few recommendation clicks to train on: no user has two in training"
            )
        super().__init__(method, lists)
        self.order = BlockOrder(len(self.sequences), method.seed)
        self.steps_per_epoch = sum(self.order.steps(settings.batch_size))
        for users in stretches(len(clicks)):
            mark(method.module.seen, clicks.take(users[clicks.lengths_of(users) > 1]).values)
        self.loss = _loss(method, clicks, self.sequences.rows_of)

    @property
    def schedule(self) -> Schedule:
        """Validate after every `validate_every` epochs."""
        settings = self.method.settings
        return Schedule(
            total_steps=self.total_steps,
            validate_every=self.steps_per_epoch * settings.validate_every,
            patience=settings.patience,
            gradient_clip=settings.gradient_clip,
            rate=warmup_cosine(self.total_steps, 0.0) if settings.falling_rate else None,
            weight_average=settings.weight_average,
        )

    def epoch(self, number: int) -> Iterator[np.ndarray]:
        """Yield the sequences of each step."""
        size = self.method.settings.batch_size
        for block, visit in self.order.of(number):
            members = self.order.members(block)
            pool = np.arange(len(members)) // (_POOLED_BATCHES * size)
            rng = generator(self.method.seed, "epoch", visit)
            cuts = range(size, len(members), size)
            for rows in pooled_batches(self.sequences.lengths_of(members), pool, cuts, rng):
                yield members[rows]

    def backward(self, batch: tuple[int, np.ndarray]) -> Mapping[str, torch.Tensor]:
        """Run one step."""
        step, rows = batch
        encoder = self.method.module
        examples = self.method.form.batch(step, rows, self.sequences.take(rows))
        loss = self.loss(encoder.states(examples.inputs, examples.places), encoder.table(), examples)
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}


_Loss = Callable[[torch.Tensor, torch.Tensor, SequenceBatch], torch.Tensor]


def _loss(method: SequentialRecommender[Any], clicks: Ragged, users: Callable[[np.ndarray], np.ndarray]) -> _Loss:
    """Build the configured loss over states [targets, columns], the item table and the states' batch.

    ``clicks`` are each user's training clicks; ``users`` maps training sequences to their rows in them. Cold items are
    no negatives: the loss is that of a catalogue without them.
    """
    settings, data, seed = method.settings, method.data, method.seed
    warm = np.flatnonzero(~data.cold)
    # Place of each warm item among the warm ones.
    place = np.cumsum(~data.cold) - 1
    popular = PopularityNegatives(data.clicks("rec")[warm], settings.popularity_power, seed)
    unseen = None
    if settings.loss == "bce":
        unseen = UnseenNegatives(clicks, place, len(warm), seed, data.samples_folder)

    def loss(states: torch.Tensor, table: torch.Tensor, batch: SequenceBatch) -> torch.Tensor:
        def moved(array: np.ndarray) -> torch.Tensor:
            return send(array, table.device)

        targets = moved(place[batch.targets])
        if len(warm) < len(table):
            table = table[moved(warm)]
        if settings.loss == "softmax":
            return full_softmax(states, targets, table)
        if unseen is not None:
            return binary(states, targets, table, moved(unseen.draw(batch.step, users(batch.rows))))
        negatives = moved(popular.draw(batch.step, settings.negatives))
        if settings.loss == "gbce":
            return generalized_binary(states, targets, table, negatives, settings.calibration)
        if settings.loss == "bpr_max":
            return bpr_max(states, targets, table, negatives, settings.score_regularization)
        return sampled_softmax(states, targets, table, negatives)

    return loss

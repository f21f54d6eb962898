"""Train methods that read a user's recommendation clicks in order and predict the next one.

A method adds an encoder (items -> states), its settings and the form of its examples (`causal_recommender` has those of
causal encoders). This module provides data, losses, training, early stopping and scoring.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
import polars as pl
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch.nn import functional

from gensar_core.baselines.interface import Method
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
    recommended_clicks,
    recommended_histories,
)
from gensar_core.baselines.shared.sequence_examples import Form, SequenceBatch, SequenceBatches
from gensar_core.config.base import Count, Positive, Rate, Settings, Share
from gensar_core.embeddings.sequential import ItemVectors
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists, load_candidates
from gensar_core.ranking.metrics import average_ranks, hit_rate, ndcg
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import pick_device
from gensar_core.runtime.seeds import derive_seed
from gensar_core.training.loop import Schedule, train, warmup_cosine

#: Candidate lists per scoring batch.
_LISTS_AT_ONCE = 1024


class SequentialSettings(Settings):
    """Configure the training of a sequential method."""

    dimensions: Positive = 64
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
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
    batch_size: Positive = 256
    learning_rate: Rate = 1.0e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    gradient_clip: Rate | None = None
    """Maximum gradient norm; longer gradients are scaled down to it."""
    epochs: Positive = 100
    falling_rate: bool = False
    """Decay the learning rate to zero along a cosine over `epochs`; otherwise it is constant."""
    validate_every: Positive = 1
    """Validate every `validate_every` epochs on at most `validation_users` users (0: all); stop after `patience`
    validations without a gain."""
    validation_users: Count = 0
    patience: Positive = 5


S = TypeVar("S", bound=SequentialSettings)


class SequentialRecommender(Method[S]):
    """Recommend by the inner product of an encoded click sequence and each item's vector.

    An item that training never showed gets the mean vector of the others, and is counted in the stage's record.
    """

    tasks: ClassVar[tuple[str, ...]] = ("rec",)
    inputs: ClassVar[tuple[str, ...]] = ("clicks",)

    @abc.abstractmethod
    def build(self) -> SequenceEncoder:
        """Build an untrained encoder for `data.n_items` items on the CPU."""

    @functools.cached_property
    def encoder(self) -> SequenceEncoder:
        """Return the encoder, initialized from the seed until it is trained or loaded."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "initialization"))
            return self.build().to(pick_device())

    @property
    @abc.abstractmethod
    def form(self) -> Form:
        """Return the form that turns sequences into examples."""

    def optimizer(self) -> torch.optim.Optimizer:
        """Build the encoder's optimizer."""
        # Fused: one pass over the weights instead of a dozen, which matters when the item table dominates the model.
        return torch.optim.Adam(
            self.encoder.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:
        """Train with early stopping on NDCG@5 over the valid candidates."""
        task = SequenceTraining(self, self._validation())
        epoch = task.batches.steps_per_epoch
        validate_every = epoch * self.settings.validate_every
        schedule = Schedule(
            total_steps=epoch * self.settings.epochs,
            validate_every=validate_every,
            patience=self.settings.patience,
            gradient_clip=self.settings.gradient_clip,
            rate=warmup_cosine(epoch * self.settings.epochs, 0.0) if self.settings.falling_rate else None,
        )
        name = type(self).__name__
        record = train(task, schedule, seed=self.seed, description=name, checkpoints=checkpoints, key=key)
        self.encoder.settle_unseen()
        return {
            "training_sequences": len(task.batches.sequences),
            "unseen_items": int((~self.encoder.seen).sum()),
            "steps": record.steps,
            "best_step": record.best_step,
            "best_valid_ndcg@5": record.best_score,
            "curve": record.history,
        }

    @torch.no_grad()
    def states(self, histories: Ragged) -> torch.Tensor:
        """Compute the state that predicts each history's next click, float32 [rows, columns], to multiply `table`."""
        self.encoder.eval()
        return last_states(self.encoder, self.form, histories)

    @torch.no_grad()
    def score(self, lists: CandidateLists) -> np.ndarray:
        """Score candidates by inner products with the last state."""
        states, table = self.states(recommended_histories(lists.samples)), self.encoder.table()
        items = torch.from_numpy(np.maximum(lists.items, 0).astype(np.int64))
        scores = [
            torch.bmm(functional.embedding(rows.to(table.device), table), state[:, :, None]).squeeze(2)
            for rows, state in zip(torch.split(items, _LISTS_AT_ONCE), torch.split(states, _LISTS_AT_ONCE), strict=True)
        ]
        found: np.ndarray = torch.cat(scores).cpu().numpy()
        return found

    @torch.no_grad()
    def score_catalogue(self, samples: pl.DataFrame) -> np.ndarray:
        """Score all items by inner products with the last state."""
        scores: np.ndarray = (self.states(recommended_histories(samples)) @ self.encoder.table().T).cpu().numpy()
        return scores

    def item_vectors(self) -> ItemVectors:
        """Return the learned item vectors."""
        return ItemVectors(self.encoder.items.weight.detach().cpu().numpy(), self.encoder.seen.cpu().numpy())

    def save(self, folder: Path) -> None:
        """Write model.safetensors."""
        weights = {name: value.contiguous().cpu() for name, value in self.encoder.state_dict().items()}
        save_file(weights, folder / "model.safetensors")

    def load(self, folder: Path) -> None:
        """Read model.safetensors."""
        self.encoder.load_state_dict(load_file(folder / "model.safetensors"))

    def _validation(self) -> Callable[[], Mapping[str, float]]:
        """Return a function that computes NDCG@5 and HR@10 on the valid candidates."""
        lists = load_candidates(
            self.data.samples_folder, "rec", "valid", users=self.settings.validation_users, samples=self.data.samples
        )

        def validate() -> Mapping[str, float]:
            ranks = average_ranks(self.score(lists), lists.present)
            figure = ndcg(ranks, 5)
            return {"score": figure, "valid_ndcg@5": figure, "valid_hr@10": hit_rate(ranks, 10)}

        if not len(lists):
            raise UserError(f"{self.data.samples_folder}: no user has a valid target of recommendation to choose by")
        return validate


class SequenceTraining:
    """Adapt a sequential method to the shared training loop; ``validate`` returns the metrics for model selection."""

    def __init__(self, method: SequentialRecommender[Any], validate: Callable[[], Mapping[str, float]]) -> None:
        settings, data = method.settings, method.data
        _, clicks = recommended_clicks(data.training_events)
        users, sequences = method.form.examples(clicks)
        if not len(sequences):
            raise UserError(
                f"{data.samples_folder}: too few recommendation clicks to train on: no user has two in training"
            )
        self.encoder = method.encoder
        self.module: torch.nn.Module = method.encoder
        self.optimizer: torch.optim.Optimizer = method.optimizer()
        self.batches = SequenceBatches(sequences, settings.batch_size, method.seed, method.form)
        self.encoder.seen[torch.from_numpy(np.unique(sequences.values))] = True
        self.loss = _loss(settings, clicks, users, data.n_items, method.seed)
        self.validate = validate

    def backward(self, batch: SequenceBatch) -> Mapping[str, torch.Tensor]:
        """Run one step."""
        loss = self.loss(self.encoder.states(batch.inputs, batch.places), self.encoder.table(), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}


_Loss = Callable[[torch.Tensor, torch.Tensor, SequenceBatch], torch.Tensor]


def _loss(settings: SequentialSettings, clicks: Ragged, users: np.ndarray, n_items: int, seed: int) -> _Loss:
    """Build the configured loss over states [targets, columns], the item table and the states' batch.

    ``clicks`` are each user's training clicks; ``users`` [sequences] is each training sequence's row in them.
    """
    popular = PopularityNegatives(np.bincount(clicks.values, minlength=n_items), settings.popularity_power, seed)
    unseen = UnseenNegatives(clicks, n_items, seed)

    def loss(states: torch.Tensor, table: torch.Tensor, batch: SequenceBatch) -> torch.Tensor:
        def moved(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(table.device)

        targets = moved(batch.targets)
        if settings.loss == "softmax":
            return full_softmax(states, targets, table)
        if settings.loss == "bce":
            return binary(states, targets, table, moved(unseen.draw(batch.step, users[batch.rows])))
        negatives = moved(popular.draw(batch.step, settings.negatives))
        if settings.loss == "gbce":
            return generalized_binary(states, targets, table, negatives, settings.calibration)
        if settings.loss == "bpr_max":
            return bpr_max(states, targets, table, negatives, settings.score_regularization)
        return sampled_softmax(states, targets, table, negatives)

    return loss

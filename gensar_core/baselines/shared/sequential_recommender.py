"""What methods share that read a user's recommendation clicks in order and predict the next one.

Such a method adds an encoder (items -> states), its settings and the form of its examples (`causal` has those of causal
encoders); data, losses, training, early stopping and scoring are here.
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

#: Lists whose candidate vectors are gathered at once.
_LISTS_AT_ONCE = 1024


class SequentialSettings(Settings):
    """How a sequential method is trained."""

    dimensions: Positive = 64
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    #: Clicks that a state can depend on.
    max_history: Positive = 50
    #: softmax: over the catalogue; sampled_softmax, gbce, bpr_max: against `negatives` shared by a batch; bce: against
    #: one item that the user has not clicked.
    loss: Literal["softmax", "sampled_softmax", "bce", "gbce", "bpr_max"] = "sampled_softmax"
    negatives: Positive = 512
    #: How shared negatives are drawn: in proportion to clicks ** power (gbce asks for 0).
    popularity_power: Share = 1.0
    #: Of gbce: 0 is plain binary cross-entropy, 1 aims at the scores of a softmax.
    calibration: Share = 0.75
    #: Of bpr_max: weight of the negatives' squared scores.
    score_regularization: Annotated[float, Field(ge=0.0)] = 1.0
    batch_size: Positive = 256
    learning_rate: Rate = 1.0e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    #: Gradients longer than this are shortened to it.
    gradient_clip: Rate | None = None
    epochs: Positive = 100
    #: Let the learning rate fall to zero along a cosine over `epochs`; otherwise it stays.
    falling_rate: bool = False
    #: Validate every so many epochs, on at most so many users (0: all); stop after `patience` times without a gain.
    validate_every: Positive = 1
    validation_users: Count = 0
    patience: Positive = 5


S = TypeVar("S", bound=SequentialSettings)


class SequentialRecommender(Method[S]):
    """A method of the task rec: an encoder of click sequences, compared with the item table by inner products.

    An item that training has not shown gets the mean of the others' vectors, and is counted.
    """

    tasks: ClassVar[tuple[str, ...]] = ("rec",)
    inputs: ClassVar[tuple[str, ...]] = ("clicks",)

    @abc.abstractmethod
    def build(self) -> SequenceEncoder:
        """An untrained encoder for `data.n_items` items, on the CPU."""

    @functools.cached_property
    def encoder(self) -> SequenceEncoder:
        """The encoder, initialized from the seed until it is trained or loaded."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "initialization"))
            return self.build().to(pick_device())

    @property
    @abc.abstractmethod
    def form(self) -> Form:
        """How sequences become examples."""

    def optimizer(self) -> torch.optim.Optimizer:
        """What the encoder is trained with."""
        # Fused: one pass over the weights in place of a dozen, which counts where the item table is most of the model.
        return torch.optim.Adam(
            self.encoder.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:
        """Train with early stopping by NDCG@5 on the valid candidates."""
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
        """The state that tells what follows each history, float32 [rows, columns], to be multiplied with `table`."""
        self.encoder.eval()
        return last_states(self.encoder, self.form, histories)

    @torch.no_grad()
    def score(self, lists: CandidateLists) -> np.ndarray:
        """Inner products of the last state and the candidates' vectors."""
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
        """Inner products of the last state and all items' vectors."""
        scores: np.ndarray = (self.states(recommended_histories(samples)) @ self.encoder.table().T).cpu().numpy()
        return scores

    def item_vectors(self) -> ItemVectors:
        """The item table."""
        return ItemVectors(self.encoder.items.weight.detach().cpu().numpy(), self.encoder.seen.cpu().numpy())

    def save(self, folder: Path) -> None:
        """Write model.safetensors."""
        weights = {name: value.contiguous().cpu() for name, value in self.encoder.state_dict().items()}
        save_file(weights, folder / "model.safetensors")

    def load(self, folder: Path) -> None:
        """Read model.safetensors."""
        self.encoder.load_state_dict(load_file(folder / "model.safetensors"))

    def _validation(self) -> Callable[[], Mapping[str, float]]:
        """NDCG@5 and HR@10 on the valid candidates."""
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
    """A sequential method as the shared training loop sees it; ``validate`` gives the figures to choose by."""

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
        """One step."""
        loss = self.loss(self.encoder.states(batch.inputs, batch.places), self.encoder.table(), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}


_Loss = Callable[[torch.Tensor, torch.Tensor, SequenceBatch], torch.Tensor]


def _loss(settings: SequentialSettings, clicks: Ragged, users: np.ndarray, n_items: int, seed: int) -> _Loss:
    """The loss that the settings name, of states [targets, columns], the item table and the batch they are from.

    ``clicks`` are each user's training clicks; ``users`` [sequences] the row there of each training sequence.
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

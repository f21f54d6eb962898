"""Fit the joint RQ-VAE with the shared training loop (paper, section 3.2.3), or codebooks by k-means alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from gensar_core.config.identifiers import QuantizerSettings
from gensar_core.identifiers.initialize import initialize_codebooks, start_as_principal_components
from gensar_core.identifiers.quality import collision_rate
from gensar_core.identifiers.revival import CodeUse, revive
from gensar_core.identifiers.rqvae import RQVAE, Codes
from gensar_core.identifiers.separation import separate_last_level
from gensar_core.runtime.progress import say
from gensar_core.runtime.seeds import derive_seed
from gensar_core.training.loop import RATE_SCHEDULES, Schedule, train
from gensar_core.training.state import TrainingRecord


def fit(
    vectors: Mapping[str, Tensor],
    settings: QuantizerSettings,
    seed: int,
    checkpoints: Path | None = None,
    key: str = "",
) -> tuple[RQVAE, TrainingRecord]:
    """Fit a quantizer of the kind named in ``settings`` to item vectors, side -> [n, d_in] on one device."""
    if settings.kind == "rq_kmeans":
        return fit_rq_kmeans(vectors, settings, seed)
    return fit_rqvae(vectors, settings, seed, checkpoints, key)


def fit_rq_kmeans(
    vectors: Mapping[str, Tensor], settings: QuantizerSettings, seed: int
) -> tuple[RQVAE, TrainingRecord]:
    """Fit residual k-means to the scaled vectors, level by level, without training."""
    model, scaled = _scaled_model(vectors, settings)
    initialize_codebooks(model, scaled, derive_seed(seed, "codebooks"))
    metrics = validate_codes(model, scaled)
    say(f"residual k-means: {', '.join(f'{name} {value:.4g}' for name, value in metrics.items())}")
    return model.eval(), TrainingRecord(history=[{"step": 0.0, **metrics}])


def fit_rqvae(
    vectors: Mapping[str, Tensor],
    settings: QuantizerSettings,
    seed: int,
    checkpoints: Path | None = None,
    key: str = "",
) -> tuple[RQVAE, TrainingRecord]:
    """Learn encoders, codebooks and decoders from item vectors, side -> [n, d_in] on one device.

    The returned model has the weights with the lowest collision rate (mean over sides), validated every
    ``settings.evaluate_every`` epochs. ``checkpoints`` and ``key`` are those of `training.loop.train`.
    """
    task = _Fitting(vectors, settings, seed)
    total = settings.epochs * task.steps_per_epoch
    every = min(settings.epochs, settings.evaluate_every) * task.steps_per_epoch
    schedule = Schedule(
        total_steps=total,
        validate_every=every,
        gradient_clip=settings.gradient_clip,
        rate=RATE_SCHEDULES[settings.rate_schedule](total, settings.warmup_share),
    )
    record = train(task, schedule, seed=seed, description="RQ-VAE", checkpoints=checkpoints, key=key)
    return task.model.eval(), record


def _scaled_model(vectors: Mapping[str, Tensor], settings: QuantizerSettings) -> tuple[RQVAE, dict[str, Tensor]]:
    """Return a model with random weights and the scale of ``vectors``, and the scaled vectors."""
    model = RQVAE({side: matrix.shape[1] for side, matrix in vectors.items()}, settings)
    model.to(next(iter(vectors.values())).device)
    model.fit_scale(vectors)
    return model, model.scale(vectors)


class _Fitting:
    """Adapt the RQ-VAE to the training loop. A batch is its step number and its items."""

    def __init__(self, vectors: Mapping[str, Tensor], settings: QuantizerSettings, seed: int) -> None:
        first = next(iter(vectors.values()))
        self.items, self.device = len(first), first.device
        self.settings, self.seed = settings, seed
        self.steps_per_epoch = -(-self.items // settings.batch_size)
        torch.manual_seed(derive_seed(seed, "weights"))
        self.model, self.scaled = _scaled_model(vectors, settings)
        if settings.principal_start:
            start_as_principal_components(self.model, self.scaled)
        initialize_codebooks(self.model, self.scaled, derive_seed(seed, "codebooks"))
        self.use = CodeUse(self.model)
        # Checkpoint both, so that a rerun can continue in the middle of an epoch.
        self.module: torch.nn.Module = torch.nn.ModuleList([self.model, self.use])
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def batches(self, first_step: int) -> Iterator[tuple[int, Tensor]]:
        step = first_step
        while True:
            epoch, inside = divmod(step, self.steps_per_epoch)
            order = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", epoch))
            items = torch.randperm(self.items, generator=order).to(self.device)
            for batch in torch.split(items, self.settings.batch_size)[inside:]:
                yield step, batch
                step += 1

    def backward(self, batch: tuple[int, Tensor]) -> dict[str, Tensor]:
        step, items = batch
        scaled = {side: matrix[items] for side, matrix in self.scaled.items()}
        if step % self.steps_per_epoch == 0:
            if step and self.settings.revive_dead_codes:
                revive(self.model, self.use, scaled, self.optimizer)
            self.use.clear()
        losses, codes = self.model.losses(scaled)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        self.use.count(codes)
        return {name: value.detach() for name, value in losses.items()}

    def validate(self) -> dict[str, float]:
        """Return metrics over all items; training continues from the separated codebooks."""
        return validate_codes(self.model, self.scaled)


@torch.no_grad()
def validate_codes(model: RQVAE, scaled: Mapping[str, Tensor]) -> dict[str, float]:
    """Return each side's collision rate and unexplained variance over all items, and the score derived from them.

    Separates colliding items first, so that the kept weights are separated ones and the rate is theirs.
    """
    latents = model.all_latents(scaled)
    metrics = _collision_rates(model.encode_latents(latents), "unseparated_collision_rate")
    separate_last_level(model, latents)
    codes = model.encode_latents(latents)
    metrics |= _collision_rates(codes, "collision_rate")
    unexplained = model.unexplained_variance(scaled, codes)
    metrics |= {f"unexplained_variance_{side}": share for side, share in unexplained.items()}
    # Reconstruction only breaks ties: it changes the score by less than one collision on one side.
    error = sum(unexplained.values())
    tie_break = 0.5 * error / (1.0 + error) / (len(latents) * len(model.sides))
    mean_rate = sum(metrics[f"collision_rate_{side}"] for side in model.sides) / len(model.sides)
    return {"score": -mean_rate - tie_break, **metrics}


def _collision_rates(codes: Codes, name: str) -> dict[str, float]:
    return {f"{name}_{side}": collision_rate(codes.identifier(side)) for side in codes.specific}

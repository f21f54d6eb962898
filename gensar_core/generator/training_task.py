"""Define a training step of the generator: micro-batches of prompts, their losses, and validation by ranking."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gensar_core.config.generators import TrainingSettings
from gensar_core.corpora.read import Examples
from gensar_core.generator.backbones.t5 import Backbone, encode_prompts, target_outputs
from gensar_core.generator.backbones.token_rows import token_tables
from gensar_core.generator.backbones.whole_words import save_model
from gensar_core.generator.batches import Batches, MicroBatch, Step, prompt_tokens
from gensar_core.generator.logit_adjustment import TrainedLikelihood
from gensar_core.generator.validation import Validation
from gensar_core.nn.cross_entropy import cross_entropy
from gensar_core.nn.dropout import drawing_from
from gensar_core.runtime.device import autocast, send
from gensar_core.training.loop import RATE_SCHEDULES, Schedule
from gensar_core.training.processes import ALONE, Processes
from gensar_core.training.threads import side_by_side

#: Padded tokens of a pass on a CPU. Smaller passes spend more on the overhead of each operation, larger ones leave the
#: caches; and the fewer passes a step has, the less evenly the cores share it.
_CPU_TOKENS = range(2048, 4097)
#: Passes that a step is cut into, if their sizes then lie within ``_CPU_TOKENS``.
_CPU_PASSES = 8
#: On a CPU, conversions cost narrower models more than bfloat16 products save (measured: 0.9 times the speed at a width
#: of 64, 1.4 at 128, 1.9 at 512).
_CPU_BFLOAT16_WIDTH = 128


def parameter_groups(model: Backbone, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Group parameters for the optimizer: token embeddings (input and output) at their own rate, then the others."""
    tables = token_tables(model)
    ids = {id(table) for table in tables}
    others = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    return [
        {"params": tables, "lr": settings.learning_rate * settings.embedding_rate},
        {"params": others, "lr": settings.learning_rate},
    ]


class GeneratorTask:
    """Define steps, gradients and validation for the shared training loop."""

    def __init__(
        self,
        model: Backbone,
        settings: TrainingSettings,
        examples: Examples,
        validation: list[Validation],
        seed: int,
        processes: Processes = ALONE,
        likelihoods: Mapping[str, TrainedLikelihood] | None = None,
    ) -> None:
        """Take the ``likelihoods`` of the tasks, by name, whose items compete otherwise than by Eq. 12."""
        self.module = model
        self.processes = processes
        self.settings = settings
        self.validation = validation
        self.names = examples.task_names
        self.device = model.lm_head.weight.device
        #: Likelihoods by the code of each task; the others use the vocabulary.
        self.likelihoods = {
            self.names.index(name): one for name, one in (likelihoods or {}).items() if name in self.names
        }
        tokens = settings.batch_tokens
        if self.device.type == "cpu":
            tokens = min(tokens, _cpu_tokens(examples, settings.batch_size))
        self.order = Batches(
            examples,
            batch_size=settings.batch_size,
            tokens=tokens,
            weights={str(name): weight for name, weight in settings.task_weights.items()},
            seed=seed,
            processes=processes,
        )
        groups, decay = parameter_groups(model, settings), settings.weight_decay
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(groups, weight_decay=decay, fused=True)
            if settings.optimizer == "adamw"
            else torch.optim.Adafactor(groups, weight_decay=decay)
        )

    def save(self, folder: Path) -> None:
        """Write the model as a Hugging Face folder, and what the library does not know beside it."""
        save_model(self.module, folder)

    def counts(self) -> dict[str, int]:
        """Return the counts of examples for the stage's record."""
        return {"examples": len(self.order.examples), "epoch_examples": self.order.epoch_size}

    def schedule(self) -> Schedule:
        """Convert the settings' epochs to optimizer steps."""
        settings = self.settings
        total = self.order.steps(settings.epochs)
        return Schedule(
            total_steps=total,
            validate_every=self.order.steps(1.0 / settings.validations_per_epoch),
            patience=settings.patience,
            gradient_clip=settings.gradient_clip,
            rate=RATE_SCHEDULES[settings.rate_schedule](total, settings.warmup_share),
            weight_average=settings.weight_average,
        )

    def batches(self, first_step: int) -> Iterator[Step]:
        """Return the steps from ``first_step`` on, each as this process' share of its micro-batches."""
        return self.order.from_step(first_step)

    def backward(self, batch: Step) -> Mapping[str, torch.Tensor]:
        """Compute gradients of the mean loss over all target tokens of the step, however it is cut into micro-batches.

        Returns that mean as `loss`, and the mean over each task's tokens as `loss_{task}`. Like the gradients, both are
        only the contribution of this process' micro-batches.
        """
        counts = batch.tokens
        sums = torch.zeros(len(self.names), dtype=torch.float64, device=self.device)
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        # A micro-batch's dropout depends on the step and its place there, not on what runs before or beside it.
        first_seed = torch.initial_seed()

        def gradients(part: MicroBatch) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor | None, ...]]:
            with drawing_from(first_seed + part.place, self.device):
                losses, task = self._token_losses(part)
            mean = losses.sum() / counts.sum()
            return losses.detach(), task, torch.autograd.grad(mean, parameters, allow_unused=True)

        for losses, task, part_gradients in side_by_side(gradients, batch.parts, self.device):
            sums.index_add_(0, task, losses.double())
            add_gradients(parameters, part_gradients)
        by_task = {f"loss_{name}": sums[code] / counts[code] for code, name in enumerate(self.names) if counts[code]}
        return {"loss": sums.sum() / counts.sum(), **by_task}

    def validate(self) -> Mapping[str, float]:
        """Rank the valid lists exactly and return metrics; the score is the mean NDCG@5 of the tasks."""
        metrics: dict[str, float] = {}
        for lists in self.validation:
            metrics.update(lists.metrics(self.module, self.processes))
        metrics["score"] = float(np.mean([metrics[f"{lists.task}_ndcg@5"] for lists in self.validation]))
        return metrics

    def spoiling_samples(self, step: int) -> str:
        """List task, row and sample id of each example of the step whose own loss is not finite."""
        rows = self.order.rows(step)
        first_seed = torch.initial_seed()
        spoiled = []
        for part in self.order.micro_batches(rows, step):
            with drawing_from(first_seed + part.place, self.device):
                finite = self._token_losses(part)[0].isfinite().cpu().numpy()
            spoiled.append(np.repeat(part.rows, (part.targets >= 0).sum(axis=1))[~finite])
        examples = np.unique(np.concatenate(spoiled))
        if not len(examples):
            return "the loss of each sample is finite, the gradient is not"
        count = f"all {len(rows):,} samples of the step"
        if len(examples) < len(rows):
            count = f"{len(examples):,} of its samples"
        return f"{count}: {self.order.examples.describe(examples)}"

    def _token_losses(self, part: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the loss of every target token [n], and return it with the token's task [n]."""
        # Determine the real places on the host: a GPU would make it wait for the answer.
        real = part.targets >= 0
        inputs, targets = self._send(part.inputs), self._send(part.targets)
        prompt = part.prompt if len(part.targets) > len(part.inputs) else None
        smoothing, weight = self.settings.label_smoothing, self.module.lm_head.weight
        losses = torch.zeros(targets.shape, device=self.device)
        with self._precision():
            outputs = target_outputs(self.module, encode_prompts(self.module, inputs), targets, prompt)
            for code, likelihood in self.likelihoods.items():
                if len(rows := np.flatnonzero(part.task == code)):
                    at = self._send(rows)
                    item_losses = likelihood.token_losses(outputs[at], weight, part.targets[rows], smoothing)
                    losses = losses.index_put((at,), item_losses)
            losses = losses.flatten()
            words = real & ~np.isin(part.task, list(self.likelihoods))[:, None]
            if words.any():
                at, tokens = self._send(np.flatnonzero(words)), self._send(part.targets[words])
                word_losses = cross_entropy(outputs.flatten(0, 1)[at], weight, tokens, smoothing)
                losses = losses.index_put((at,), word_losses.float())
        places = self._send(np.flatnonzero(real))
        return losses[places], self._send(np.repeat(part.task, real.sum(axis=1)))

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return autocast(self.device, on_cpu=self.module.config.hidden_size >= _CPU_BFLOAT16_WIDTH)

    def _send(self, array: np.ndarray) -> torch.Tensor:
        return send(array, self.device).long()


def _cpu_tokens(examples: Examples, batch_size: int) -> int:
    """Choose the padded tokens of a micro-batch on a CPU, at least those of any prompt with all its targets."""
    total, longest = prompt_tokens(examples)
    step = int(total / len(examples) * batch_size)
    return max(min(max(step // _CPU_PASSES, _CPU_TOKENS[0]), _CPU_TOKENS[-1]), longest)


def add_gradients(parameters: list[torch.nn.Parameter], gradients: Sequence[torch.Tensor | None]) -> None:
    """Add one micro-batch's gradients to those of the parameters."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad += gradient

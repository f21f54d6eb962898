"""Compare the generator's training throughput with the Hugging Face Trainer fed with text.

`python benchmarks/training.py` trains one model (from scratch, 128 wide, 3 + 3 layers) on one corpus with one batch
size, alternating between the project's loop and the Trainer as the authors use it: texts tokenized in the collator,
padded to the longest, float32. On a GPU it also reports tokens per second and the share of the device's peak
arithmetic.

It also compares two ways to learn from the same log: a causal model that reads each user's log in one pass, and a T5
that reads a prompt a target. Both are as wide. The causal model has as many layers as both stacks of the T5 together,
and about as many weights in them, or as many as one stack (`_stack`). Both learn the clicked items alone, over the same
likelihood, by the stage's own tasks. The causal model has vectors of nodes and queries and click evidence, as by
default. Users of that log have 8.3 training events on average, as in Scientific.

    --quick         a smoke size
    --t5-small      the sizes of t5-small (60 million parameters with its vocabulary)
    --rounds 3      rounds of each loop
    --threads 2     CPU threads of every loop
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _calm  # noqa: F401
import _shop
import numpy as np
import torch
from _measure import claim, report
from transformers import AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from gensar_core import schema
from gensar_core.config.generators import OnePassSettings, ScratchSize, TrainingSettings
from gensar_core.config.prompts import find_prompts
from gensar_core.corpora.read import load_examples
from gensar_core.generator.backbones import load as backbone
from gensar_core.generator.batches import Step
from gensar_core.generator.item_targets import target_tries
from gensar_core.generator.likelihoods import item_likelihoods
from gensar_core.generator.log_rows import TRAINING_TASKS
from gensar_core.generator.one_pass import one_pass_task
from gensar_core.generator.one_pass_training import OnePassTask, RowStep
from gensar_core.generator.training_task import GeneratorTask
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import has_bfloat16, pick_device
from gensar_core.training.loop import Schedule, train

LAPTOP = ScratchSize(d_model=128, d_ff=512, d_kv=32, num_heads=4, num_layers=3, num_decoder_layers=3)
T5_SMALL = ScratchSize(d_model=512, d_ff=2048, d_kv=64, num_heads=8, num_layers=6, num_decoder_layers=6)
TINY = ScratchSize(d_model=32, d_ff=64, d_kv=8, num_heads=4, num_layers=1, num_decoder_layers=1)
#: Peak dense bfloat16 operations per second, by a part of the device's name (the makers' data sheets).
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12}
#: Examples per forward pass of the Trainer, as the authors set it.
PEER_ROWS = 64
#: Training tasks whose targets are items of samples.
ITEM_TASKS = ("nrip", "nsip")
#: Users' logs per optimizer step of a causal model, and steps for each of the other loops: enough rows of all lengths.
LOGS, LOG_STEPS = 32, 12
#: Reviews a user that give, with searches, the mean number of training events of Scientific (8.25; median 6, here 7).
LOG_REVIEWS = 7.0


@dataclass
class Clock:
    """Count the steps of one loop, their wall and CPU seconds, real tokens of prompts, and items that are targets."""

    steps: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    tokens: int = 0
    targets: int = 0
    _mark: tuple[float, float] | None = None

    def start(self) -> None:
        """Start counting."""
        _finish()
        self._mark = time.perf_counter(), time.process_time()

    def stop(self, steps: int) -> None:
        """Add the steps and the time since the start."""
        _finish()
        assert self._mark is not None
        self.seconds += time.perf_counter() - self._mark[0]
        self.cpu += time.process_time() - self._mark[1]
        self.steps += steps


@dataclass
class Timed:
    """Time a task of the project without validation, from the end of the first step."""

    task: GeneratorTask | OnePassTask
    clock: Clock
    timed: int

    def __post_init__(self) -> None:
        self.module, self.optimizer = self.task.module, self.task.optimizer

    def batches(self, first_step: int) -> Iterator[Step | RowStep]:
        """Yield batches; start the clock after the first one."""
        for number, batch in enumerate(self.task.batches(first_step)):
            if number == 1:
                self.clock.start()
            if number and isinstance(batch, RowStep):
                assert isinstance(self.task, OnePassTask)
                self.clock.tokens += sum(int(self.task.logs.lengths_of(part.rows).sum()) for part in batch.parts)
                self.clock.targets += sum(int(batch.targets[TRAINING_TASKS.index(name)]) for name in ITEM_TASKS)
            elif number:
                self.clock.targets += sum(len(part.targets) for part in batch.parts)
                self.clock.tokens += sum(
                    int((part.inputs >= 0).sum() + (part.targets >= 0).sum()) for part in batch.parts
                )
            yield batch

    def backward(self, batch: Any) -> Mapping[str, torch.Tensor]:
        """Compute the task's gradients."""
        return self.task.backward(batch)

    def validate(self) -> Mapping[str, float]:
        """Stop the clock after the last step, without validating."""
        self.clock.stop(self.timed)
        return {"score": 0.0}


def time_steps(task: GeneratorTask | OnePassTask, steps: int, clock: Clock) -> None:
    """Time ``steps`` steps after one warm-up step."""
    schedule = Schedule(total_steps=steps + 1, validate_every=steps + 1, gradient_clip=1.0)
    train(Timed(task, clock, steps), schedule, seed=1, description="ours", checkpoints=None)


class Timer(TrainerCallback):  # type: ignore[misc]
    """Time the Trainer's steps after the first one."""

    def __init__(self, clock: Clock, steps: int) -> None:
        self.clock, self.timed = clock, steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start the clock after the first step and stop it after the last."""
        if state.global_step == 1:
            self.clock.start()
        elif state.global_step == self.timed + 1:
            self.clock.stop(self.timed)


def trainer_round(corpus: Path, settings: TrainingSettings, steps: int) -> Callable[[Clock], None]:
    """Prepare the Trainer as the authors use it: texts tokenized by the collator, padded to the batch's longest."""
    tokenizer = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    model = backbone.build(settings, corpus, 1)
    examples = load_examples(corpus, model.lm_head.weight.shape[0])
    chosen = np.random.default_rng(1).permutation(len(examples))[: (steps + 2) * settings.batch_size]
    prompts = examples.prompt[chosen]
    inputs = examples.inputs.write(prompts, examples.inputs.draw(1, 0, prompts))
    # Drop the end of sequence, which the tokenizer adds again.
    rows = [
        {"input": tokenizer.decode(prompt[:-1]), "target": tokenizer.decode(target[:-1])}
        for prompt, target in zip(_lists(inputs), _lists(examples.targets.take(chosen)), strict=True)
    ]

    def collate(batch: list[dict[str, str]]) -> dict[str, torch.Tensor]:
        inputs = tokenizer([row["input"] for row in batch], padding="longest", return_tensors="pt")
        labels = tokenizer([row["target"] for row in batch], padding="longest", return_tensors="pt").input_ids
        labels[labels == tokenizer.pad_token_id] = -100
        return {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask, "labels": labels}

    def run(clock: Clock) -> None:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=min(PEER_ROWS, settings.batch_size),
                gradient_accumulation_steps=max(1, settings.batch_size // PEER_ROWS),
                max_steps=steps + 1,
                learning_rate=settings.learning_rate,
                remove_unused_columns=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=pick_device().type == "cpu",
            )
            Trainer(
                model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[Timer(clock, steps)]
            ).train()

    return run


def _lists(rows: Ragged) -> list[list[int]]:
    return [part.tolist() for part in np.split(rows.values, rows.offsets[1:-1])]


def our_round(
    corpus: Path, settings: TrainingSettings, steps: int, precision: str | None = None
) -> Callable[[Clock], None]:
    """Prepare the project's loop, in its default precision or in ``precision``."""
    model = backbone.build(settings, corpus, 1).to(pick_device())
    task = GeneratorTask(model, settings, load_examples(corpus, model.lm_head.weight.shape[0]), [], 1)

    def run(clock: Clock) -> None:
        if precision:
            os.environ["GENSAR_PRECISION"] = precision
        try:
            time_steps(task, steps, clock)
        finally:
            os.environ.pop("GENSAR_PRECISION", None)

    return run


def prompts_round(corpus: Path, settings: TrainingSettings, steps: int) -> Callable[[Clock], None]:
    """Prepare a T5 that learns the items of both tasks from prompts, over the settings' likelihood."""
    model = backbone.build(settings, corpus, 1).to(pick_device())
    items = schema.ITEM_TOKENS.read(corpus / "item_tokens.parquet")["item_id"].n_unique()
    likelihoods = item_likelihoods(model, lambda: target_tries(corpus, items))
    examples = load_examples(corpus, model.lm_head.weight.shape[0])
    task = GeneratorTask(model, settings, examples, [], 1, likelihoods=likelihoods)
    return lambda clock: time_steps(task, steps, clock)


def logs_round(shop: Path, settings: TrainingSettings, steps: int) -> Callable[[Clock], None]:
    """Prepare a causal model that learns the same items from users' logs."""
    task = one_pass_task(shop / "corpus", shop / "samples", settings, 1)
    return lambda clock: time_steps(task, steps, clock)


def one_pass_ways(shop: Path, prompts: TrainingSettings, steps: int) -> dict[str, Callable[[Clock], None]]:
    """Prepare both ways over both likelihoods, with models of the size that ``prompts`` sets for the T5.

    The causal model has as many layers as both stacks of the T5 (`one_pass`), or as one of them (`one_pass_stack`).
    """
    size = prompts.size
    depths = {"one_pass": _layers(size), "one_pass_stack": size.num_layers}
    weights = {name: float(name in ITEM_TASKS) for name in find_prompts("gensar").tasks}
    ways = {}
    for likelihood in ("vocabulary", "catalogue"):
        items = {"likelihood": likelihood, "task_weights": weights}
        of_prompts = prompts.model_validate({**prompts.model_dump(), **items})
        ways[f"prompts_{likelihood}"] = prompts_round(shop / "corpus", of_prompts, steps)
        for name, layers in depths.items():
            # Three matrices of a gated layer hold as many weights as two of T5's.
            sizes = OnePassSettings(
                hidden_size=size.d_model,
                intermediate_size=2 * size.d_ff // 3,
                num_layers=layers,
                num_heads=size.num_heads,
            )
            of_logs = TrainingSettings.model_validate(
                {"backbone": "causal", "one_pass": sizes, "batch_size": LOGS, "batch_tokens": 4096, **items}
            )
            ways[f"{name}_{likelihood}"] = logs_round(shop, of_logs, steps * LOG_STEPS)
    return ways


def main() -> None:
    """Run the benchmark and print its claims."""
    parser = argparse.ArgumentParser(description="examples a second of training, against the Hugging Face Trainer")
    parser.add_argument("--quick", action="store_true", help="a smoke size")
    parser.add_argument("--t5-small", action="store_true", help="the sizes of t5-small")
    parser.add_argument("--rounds", type=int, help="turns of each loop")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(1 if arguments.quick else arguments.threads)
    size, batch, steps, rounds = LAPTOP, 256, 3, 3
    if arguments.t5_small:
        size, batch, steps, rounds = T5_SMALL, 64, 1, 2
    if arguments.quick:
        size, batch, steps, rounds = TINY, 32, 2, 1
    rounds = arguments.rounds or rounds
    settings = TrainingSettings(backbone="scratch", size=size, batch_size=batch)
    with tempfile.TemporaryDirectory(prefix="gensar-training-") as scratch:
        shop = _shop.build_shop(Path(scratch), *((150, 160) if arguments.quick else (3000, 2000)))
        plain = _shop.build(shop, shop / "corpus")
        shared = _shop.build(shop, shop / "shared", _shop.CORPUS.model_copy(update={"later_targets": 3}))
        ways = {
            "trainer": trainer_round(plain, settings, steps),
            "ours": our_round(plain, settings, steps),
            "float32": our_round(plain, settings, steps, "float32"),
            "shared": our_round(shared, settings, steps),
        }
        logs = _shop.build_shop(
            Path(scratch, "logs"), *((150, 160) if arguments.quick else (4000, 3000)), mean_reviews=LOG_REVIEWS
        )
        _shop.build(logs, logs / "corpus")
        ways |= one_pass_ways(logs, settings, steps)
        clocks = {name: Clock() for name in ways}
        # Alternate, so that other load on the machine affects all loops alike.
        for _ in range(rounds):
            for name, run in ways.items():
                run(clocks[name])
                rows = clocks[name].targets or clocks[name].steps * batch
                say(f"{name}: {rows / clocks[name].seconds:.1f} targets/s")
    report("training", [*claims(clocks, settings), *one_pass_claims(clocks, settings.size)])


def claims(clocks: Mapping[str, Clock], settings: TrainingSettings) -> list[dict[str, Any]]:
    """Compute ratios and rates of the measured loops."""
    rate = {name: clock.steps * settings.batch_size / clock.seconds for name, clock in clocks.items()}
    cpu = {name: clock.steps * settings.batch_size / clock.cpu for name, clock in clocks.items()}
    device = pick_device()
    sizes = settings.size
    how = (
        f"T5 from scratch, {sizes.d_model} wide, {sizes.num_layers} + {sizes.num_decoder_layers} layers, "
        f"{settings.batch_size} examples a step, {torch.get_num_threads()} threads on {device.type}, "
        f"{'bfloat16' if has_bfloat16(device) and sizes.d_model >= 128 else 'float32'} products"
    )
    results = [
        claim("speedup_trainer", rate["ours"] / rate["trainer"], "x",
              f"{rate['ours']:.1f} examples/s against {rate['trainer']:.1f} of the Hugging Face Trainer; {how}"),
        claim("speedup_trainer_cpu", cpu["ours"] / cpu["trainer"], "x", "the same in CPU seconds of the process"),
        claim("speedup_trainer_float32", rate["float32"] / rate["trainer"], "x",
              f"{rate['float32']:.1f} examples/s with float32 products"),
        claim("speedup_shared_prompts", rate["shared"] / rate["trainer"], "x",
              f"{rate['shared']:.1f} examples/s where a history is asked for three later targets too, read once"),
        claim("examples_per_second", rate["ours"], "1/s", how),
        claim("tokens_per_second", clocks["ours"].tokens / clocks["ours"].seconds, "1/s", "real tokens, in and out"),
    ]  # fmt: skip
    peak = peak_of(device)
    if peak is not None:
        operations = 6 * _products(sizes) * results[-1]["value"]
        results.append(
            claim("share_of_peak", operations / peak, "1", f"6 operations a weight and token, of {peak:.3g}/s")
        )
    return results


def one_pass_claims(clocks: Mapping[str, Clock], size: ScratchSize) -> list[dict[str, Any]]:
    """Compute how many more targets a second a model learns from logs than from prompts."""
    results = []
    for (likelihood, suffix), (name, layers) in itertools.product(
        (("vocabulary", ""), ("catalogue", "_catalogue")),
        (("one_pass", _layers(size)), ("one_pass_stack", size.num_layers)),
    ):
        logs, prompts = clocks[f"{name}_{likelihood}"], clocks[f"prompts_{likelihood}"]
        rates = [clock.targets / clock.seconds for clock in (logs, prompts)]
        cpu = [clock.cpu / clock.targets for clock in (logs, prompts)]
        how = (
            f"items as targets, normalized over the {likelihood}; {size.d_model} wide, {layers} layers "
            f"against {_layers(size)}, T5's prompts of {prompts.tokens / prompts.targets:.0f} tokens with their targets"
        )
        results += [
            claim(f"speedup_{name}{suffix}", rates[0] / rates[1], "x",
                  f"{rates[0]:.1f} targets/s of a causal model over logs against {rates[1]:.1f} of a T5; {how}"),
            claim(f"speedup_{name}{suffix}_cpu", cpu[1] / cpu[0], "x",
                  f"{1000 * cpu[0]:.3g} CPU ms a target against {1000 * cpu[1]:.3g}"),
            claim(f"targets_per_second_{name}{suffix}", rates[0], "1/s", how),
        ]  # fmt: skip
    return results


def _layers(size: ScratchSize) -> int:
    return size.num_layers + size.num_decoder_layers


def _products(size: ScratchSize) -> int:
    """Estimate the weights that multiply a token, on average, by the encoder's: most tokens are the encoder's."""
    inner = size.num_heads * size.d_kv
    return size.num_layers * (4 * size.d_model * inner + 2 * size.d_model * size.d_ff)


def peak_of(device: torch.device) -> float | None:
    """Return the operations a second of a known GPU, None for another device."""
    name = str(torch.cuda.get_device_name(device)) if device.type == "cuda" else ""
    return next((value for part, value in PEAKS.items() if part in name), None)


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def say(line: str) -> None:
    """Print progress to stderr, since stdout ends in the report."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

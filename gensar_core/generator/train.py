"""Train a T5 on the corpus (paper, section 3.4.1) and keep its best validated weights (stage `train_generator`)."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from gensar_core.config.generators import TrainingSettings
from gensar_core.corpora.instructions import load_prompt_file
from gensar_core.corpora.read import check_lengths, load_examples
from gensar_core.corpora.tasks import tasks_of
from gensar_core.embeddings.tokenizer import load_corpus_tokenizer
from gensar_core.errors import UserError
from gensar_core.generator.backbones import load as backbone
from gensar_core.generator.item_targets import target_tries
from gensar_core.generator.likelihoods import item_likelihoods
from gensar_core.generator.logit_adjustment import TrainedLikelihood, adjusted, clicks_of_items
from gensar_core.generator.one_pass import one_pass_task
from gensar_core.generator.one_pass_training import OnePassTask
from gensar_core.generator.training_task import GeneratorTask
from gensar_core.generator.validation import load_validation
from gensar_core.generator.warm_start import warm_start
from gensar_core.runtime.device import pick_device
from gensar_core.runtime.seeds import derive_seed
from gensar_core.runtime.stage import Stage, read_record, write_json
from gensar_core.samples.cold_items import mark_cold_items
from gensar_core.training.loop import Watch, train
from gensar_core.training.processes import ALONE, Processes
from gensar_core.training.state import TrainingRecord

#: Files of the corpus that every training reads, and those of trainings on prompts and on logs.
_CORPUS = ("item_tokens.parquet", "trie.safetensors", "new_tokens.json", "prompts.yaml", "tokenizer")
_PROMPTS = ("train.parquet", "prompts.parquet")
_LOGS = ("user_logs.parquet", "alignment_logs.parquet", "asked_logs.parquet")


def train_generator(
    corpus: Path,
    samples: Path,
    output: Path,
    settings: TrainingSettings,
    seed: int,
    checkpoints: Path | None,
    processes: Processes = ALONE,
    token_vectors: Path | None = None,
    start_from: Path | None = None,
    cold_items: Path | None = None,
) -> None:
    """Train on the folder ``corpus`` and choose weights by the valid candidates in ``samples``.

    Writes a Hugging Face folder (model, tokenizer) with curve.json, one entry per validation. ``checkpoints`` is a
    folder for this training only, from which a killed run continues to the same weights. All ``processes`` make the
    same call, and the first one writes. A warm start reads the file ``token_vectors``. ``start_from`` is the folder of
    a trained generator to continue from: its weights replace the settings' backbone. No target competes with an item of
    the table ``cold_items``. Raises UserError if corpus, samples and backbone do not belong together, and if the loss
    is no longer a number.
    """
    run = functools.partial(
        fit_generator, corpus, samples, settings, seed, checkpoints, processes, token_vectors, start_from, cold_items
    )
    if not processes.first:
        run(processes.tell(None))
        return
    with Stage(
        "train_generator",
        output,
        settings=settings,
        inputs=training_files(corpus, samples, settings, token_vectors, start_from, cold_items),
        seed=seed,
        code=__name__,
        alone=True,
    ) as stage:
        task, record = run(processes.tell(stage.key))
        folder = stage.path("config.json").parent
        task.save(folder)
        load_corpus_tokenizer(corpus / "tokenizer").save_pretrained(folder)
        write_json(stage.path("curve.json"), record.history)
        stage.record(
            parameters=sum(parameter.numel() for parameter in task.module.parameters()),
            **task.counts(),
            processes=processes.count,
            steps=record.steps,
            best_step=record.best_step,
            best_score=record.best_score,
            **(_earlier_work(start_from) if start_from is not None else {}),
        )
    if checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)


def _earlier_work(folder: Path) -> dict[str, float]:
    """Return the seconds of the training that left a folder, and of those that it began with."""
    record = read_record(folder / "stage.json")
    return {
        f"earlier_{name}": round(record[name] + record["counts"].get(f"earlier_{name}", 0.0), 3)
        for name in ("seconds", "cpu_seconds")
    }


def training_files(
    corpus: Path,
    samples: Path,
    settings: TrainingSettings,
    token_vectors: Path | None,
    start_from: Path | None,
    cold_items: Path | None,
) -> list[Path]:
    """List the files that a training reads; the arguments are those of ``train_generator``."""
    # Files, not the folder: its record holds the run time, and a checkpoint must not depend on that.
    files = [corpus / name for name in (*_CORPUS, *(_LOGS if settings.reads_logs else _PROMPTS))]
    files += [samples / "samples.parquet", samples / "candidates.parquet"]
    if settings.reads_clicks:
        files.append(samples / "training_events.parquet")
    if settings.warm_start and token_vectors is not None:
        files.append(token_vectors)
    if start_from is not None:
        files += _model_files(start_from)
    if cold_items is not None:
        files.append(cold_items)
    return files


def _model_files(folder: Path) -> list[Path]:
    """List the files that a trained generator is read from."""
    return [folder / "config.json", folder / "tokenizer.json", *sorted(folder.glob("*.safetensors"))]


def fit_generator(
    corpus: Path,
    samples: Path,
    settings: TrainingSettings,
    seed: int,
    checkpoints: Path | None,
    processes: Processes,
    token_vectors: Path | None,
    start_from: Path | None,
    cold_items: Path | None,
    key: str,
    watch: Watch | None = None,
) -> tuple[GeneratorTask | OnePassTask, TrainingRecord]:
    """Train and write nothing but checkpoints; return the trained task and the course of the training.

    ``key`` and ``watch`` are passed on to `training.loop.train`; the other arguments are those of ``train_generator``.
    """
    build = one_pass_task if settings.reads_logs else _prompt_task
    task: GeneratorTask | OnePassTask = build(
        corpus, samples, settings, seed, processes, token_vectors, start_from, cold_items
    )
    record = train(
        task,
        task.schedule(),
        seed=derive_seed(seed, "training"),
        description="train generator",
        checkpoints=checkpoints,
        key=key,
        processes=processes,
        watch=watch,
    )
    return task, record


def _prompt_task(
    corpus: Path,
    samples: Path,
    settings: TrainingSettings,
    seed: int,
    processes: Processes,
    token_vectors: Path | None,
    start_from: Path | None,
    cold_items: Path | None,
) -> GeneratorTask:
    model = backbone.build(settings, corpus, seed, start_from)
    if settings.warm_start:
        if token_vectors is None:
            raise UserError("warm_start: needs the file of token vectors; build it, or set warm_start: false")
        warm_start(model, token_vectors, seed)
    model.to(pick_device())
    examples = load_examples(corpus, model.lm_head.weight.shape[0])
    if settings.backbone != "scratch":
        # T5's positions are relative and unlimited, but it has never seen longer inputs.
        check_lengths(examples.inputs, getattr(model.config, "n_positions", None), corpus / "train.parquet")
    lists = load_validation(
        corpus,
        samples,
        model,
        settings.validation_users,
        settings.validation_choice,
        among_catalogue=settings.validate_among == "catalogue",
    )
    n_items = len(lists[0].items)
    tries = functools.cache(lambda: target_tries(corpus, n_items, cold_items))
    likelihoods: dict[str, TrainedLikelihood] = {**item_likelihoods(model, tries)}
    if settings.logit_adjustment:
        clicks = clicks_of_items(samples / "training_events.parquet", n_items)
        # The tries number the items that a target may compete with.
        clicks = clicks[~mark_cold_items(cold_items, n_items)]
        for name, task in tasks_of(load_prompt_file(corpus)).items():
            if task.source == "rec" and name in tries():
                trie = tries()[name].to(model.lm_head.weight.device)
                likelihoods[name] = adjusted(likelihoods.get(name), trie, clicks, settings.logit_adjustment)
    return GeneratorTask(model, settings, examples, lists, derive_seed(seed, "order"), processes, likelihoods)

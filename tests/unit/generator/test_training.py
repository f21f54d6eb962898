"""Training and ranking as stages, on folders made by hand."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from gensar_core import schema
from gensar_core.config.generators import RankingSettings, ScratchSize, TrainingSettings
from gensar_core.corpora.read import PromptInputs, check_lengths, load_examples
from gensar_core.errors import UserError
from gensar_core.generator.backbones import load as backbone
from gensar_core.generator.rank import rank_candidates
from gensar_core.generator.train import train_generator
from gensar_core.generator.trained import TrainedGenerator
from gensar_core.generator.training_task import GeneratorTask
from gensar_core.generator.validation import load_validation
from gensar_core.nn.t5 import load_t5
from gensar_core.ranking import validation_candidates
from gensar_core.runtime.stage import digest, read_record
from gensar_core.training.loop import train
from gensar_core.training.processes import ALONE, Processes
from tests.support import generator_folders as folders
from tests.support.killed import Killed, kill_at
from tests.unit.generator.small_models import log_probability, ragged, without_dropout

USERS = 20


def settings(**changes: Any) -> TrainingSettings:
    return folders.tiny_settings(**{"epochs": 8.0, "batch_tokens": 128, "warmup_share": 0.05, **changes})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write_corpus(tmp_path_factory.mktemp("data") / "corpus", USERS)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write_samples(tmp_path_factory.mktemp("data") / "samples", USERS)


@pytest.fixture(scope="module")
def trained(corpus: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned its 40 examples by heart."""
    output = tmp_path_factory.mktemp("models") / "gensar"
    by_heart = settings(epochs=120.0, size=folders.TINY.model_copy(update={"dropout_rate": 0.0}), validation_users=0)
    train_generator(corpus, samples, output, by_heart, 1, None)
    return output


@pytest.fixture(scope="module")
def ranks(trained: Path, corpus: Path, samples: Path) -> pl.DataFrame:
    rank_candidates(trained, corpus, samples, trained.parent / "ranks", "gensar", RankingSettings(users_per_batch=7))
    return schema.RANKS.read(trained.parent / "ranks" / "gensar.parquet")


def make_task(corpus: Path, samples: Path, **changes: Any) -> GeneratorTask:
    chosen = settings(**changes)
    model = backbone.build(chosen, corpus, 1)
    examples = load_examples(corpus, folders.VOCABULARY)
    return GeneratorTask(model, chosen, examples, load_validation(corpus, samples, model, 5), 1)


def test_a_tiny_model_learns_its_examples_by_heart(ranks: pl.DataFrame, trained: Path) -> None:
    assert len(ranks) == 4 * USERS
    assert (ranks["rank"] == 1.0).all()
    assert (ranks["n_candidates"] == 10).all()
    assert ranks["sample_id"].to_list() == list(range(4 * USERS))
    assert read_record(trained.parent / "ranks" / "gensar.stage.json")["counts"]["search_test_hr@5"] == 1.0
    curve = json.loads((trained / "curve.json").read_text())
    for task in ("nrip", "nsip"):
        assert curve[-1][f"train_loss_{task}"] < 0.1 < curve[0][f"train_loss_{task}"]
    for entry in curve:
        assert entry["score"] == pytest.approx((entry["rec_ndcg@5"] + entry["search_ndcg@5"]) / 2)
    assert read_record(trained / "stage.json")["counts"]["best_score"] == max(entry["score"] for entry in curve)


def test_validation_among_the_catalogue_ranks_all_items(corpus: Path, tmp_path: Path) -> None:
    samples = folders.write_samples(tmp_path / "samples", USERS, negatives=folders.N_ITEMS - 1)
    model = backbone.build(settings(), corpus, 1).eval()
    lists, searched = (load_validation(corpus, samples, model, 0, among_catalogue=among) for among in (False, True))
    for ranked, found in zip(lists, searched, strict=True):
        assert found.metrics(model) == pytest.approx(ranked.metrics(model))


def process_of_two(rank: int, parts: list[np.ndarray]) -> Processes:
    """One of two processes, which keeps what it would sum with the other."""

    def keep(ranks: np.ndarray) -> np.ndarray:
        parts.append(ranks)
        return np.maximum(ranks, 1.0)

    return cast("Processes", SimpleNamespace(own=lambda count: np.arange(rank, count, 2), sum=keep))


@pytest.mark.parametrize("among_catalogue", [False, True])
def test_validation_reads_blocks_of_lists_and_processes_share_each(
    among_catalogue: bool, corpus: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = backbone.build(settings(), corpus, 1).eval()
    users = USERS // 2 + 1

    def metrics(processes: Processes = ALONE) -> dict[str, float]:
        read = load_validation(corpus, samples, model, users, "latest", among_catalogue=among_catalogue)
        assert all(len(validation.lists) == users for validation in read)
        return {name: value for one in read for name, value in one.metrics(model, processes).items()}

    whole = metrics()
    for rows in (1, 3, users):
        monkeypatch.setattr(validation_candidates, "_ROWS", rows)
        assert metrics() == pytest.approx(whole)
        parts: list[np.ndarray] = []
        for rank in range(2):
            metrics(process_of_two(rank, parts))
        # Each list is ranked by one process alone, which leaves the others' at zero.
        assert len(parts) == 4
        for first, second in zip(parts[:2], parts[2:], strict=True):
            assert ((first == 0) != (second == 0)).all()
            assert (first[::2] != 0).all()


def test_ranks_do_not_depend_on_the_batch_and_are_repeatable(
    ranks: pl.DataFrame, trained: Path, corpus: Path, samples: Path, tmp_path: Path
) -> None:
    for name, users in (("one", 1), ("all", 64)):
        rank_candidates(trained, corpus, samples, tmp_path, name, RankingSettings(users_per_batch=users))
        assert schema.RANKS.read(tmp_path / f"{name}.parquet").equals(ranks)
    rank_candidates(trained, corpus, samples, tmp_path, "again", RankingSettings(users_per_batch=64))
    assert (tmp_path / "all.parquet").read_bytes() == (tmp_path / "again.parquet").read_bytes()


def test_the_folder_opens_with_the_library_and_gives_the_same_scores(trained: Path, corpus: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(trained).eval()
    assert AutoTokenizer.from_pretrained(trained).convert_tokens_to_ids("<M2_3>") == folders.token("<M2_3>")
    generator = TrainedGenerator.load(trained, corpus)
    for task in schema.TASKS:
        prompts = [folders.prompt_row(task, user) for user in range(4)]
        candidates = np.tile(np.arange(folders.N_ITEMS, dtype=np.int32), (4, 1))
        scores = generator.score(ragged(prompts), candidates, task)
        for user, prompt in enumerate(prompts):
            for item in (0, 7, folders.target_of(task, user)):
                expected = log_probability(model, prompt, folders.item_row(task, item), None)
                assert scores[user, item] == pytest.approx(expected, abs=1e-4, rel=1e-5)


def test_the_seed_alone_decides_the_bytes(
    corpus: Path, samples: Path, tmp_path: Path, torch_threads: Callable[[int], None]
) -> None:
    # Micro-batches small enough that a step has several, with dropout, clipping, validations and the last ranking.
    chosen = settings(epochs=2.0, batch_tokens=40)
    results = []
    for seed, threads in ((1, 1), (1, 2), (1, 5), (2, 5)):
        torch_threads(threads)
        folder = tmp_path / f"{seed} {threads}"
        train_generator(corpus, samples, folder, chosen, seed, None)
        results.append([(folder / name).read_bytes() for name in ("model.safetensors", "curve.json")])
    assert results[0] == results[1] == results[2]
    assert results[3][0] != results[0][0]


@pytest.mark.parametrize("writable", [True, False])
def test_examples_from_the_disk_are_those_of_the_file(corpus: Path, writable: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr("gensar_core.runtime.reading.PART_ROWS", 7)
    monkeypatch.setattr("gensar_core.runtime.mapped_arrays.os.access", lambda *_: writable)
    before = sorted(corpus.iterdir())
    examples = load_examples(corpus, folders.VOCABULARY)
    table = pl.read_parquet(corpus / "train.parquet")
    for row, (task, history, value, target) in enumerate(
        table.select("task", "history_ids", "value_ids", "target_ids").iter_rows()
    ):
        shown = examples.inputs.shown.take(examples.prompt[[row]])
        assert (shown.history.values.tolist(), shown.value.values.tolist()) == (history, value)
        assert examples.targets.take(np.array([row])).values.tolist() == target
        assert examples.task_names[examples.task[row]] == task
        assert examples.task_names[examples.inputs.task[examples.prompt[row]]] == task
    assert len(examples) == len(table)
    assert isinstance(examples.targets.values.base, np.memmap)
    # The mapped files have no name.
    assert sorted(corpus.iterdir()) == before


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_killed_run_continues_to_the_same_bytes(
    corpus: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    # Validates before the step whose checkpoint is continued, and after it.
    chosen = settings(epochs=6.0, validations_per_epoch=1, optimizer=optimizer)
    train_generator(corpus, samples, tmp_path / "whole", chosen, 1, tmp_path / "unused")
    steps = kill_at(11, GeneratorTask, monkeypatch)
    with pytest.raises(Killed):
        train_generator(corpus, samples, tmp_path / "killed", chosen, 1, tmp_path / "checkpoints")
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    train_generator(corpus, samples, tmp_path / "killed", chosen, 1, tmp_path / "checkpoints")
    assert len(steps) == 15 + 1
    for name in ("model.safetensors", "curve.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_cutting_a_step_into_micro_batches_does_not_change_its_gradient(corpus: Path, samples: Path) -> None:
    tasks = [make_task(corpus, samples, batch_tokens=tokens, label_smoothing=0.1) for tokens in (24, 1000)]
    losses = []
    for task in tasks:
        without_dropout(task.module).train()
        step = next(task.batches(2))
        losses.append(task.backward(step))
        assert (len(step.parts) > 3) == (task is tasks[0])
    torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-6)
    cut, whole = ([parameter.grad for parameter in task.module.parameters()] for task in tasks)
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-4)


def test_the_loss_is_the_mean_over_the_tokens_of_the_step(corpus: Path, samples: Path) -> None:
    task = make_task(corpus, samples, batch_tokens=30)
    task.module.eval()
    step = next(task.batches(0))
    losses = task.backward(step)
    by_task: dict[str, list[float]] = {"nrip": [], "nsip": []}
    for part in step.parts:
        for row, target, code in zip(part.inputs, part.targets, part.task, strict=True):
            row, target = torch.tensor(row[row >= 0]).long(), torch.tensor(target[target >= 0]).long()
            with torch.no_grad():
                logits = task.module(input_ids=row[None], labels=target[None]).logits[0]
            by_task[["nrip", "nsip"][code]] += (-logits.log_softmax(-1)[torch.arange(len(target)), target]).tolist()
    for name, values in by_task.items():
        assert losses[f"loss_{name}"].item() == pytest.approx(np.mean(values), rel=1e-5)
    assert losses["loss"].item() == pytest.approx(np.mean(by_task["nrip"] + by_task["nsip"]), rel=1e-5)


def test_a_task_that_a_step_lacks_has_no_loss_there(corpus: Path, samples: Path) -> None:
    task = make_task(corpus, samples, batch_size=1)
    names = [set(task.backward(step)) for step in itertools.islice(task.batches(0), 6)]
    assert sorted({tuple(sorted(losses)) for losses in names}) == [("loss", "loss_nrip"), ("loss", "loss_nsip")]


def test_scratch_starts_at_the_scale_of_its_authors(corpus: Path) -> None:
    sizes = {"d_model": 64, "d_ff": 256, "d_kv": 16, "num_heads": 4}
    model = backbone.build(settings(size=ScratchSize(**sizes)), corpus, 1)
    assert model.config.vocab_size == folders.VOCABULARY
    assert model.shared.weight.std().item() == pytest.approx(1.0, rel=0.1)
    attention = model.encoder.block[0].layer[0].SelfAttention
    assert attention.q.weight.std().item() == pytest.approx((64 * 16) ** -0.5, rel=0.1)
    assert model.decoder.block[1].layer[2].DenseReluDense.wo.weight.std().item() == pytest.approx(256**-0.5, rel=0.1)
    tokens = torch.randint(2, folders.VOCABULARY, (8, 12))
    logits = model.eval()(input_ids=tokens, decoder_input_ids=tokens[:, :5]).logits
    assert 0.3 < logits.std().item() < 3.0


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A local T5 with 16 embeddings more than its tokenizer has words."""
    model = folders.random_t5(folders.BASE + 16)
    with torch.no_grad():
        model.shared.weight[:, 3] += 9.0
        model.shared.weight[folders.BASE :] = 77.0
    model.save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


def test_new_tokens_look_like_known_ones(pretrained: Path, corpus: Path) -> None:
    before = load_t5(str(pretrained)).shared.weight.detach()
    model, again = (backbone.build(settings(backbone=str(pretrained)), corpus, 1) for _ in range(2))
    table = model.get_input_embeddings().weight.detach()
    known, new = table[: folders.BASE], table[folders.BASE : folders.VOCABULARY]
    assert torch.equal(known, before[: folders.BASE])
    assert len(table) == max(len(before), folders.VOCABULARY) == model.config.vocab_size
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert (new.mean(0) - known.mean(0)).abs().max() < 1.2
    assert new.std().item() == pytest.approx(known.std().item(), rel=0.2)
    assert len(torch.unique(new, dim=0)) == len(new)
    assert torch.equal(table, again.shared.weight)


def generator_folder(folder: Path, new: list[str], tied: bool, words: list[str] = folders.WORDS) -> Path:
    """A model with random rows for the words and the new tokens of its own tokenizer, in this order."""
    model = folders.random_t5(len(words) + len(new))
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    model.save_pretrained(folder)
    folders.write_tokenizer(folder, new, words)
    return folder


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_tokens_of_a_trained_generator_keep_their_rows_under_other_numbers(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], tied: bool
) -> None:
    # The model lacks four tokens of the corpus, has some that the corpus lacks, and all in another order.
    model_tokens = [*(f"<X_{code}>" for code in range(9)), *reversed(folders.NEW[4:])]
    folder = generator_folder(tmp_path / "trained", model_tokens, tied)
    before = load_t5(str(folder))
    model = backbone.build(settings(backbone=str(folder)), corpus, 1)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    without_names = backbone.build(settings(backbone=str(folder)), corpus, 1)
    log = capfd.readouterr().err
    for kept_rows in (17, 0):
        assert f"backbone: of 21 identifier and behavior tokens, {kept_rows} are" in log
    for name in ("shared", "lm_head"):
        old, new, fresh = (getattr(one, name).weight.detach() for one in (before, model, without_names))
        assert len(new) == folders.VOCABULARY
        assert torch.equal(new[: folders.BASE], old[: folders.BASE])
        for token in folders.NEW:
            row = new[folders.token(token)]
            if token in model_tokens:
                assert torch.equal(row, old[folders.BASE + model_tokens.index(token)])
            else:
                # Drawn as in the model without names, and unlike any row of the old one.
                assert torch.equal(row, fresh[folders.token(token)])
                assert not (row == old).all(dim=1).any()
    assert (model.lm_head.weight is model.shared.weight) == tied


def test_a_backbone_whose_words_have_other_numbers_is_refused(corpus: Path, tmp_path: Path) -> None:
    words = [*folders.WORDS[:5], folders.WORDS[6], folders.WORDS[5], *folders.WORDS[7:]]
    folder = generator_folder(tmp_path / "trained", folders.NEW, True, words)
    with pytest.raises(UserError, match=r"token 'word2' is 5 in the tokenizer of .*, that of .* has it as 6; give the"):
        backbone.build(settings(backbone=str(folder)), corpus, 1)


def test_a_training_that_starts_from_another_continues_its_weights(
    trained: Path, corpus: Path, samples: Path, tmp_path: Path
) -> None:
    still = settings(epochs=0.5, learning_rate=1e-9)
    train_generator(corpus, samples, tmp_path / "staged", still, 1, None, start_from=trained)
    assert json.loads((tmp_path / "staged" / "curve.json").read_text())[-1]["score"] == 1.0
    inputs = read_record(tmp_path / "staged" / "stage.json")["inputs"]
    assert inputs[str(trained / "model.safetensors")] == digest(trained / "model.safetensors")

    train_generator(corpus, samples, tmp_path / "third", still, 1, None, start_from=tmp_path / "staged")
    records = [read_record(folder / "stage.json") for folder in (trained, tmp_path / "staged", tmp_path / "third")]
    assert "earlier_seconds" not in records[0]["counts"]
    for name in ("seconds", "cpu_seconds"):
        assert records[1]["counts"][f"earlier_{name}"] == records[0][name] > 0.0
        both = records[0][name] + records[1][name]
        assert records[2]["counts"][f"earlier_{name}"] == pytest.approx(both, abs=0.001)


def test_backbones_that_do_not_fit_are_named(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    folders.random_t5(12).save_pretrained(tmp_path / "small")
    folders.random_t5(50, eos_token_id=2).save_pretrained(tmp_path / "ends")
    for folder, message in {
        "missing": "missing' cannot be loaded",
        "bert": "is a bert; name a T5",
        "small": "has 12 embeddings, but the tokenizer",
        "ends": r"eos_token_id 2, the tokenizer of .* has 1",
    }.items():
        with pytest.raises(UserError, match=message):
            backbone.build(settings(backbone=str(tmp_path / folder)), corpus, 1)


def changed(corpus: Path, folder: Path, name: str, frame: pl.DataFrame) -> Path:
    """A copy of the corpus with one table replaced."""
    shutil.copytree(corpus, folder)
    frame.write_parquet(folder / name)
    return folder


def test_corpora_that_do_not_fit_are_named(trained: Path, corpus: Path, samples: Path, tmp_path: Path) -> None:
    items = pl.read_parquet(corpus / "item_tokens.parquet")
    last_code = folders.token("<M3_0>")
    for message, table in {
        "does not end with the end of sequence, token 1": items.with_columns(pl.col("target_ids").list.head(3)),
        "token 10000 is outside the model's vocabulary": items.with_columns(
            pl.col("target_ids").list.eval(pl.element().replace(last_code, 10_000))
        ),
        "not numbered from 0": items.filter(pl.col("item_id") != 4),
    }.items():
        with pytest.raises(UserError, match=message):
            TrainedGenerator.load(trained, changed(corpus, tmp_path / message, "item_tokens.parquet", table))
    prompts = pl.read_parquet(corpus / "prompts.parquet").head(10)
    short = changed(corpus, tmp_path / "short", "prompts.parquet", prompts)
    with pytest.raises(UserError, match="holds no prompt for some samples"):
        rank_candidates(trained, short, samples, tmp_path / "ranks", "m", RankingSettings())
    assert not (tmp_path / "ranks" / "m.parquet").exists()
    empty = changed(corpus, tmp_path / "empty", "train.parquet", pl.DataFrame(schema=schema.CORPUS.schema))
    for folder, message in ((empty, "holds no training examples"), (tmp_path, "no such file")):
        with pytest.raises(UserError, match=message):
            load_examples(folder, folders.VOCABULARY)
    with pytest.raises(UserError, match="holds no trained model"):
        TrainedGenerator.load(tmp_path, corpus)
    with pytest.raises(UserError, match="candidate item 30 is not among the 30 items"):
        TrainedGenerator.load(trained, corpus).score(ragged([[5]]), np.array([[2, 30]], dtype=np.int32), "rec")


def test_a_poisoned_embedding_is_named_by_step_task_row_and_sample(corpus: Path, samples: Path) -> None:
    task = make_task(corpus, samples)
    # The output matrix of its own keeps the other samples' logits whole.
    task.module.lm_head.weight = torch.nn.Parameter(task.module.lm_head.weight.detach().clone())
    poisoned = 9
    task.module.shared.weight.data[poisoned, 2] = float("nan")
    examples = task.order.examples
    holds = np.array(
        [poisoned in examples.inputs.shown.take(np.array([prompt])).history.values for prompt in examples.prompt]
    )
    step = next(number for number in itertools.count() if holds[task.order.rows(number)].any())
    rows = sorted(row for row in task.order.rows(step) if holds[row])
    assert 0 < len(rows) < len(task.order.rows(step))
    # The first rows of the corpus are the users' next recommendations, then come their searches.
    named = "; ".join(f"{'nrip' if row < USERS else 'nsip'} row {row}, sample {row % USERS}" for row in rows)
    with pytest.raises(UserError) as raised:
        train(task, task.schedule(), seed=1, description="train generator", checkpoints=None)
    message = str(raised.value)
    assert f"at step {step + 1} ({len(rows)} of its samples: {named} of {corpus}/train.parquet); lower" in message
    assert message.startswith("train generator: loss, loss_n")


def test_lost_weights_name_the_first_samples_of_the_step(corpus: Path, samples: Path) -> None:
    task = make_task(corpus, samples)
    task.module.decoder.final_layer_norm.weight.data[0] = float("nan")
    message = r"not a finite number at step 1 \(all 16 samples of the step: .* and 6 more of .*train.parquet\)"
    with pytest.raises(UserError, match=message):
        train(task, task.schedule(), seed=1, description="train generator", checkpoints=None)


def test_every_parameter_is_trained_once_and_embeddings_at_their_own_rate(corpus: Path, samples: Path) -> None:
    task = make_task(corpus, samples, learning_rate=0.002, embedding_rate=10.0)
    rates = {id(parameter): group["lr"] for group in task.optimizer.param_groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in task.optimizer.param_groups) == len(rates)
    assert set(rates) == {id(parameter) for parameter in task.module.parameters()}
    # 10 x 0.002 for the embeddings (tied or not), 0.002 for all else.
    embeddings = {id(task.module.shared.weight), id(task.module.lm_head.weight)}
    assert {key: rates[key] for key in embeddings} == dict.fromkeys(embeddings, pytest.approx(0.02))
    assert {rate for key, rate in rates.items() if key not in embeddings} == {0.002}


def test_adafactor_moves_each_matrix_by_a_share_of_its_size(corpus: Path, samples: Path) -> None:
    """Embeddings of unit variance and attention's narrow matrices: the first step is a hundredth of either at most."""
    task = make_task(corpus, samples, optimizer="adafactor", learning_rate=0.01, weight_decay=0.0)
    before = {name: parameter.detach().clone() for name, parameter in task.module.named_parameters()}
    task.backward(next(task.batches(0)))
    task.optimizer.step()
    moved = {
        name: float(((parameter.detach() - before[name]).square().mean() / before[name].square().mean()).sqrt())
        for name, parameter in task.module.named_parameters()
        if parameter.grad is not None
    }
    assert all(share <= 0.01 * 1.001 for share in moved.values())
    # A matrix whose rows are all in use moves by all of it.
    assert moved["decoder.block.0.layer.0.SelfAttention.q.weight"] == pytest.approx(0.01, rel=0.2)


def test_the_rate_of_a_step_follows_the_schedule(corpus: Path, samples: Path) -> None:
    task = make_task(corpus, samples, rate_schedule="inverse_square_root", warmup_share=0.05, epochs=40.0)
    rate = task.schedule().rate
    # 40 examples, 16 a step: 100 steps, of which 5 at the full rate.
    assert rate is not None
    assert [rate(step) for step in (0, 4, 19, 79)] == pytest.approx([1.0, 1.0, 0.5, 0.25])
    cosine = make_task(corpus, samples).schedule().rate
    assert cosine is not None
    assert cosine(19) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("kind", ["scratch", "pretrained"])
def test_an_untied_output_is_fresh_keeps_the_scale_and_is_stored(
    corpus: Path, samples: Path, pretrained: Path, tmp_path: Path, kind: str
) -> None:
    name = "scratch" if kind == "scratch" else str(pretrained)
    tied, untied = (backbone.build(settings(backbone=name, untied_output=one), corpus, 1) for one in (False, True))
    assert torch.equal(untied.shared.weight, tied.shared.weight)
    assert untied.lm_head.weight.shape == tied.lm_head.weight.shape
    # A linear layer of torch begins within the square root of its inputs.
    assert untied.lm_head.weight.abs().max().item() == pytest.approx(untied.config.d_model**-0.5, rel=0.05)
    chosen = settings(backbone=name, untied_output=True, epochs=1.0)
    train_generator(corpus, samples, tmp_path / "untied", chosen, 1, None)
    stored = load_t5(str(tmp_path / "untied"))
    assert not torch.equal(stored.lm_head.weight, stored.shared.weight)
    generator = TrainedGenerator.load(tmp_path / "untied", corpus)
    library = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "untied").eval()
    prompt = folders.prompt_row("rec", 3)
    scores = generator.score(ragged([prompt]), np.arange(3, dtype=np.int32)[None], "rec")[0]
    expected = [log_probability(library, prompt, folders.item_row("rec", item), None) for item in range(3)]
    assert scores == pytest.approx(expected, abs=1e-4)
    # The next stage keeps both matrices.
    further = backbone.build(settings(), corpus, 2, tmp_path / "untied")
    assert torch.equal(further.lm_head.weight, stored.lm_head.weight)


def test_a_corpus_of_other_identifiers_is_named(trained: Path, corpus: Path, tmp_path: Path) -> None:
    record = json.loads((corpus / "new_tokens.json").read_text())
    # Equally many tokens, two of them in each other's place; or one that the model's tokenizer lacks.
    for name, changes, message in (
        ("swapped", {"<M1_0>": 44, "<M1_1>": 43}, r"token <M1_0> is 44, the tokenizer in .* has it as 43"),
        ("more", {"<X9_1>": 60}, r"token <X9_1> is 60, the tokenizer in .* does not have it"),
    ):
        other = shutil.copytree(corpus, tmp_path / name)
        (other / "new_tokens.json").write_text(json.dumps(record | {"tokens": record["tokens"] | changes}))
        with pytest.raises(UserError, match=message):
            TrainedGenerator.load(trained, other)


def test_inputs_longer_than_a_backbone_has_seen_are_named(tmp_path: Path) -> None:
    rows = PromptInputs.whole(ragged([[0] * 3, [0] * 9]))
    check_lengths(rows, None, tmp_path)
    check_lengths(rows, 9, tmp_path)
    with pytest.raises(UserError, match="an input has 9 tokens, the backbone was pretrained on 8 at most; lower"):
        check_lengths(rows, 8, tmp_path)

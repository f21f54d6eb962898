"""A training by several processes through its rule, as a machine with several GPUs runs it."""

import contextlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from gensar_core.config.experiments import load_experiments
from gensar_core.config.generators import TrainingSettings
from gensar_core.generator.train import train_generator
from gensar_core.generator.training_task import GeneratorTask
from tests.support import generator_folders as folders

USERS = 20
MODEL = "results/demo/models/gensar_demo_t5"
LOG = "results/demo/logs/train_generator_gensar_demo_t5.log"
#: Several micro-batches a step, dropout in each, and validations in between.
SETTINGS = {
    "size": {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 1, "num_decoder_layers": 1},
    "epochs": 6.0, "batch_size": 16, "batch_tokens": 40, "warmup_share": 0.05, "learning_rate": 5.0e-3,
    "task_weights": {}, "validation_users": 0, "validations_per_epoch": 1, "patience": None,
    "warm_start": False, "likelihood": "catalogue", "weight_average": 0.9,
}  # fmt: skip


def train_alone(folder, output, settings, seed, checkpoints, steps=None):
    """Train in this process; with ``steps``, until it is killed in the step after those."""
    plain, calls = GeneratorTask.backward, []

    def backward(self, batch):
        calls.append(1)
        if len(calls) == steps + 1:
            raise KeyboardInterrupt
        return plain(self, batch)

    corpus, samples = folder / "results/demo/corpora/demo", folder / "results/demo/samples"
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        if steps is not None:
            patch.setattr(GeneratorTask, "backward", backward)
        train_generator(corpus, samples, output, settings, seed, checkpoints)


def prepare(workflow):
    """Write what a training reads, and train in this process into the folder "alone"; return the settings and seed."""
    folder = workflow.folder
    with workflow.configuration() as values:
        values["generators"]["gensar_demo_t5"] |= SETTINGS
    experiments = load_experiments(values)
    settings, seed = experiments.generators["gensar_demo_t5"].part(TrainingSettings), experiments.seed
    folders.write_corpus(folder / "results/demo/corpora/demo", USERS)
    folders.write_samples(folder / "results/demo/samples", USERS)
    train_alone(folder, folder / "alone", settings, seed, None)
    return settings, seed


def assert_as_alone(folder):
    """Compare the trained model with that of one process: equal but for the rounding of sums."""
    expected, weights = (load_file(model / "model.safetensors") for model in (folder / "alone", folder / MODEL))
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(weights[name], values, atol=2e-6, rtol=1e-4)
    curves = [json.loads((model / "curve.json").read_text()) for model in (folder / "alone", folder / MODEL)]
    for entry, same in zip(*curves, strict=True):
        assert entry.keys() == same.keys()
        np.testing.assert_allclose(list(entry.values()), list(same.values()), rtol=1e-5)


def test_two_processes_learn_what_one_learns(workflow, monkeypatch):
    monkeypatch.setenv("GENSAR_DEVICE", "cpu")
    folder = workflow.folder
    settings, seed = prepare(workflow)

    # Two processes go on from where one was killed.
    monkeypatch.setenv("GENSAR_CHECKPOINT_SECONDS", "0")
    train_alone(folder, folder / "killed", settings, seed, folder / "results/demo/checkpoints/gensar_demo_t5", steps=3)
    options = ("--allowed-rules", "train_generator", "--set-resources", "train_generator:processes=2")
    workflow.run(f"{MODEL}/stage.json", options=options)
    log = (folder / LOG).read_text()
    assert log.count("continues at step 3 of 15") == 1
    assert log.count("step 15 of 15") == 1
    assert "torchelastic" not in log
    assert not (folder / "results/demo/checkpoints/gensar_demo_t5").exists()
    assert json.loads((folder / MODEL / "stage.json").read_text())["counts"]["processes"] == 2
    assert_as_alone(folder)
    # Another number of processes is no reason to train again.
    assert workflow.planned(f"{MODEL}/stage.json", allowed_rules=("train_generator",)) == set()

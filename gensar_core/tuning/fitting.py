"""Fit a method or a generator with given settings, and rank the valid targets."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gensar_core.baselines.interface import Method, MethodData, find
from gensar_core.baselines.shared.trained_method import TrainedMethod
from gensar_core.config.base import Settings, validate
from gensar_core.config.generators import TrainingSettings
from gensar_core.config.inheritance import merge
from gensar_core.config.search_spaces import SearchSpace, search_space
from gensar_core.generator.train import fit_generator, training_files
from gensar_core.ranking.candidates import CandidateBlocks
from gensar_core.ranking.metrics import average_ranks
from gensar_core.ranking.validation_candidates import WHOLE, ValidLists
from gensar_core.training.loop import Watch
from gensar_core.training.processes import ALONE

#: Valid lists ranked at a time.
_LISTS = 4096
#: Metrics of the valid targets by name; `score`, the mean NDCG@5 of the tasks, chooses the best trial.
Metrics = dict[str, float]


class Tuned(abc.ABC):
    """Hold an entry of `methods` or `generators` whose settings are varied.

    ``inputs`` are the files that a fit reads, and ``code`` is the module that does it.
    """

    settings: Settings
    inputs: list[Path]
    code: str

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.seed = seed

    def space(self) -> SearchSpace:
        """Return the ranges that the entry's settings declare."""
        return search_space(self.settings)

    def varied(self, values: Mapping[str, Any]) -> Settings:
        """Return the settings with other values, by the paths of their keys (`one_pass.dropout`).

        Raises UserError on an unknown key and on values that may not go together.
        """
        changed = self.settings.model_dump()
        for path, value in values.items():
            for key in reversed(path.split(".")):
                value = {key: value}
            changed = merge(changed, value)
        return validate(type(self.settings), changed, "tune", self.name)

    @abc.abstractmethod
    def fit(self, settings: Any, checkpoints: Path, key: str, watch: Watch) -> Metrics:
        """Fit with these settings; return the metrics of the best validation. Reads no test target.

        ``checkpoints``, ``key`` and ``watch`` are passed on to `training.loop.train`.
        """


class TunedMethod(Tuned):
    """Hold an entry of `methods`; ``overrides`` are the keys of its method's own settings."""

    def __init__(
        self,
        name: str,
        seed: int,
        kind: str,
        overrides: Mapping[str, Any],
        canonical: Path,
        samples: Path,
        embedding: Path | None = None,
        training_negatives: Path | None = None,
        cold_items: Path | None = None,
    ) -> None:
        super().__init__(name, seed)
        self.method = find(kind, f"methods.{name}.kind")
        self.settings = validate(self.method.settings_model, dict(overrides), f"methods.{name}")
        self.data = MethodData(canonical, samples, embedding, training_negatives, cold_items)
        self.code = self.method.__module__
        self.inputs = [samples / file for file in ("training_events.parquet", "samples.parquet", "candidates.parquet")]
        self.inputs += [canonical / file for file in ("items.parquet", "queries.parquet")]
        self.inputs += [path for path in (embedding, training_negatives, cold_items) if path is not None]

    def fit(self, settings: Any, checkpoints: Path, key: str, watch: Watch) -> Metrics:
        """Fit the method; one that does not validate itself ranks the valid targets once."""
        method = self.method(settings, self.data, self.seed)
        if isinstance(method, TrainedMethod):
            method.watch = watch
        counts = method.fit(checkpoints, key)
        return best_validation(counts["curve"]) if "curve" in counts else valid_metrics(method)


class TunedGenerator(Tuned):
    """Hold an entry of `generators`; the arguments are those of `train_generator`."""

    code = fit_generator.__module__

    def __init__(
        self,
        name: str,
        seed: int,
        settings: TrainingSettings,
        corpus: Path,
        samples: Path,
        token_vectors: Path | None = None,
        start_from: Path | None = None,
        cold_items: Path | None = None,
    ) -> None:
        super().__init__(name, seed)
        self.settings: TrainingSettings = settings
        self.files = corpus, samples, token_vectors, start_from, cold_items
        self.inputs = training_files(corpus, samples, settings, token_vectors, start_from, cold_items)

    def space(self) -> SearchSpace:
        """Return the ranges of the settings that this backbone reads."""
        settings = self.settings
        pretrained = settings.backbone not in ("scratch", "causal")
        unread = [
            "size." if settings.reads_logs or pretrained else None,
            None if settings.reads_logs else "one_pass.",
            "embedding_rate" if pretrained else None,
        ]
        return {path: one for path, one in super().space().items() if not path.startswith(tuple(filter(None, unread)))}

    def fit(self, settings: Any, checkpoints: Path, key: str, watch: Watch) -> Metrics:
        """Train the generator."""
        corpus, samples, token_vectors, start_from, cold_items = self.files
        _, record = fit_generator(
            corpus, samples, settings, self.seed, checkpoints, ALONE, token_vectors, start_from, cold_items, key, watch
        )
        return best_validation(record.history)


def best_validation(curve: list[dict[str, float]]) -> Metrics:
    """Return the metrics of the best entry of a training's curve, the first of equal ones."""
    best = max(curve, key=lambda entry: entry["score"])
    return {name: value for name, value in best.items() if name != "step" and not name.startswith("train_")}


def valid_metrics(method: Method[Any]) -> Metrics:
    """Rank the valid targets of a fitted method's tasks among their candidates."""
    metrics: Metrics = {}
    for task in method.tasks:
        lists = CandidateBlocks.open(method.data.samples_folder, task, "valid", _LISTS)
        if len(lists):
            of_task = ValidLists(lists, WHOLE).metrics(lambda rows: average_ranks(method.score(rows), rows.present))
            metrics |= {f"{task}_valid_{name}": value for name, value in of_task.items()}
    scores = [value for name, value in metrics.items() if name.endswith("ndcg@5")]
    return {"score": float(np.mean(scores)), **metrics}

"""Run `train_generator` in one process or several, on one machine or several, with the same result."""

from __future__ import annotations

import sys
from pathlib import Path

from gensar_core.config.generators import TrainingSettings
from gensar_core.generator.train import train_generator
from gensar_core.training.launch import launch, work
from gensar_core.training.processes import Processes


def train_generator_in(
    processes: int,
    nodes: int,
    corpus: Path,
    samples: Path,
    output: Path,
    settings: TrainingSettings,
    seed: int,
    checkpoints: Path,
    token_vectors: Path | None = None,
    start_from: Path | None = None,
    cold_items: Path | None = None,
) -> None:
    """Run `train_generator` in ``processes`` processes on each of ``nodes`` nodes; 1 and 1 mean this process itself."""
    if processes * nodes == 1:
        train_generator(
            corpus,
            samples,
            output,
            settings,
            seed,
            checkpoints,
            token_vectors=token_vectors,
            start_from=start_from,
            cold_items=cold_items,
        )
    else:
        arguments = [corpus, samples, output, settings.canonical(), seed, checkpoints]
        arguments += [token_vectors or "", start_from or "", cold_items or ""]
        launch(__name__, [str(argument) for argument in arguments], processes, nodes)


def _train(processes: Processes) -> None:
    corpus, samples, output, settings, seed, checkpoints, token_vectors, start_from, cold_items = sys.argv[1:]
    train_generator(
        Path(corpus),
        Path(samples),
        Path(output),
        TrainingSettings.model_validate_json(settings),
        int(seed),
        Path(checkpoints),
        processes,
        Path(token_vectors) if token_vectors else None,
        Path(start_from) if start_from else None,
        Path(cold_items) if cold_items else None,
    )


if __name__ == "__main__":
    work(_train)

"""Search a method's settings by validation: fit every combination of a grid, without looking at a test target.

`python benchmarks/tune.py results/beauty sasrec --grid '{"dropout": [0.3, 0.5], "negatives": [512, 2048]}'` reads the
data set's results (canonical/, samples/, and training_negatives/ if present) and fits the method with each combination.
It prints one JSON object for each, and at the end for the best: the settings, valid NDCG@5 (the mean over the method's
tasks), the best validation if there were several, and seconds.

    --set KEY=VALUE   a setting for all combinations (JSON value); repeat for several settings
    --embedding FILE  vectors.safetensors, for methods that read text vectors
    --one-by-one      coordinate search: vary one key at a time, starting from the first value of each
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gensar_core.baselines.interface import Method, MethodData, find
from gensar_core.baselines.run import weights_learned
from gensar_core.config.base import validate
from gensar_core.ranking.candidates import load_candidates
from gensar_core.ranking.metrics import average_ranks, ndcg

Grid = Mapping[str, Sequence[Any]]


def main() -> None:
    """Run the search and print its results."""
    parser = argparse.ArgumentParser(description="a method's settings, searched by valid NDCG@5")
    parser.add_argument("dataset", type=Path, help="folder of the data set's results")
    parser.add_argument("method", help="a file of gensar_core/baselines, by name")
    parser.add_argument("--grid", type=json.loads, required=True, help="JSON: values of each setting")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting that all share")
    parser.add_argument("--embedding", type=Path)
    parser.add_argument("--one-by-one", action="store_true", help="vary one key at a time, keeping the best of each")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    shared = {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    stored = arguments.dataset / "training_negatives" / "training_negatives.parquet"
    negatives = stored if stored.is_file() else None
    data = MethodData(arguments.dataset / "canonical", arguments.dataset / "samples", arguments.embedding, negatives)

    def trial(overrides: Mapping[str, Any]) -> dict[str, Any]:
        outcome = {"settings": dict(overrides), **fit(arguments.method, {**shared, **overrides}, data, arguments.seed)}
        print(json.dumps(outcome), flush=True)
        return outcome

    search = along_coordinates if arguments.one_by_one else over_all
    best = search(arguments.grid, trial)
    print(json.dumps({"dataset": arguments.dataset.name, "method": arguments.method, "shared": shared, "best": best}))


def fit(kind: str, settings: Mapping[str, Any], data: MethodData, seed: int) -> dict[str, Any]:
    """Fit once and return the validation result and the costs."""
    method_class = find(kind)
    method = method_class(validate(method_class.settings_model, dict(settings), kind), data, seed)
    started, worked = time.perf_counter(), time.process_time()
    counts = method.fit(None, "")
    return {
        **(best_validation(counts) if "curve" in counts else {"valid_ndcg@5": round(validated(method), 5)}),
        "seconds": round(time.perf_counter() - started, 1),
        "parameters": weights_learned(method),
        "cpu_seconds": round(time.process_time() - worked, 1),
    }


def best_validation(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Summarize the validations of a training."""
    return {
        "valid_ndcg@5": round(counts["best_valid_ndcg@5"], 5),
        "best_validation": 1 + [entry["step"] for entry in counts["curve"]].index(counts["best_step"]),
        "validations": len(counts["curve"]),
    }


def validated(method: Method[Any]) -> float:
    """Compute mean valid NDCG@5 over the tasks of a method that does not validate itself."""
    lists = [load_candidates(method.data.samples_folder, task, "valid") for task in method.tasks]
    return float(
        np.mean([ndcg(average_ranks(method.score(of_task), of_task.present), 5) for of_task in lists if len(of_task)])
    )


def combinations(grid: Grid) -> Iterator[dict[str, Any]]:
    """Yield every combination of the grid's values."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def over_all(grid: Grid, trial: Any) -> dict[str, Any]:
    """Return the best trial of all combinations."""
    best: dict[str, Any] = max(map(trial, combinations(grid)), key=score)
    return best


def along_coordinates(grid: Grid, trial: Any) -> dict[str, Any]:
    """Return the best trial of a coordinate search: vary one key after another, keeping the best value of each."""
    best: dict[str, Any] = trial({key: values[0] for key, values in grid.items()})
    for key, values in grid.items():
        best = max([best, *(trial({**best["settings"], key: value}) for value in values[1:])], key=score)
    return best


def score(outcome: Mapping[str, Any]) -> float:
    """Return the metric that selects a trial."""
    return float(outcome["valid_ndcg@5"])


if __name__ == "__main__":
    main()

"""Measure SASRec's quality on Amazon Beauty under the field's usual protocol, ranking the whole catalogue.

`python benchmarks/sequential_quality.py` trains SASRec on the 5-core Beauty reviews (22,363 users, 12,101 items) with
the settings below, chosen by NDCG@10 on the valid targets, and ranks the test targets among all items.

    --raw FOLDER      folder of reviews_Beauty_5.json.gz
    --set KEY=VALUE   override a setting (JSON value); repeat for several settings
    --quick           a small simulated shop, to test the benchmark itself
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from _full_ranking import ClickLog, fit, full_ranks, metrics_of
from _measure import claim, options, report

from gensar_core.baselines.methods.sasrec import METHOD, SASRecSettings
from gensar_core.config.base import validate
from gensar_core.runtime.arrays import Ragged

RAW = Path(__file__).parents[2] / "shared" / "data" / "amazon_beauty"
#: The best settings on the valid targets among those in docs/tuning.md.
CHOSEN = {
    "loss": "softmax",
    "rows": "prefixes",
    "initial_std": 0.02,
    "dimensions": 64,
    "dropout": 0.5,
    "max_history": 50,
    "learning_rate": 1.0e-3,
    "falling_rate": True,
    "batch_size": 256,
    "epochs": 16,
    "validate_every": 4,
    "patience": 3,
}
QUICK = {"dimensions": 16, "epochs": 2, "validate_every": 1}


def main() -> None:
    """Train, rank and print the claims."""
    parser = options("SASRec on Beauty: Recall@10 and NDCG@10 over the whole catalogue")
    parser.add_argument("--raw", type=Path, default=RAW, help="folder of reviews_Beauty_5.json.gz")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value of a setting")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    overrides = {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    settings = validate(SASRecSettings, CHOSEN | (QUICK if arguments.quick else {}) | overrides, "--set")
    log = simulated() if arguments.quick else ClickLog.from_reviews(arguments.raw / "reviews_Beauty_5.json.gz")
    with tempfile.TemporaryDirectory(prefix="gensar-sequential-") as folder:
        method = METHOD(settings, log.data(Path(folder)), arguments.seed)
        started = time.perf_counter()
        record = fit(method, log)
        seconds = time.perf_counter() - started
    histories, targets = log.without_last(1), log.target(1)
    test = metrics_of(full_ranks(method, histories, targets, filter_seen=True))
    with_history = metrics_of(full_ranks(method, histories, targets))
    size = f"{len(log.clicks):,} users, {log.n_items:,} items, those of the history left out"
    how = {"": f"test, {size}; best of valid NDCG@10 {record.best_score:.4f}"}
    how["_with_history"] = "the same, items of the history ranked too"
    claims = [
        claim(f"{metric}_at_10{suffix}", metrics[f"{metric}@10"], "share", how[suffix])
        for suffix, metrics in (("", test), ("_with_history", with_history))
        for metric in ("recall", "ndcg")
    ]
    claims.append(claim("training_seconds", seconds, "s", f"{record.steps:,} steps, validations included"))
    report("sequential_quality", claims)


def simulated() -> ClickLog:
    """Simulate a shop for a smoke test: the next item is mostly the last item plus one."""
    rng = np.random.default_rng(0)
    starts, steps = rng.integers(200, size=(300, 1)), rng.choice([1, 1, 1, 7], size=(300, 9))
    clicks = (starts + np.cumsum(steps, axis=1)) % 200
    return ClickLog(Ragged.from_lengths(np.full(300, 9), clicks.ravel()), 200)


if __name__ == "__main__":
    main()

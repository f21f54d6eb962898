"""Compare SASRec's training and ranking speed with a well-known public implementation, RecBole from PyPI.

`python benchmarks/sequential.py` simulates clicks (22,363 users, 12,101 items, about as many clicks as Amazon Beauty,
5-core). Both implementations train one epoch on the same targets and rank the whole catalogue for every test user, each
in a separate process, with the same encoder sizes, full softmax, and the same number of targets per step. RecBole makes
a padded row of every prefix of a sequence; here a sequence is one row, trained at all of its places at once.

RecBole is no dependency of the project. Unless --peer names a folder that has it, it is installed for this run outside
the environment, which needs PyPI: `pip install --no-deps --target FOLDER` with the pins below.

    --users N       number of users; items scale in proportion
    --peer FOLDER   install RecBole there, or use it from there
    --raw FOLDER    use clicks from reviews_Beauty_5.json.gz there instead of simulated ones
    --quick         200 users, to test the benchmark itself
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from _full_ranking import ClickLog
from _measure import claim, options, report, run_child

from gensar_core.runtime.arrays import Ragged

USERS, ITEMS = 22_363, 12_101
QUICK_USERS = 200
PINS = (
    "recbole==1.2.1",
    "colorlog==4.7.2",
    "colorama==0.4.4",
    "thop==0.1.1.post2209072238",
    "texttable==1.7.0",
    "tensorboard==2.21.0",
    "protobuf==7.36.2",
    "absl-py==2.5.1",
    "markdown==3.11.3",
    "werkzeug==3.1.9",
)
#: Settings of both implementations.
SETTINGS = {
    "dimensions": 64,
    "blocks": 2,
    "heads": 2,
    "dropout": 0.5,
    "max_history": 50,
    "learning_rate": 1.0e-3,
    "seed": 42,
    "epochs": 2,
    "rankings": 2,
    "targets_a_step": 1500,
}
OURS = """
import json, sys, time
from pathlib import Path
import numpy as np
import polars as pl
sys.path.insert(0, sys.argv[1])
from _full_ranking import ClickLog, metrics_of, full_ranks
from gensar_core.baselines.methods.sasrec import METHOD, SASRecSettings
from gensar_core.baselines.shared.sequential_recommender import SequenceTraining
from gensar_core.runtime.arrays import Ragged
from gensar_core.training.loop import Schedule, train
class Unvalidated(SequenceTraining):
    def validate(self):
        return {"score": 0.0}
work, settings = Path(sys.argv[2]), json.loads(sys.argv[3])
frame = pl.read_csv(work / "clicks" / "clicks.inter", separator="\\t")
clicks = Ragged.from_lengths(frame.group_by("user:token", maintain_order=True).len()["len"].to_numpy(),
                             frame["item:token"].to_numpy())
log = ClickLog(clicks, settings["items"])
sequences = int((log.without_last(2).lengths > 1).sum())
targets = int(np.maximum(log.without_last(2).lengths - 1, 0).sum())
sizes = {name: settings[name] for name in ("dimensions", "blocks", "heads", "dropout", "max_history", "learning_rate")}
rows = max(1, round(settings["targets_a_step"] * sequences / targets))
method = METHOD(SASRecSettings(**sizes, loss="softmax", batch_size=rows), log.data(work / "ours"), settings["seed"])
training, ranking = [], []
for epoch in range(settings["epochs"]):
    training_run = Unvalidated(method, {})
    steps = training_run.steps_per_epoch
    started = time.perf_counter()
    train(training_run, Schedule(steps, steps), seed=epoch, description="SASRec", checkpoints=None)
    training.append(time.perf_counter() - started)
for _ in range(settings["rankings"]):
    started = time.perf_counter()
    metrics_of(full_ranks(method, log.without_last(1), log.target(1)))
    ranking.append(time.perf_counter() - started)
print(json.dumps({"training_seconds": min(training), "ranking_seconds": min(ranking), "targets": targets,
                  "users": len(clicks)}))
"""


def main() -> None:
    """Run both and print the claims."""
    parser = options("SASRec: training and ranking, ours and RecBole's")
    parser.add_argument("--users", type=int, default=USERS, help="simulated users")
    parser.add_argument("--peer", type=Path, help="folder of RecBole")
    parser.add_argument("--raw", type=Path, help="folder of reviews_Beauty_5.json.gz")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gensar-sequential-") as folder:
        work = Path(folder)
        peer = install(arguments.peer or work / "peer")
        if arguments.raw:
            log = ClickLog.from_reviews(arguments.raw / "reviews_Beauty_5.json.gz")
        else:
            log = simulated(QUICK_USERS if arguments.quick else arguments.users)
        write(log, work)
        settings = json.dumps(SETTINGS | {"items": log.n_items})
        here = Path(__file__).parent
        ours = run_child(OURS, here, work, settings).result()
        theirs = run_child(here / "_recbole.py", peer, work, settings).result()
    if (ours["targets"], ours["users"]) != (theirs["targets"], theirs["users"]):
        raise SystemExit(f"not the same work: ours {ours}, theirs {theirs}")
    report("sequential", claims(ours, theirs, log))


def claims(ours: dict[str, Any], theirs: dict[str, Any], log: ClickLog) -> list[dict[str, Any]]:
    """Compute the speed-ups, with the numbers behind them."""
    size = f"{ours['targets']:,} targets of {ours['users']:,} users, {log.n_items:,} items"
    work = {
        "training": ("targets", f"{size}; full softmax, about {SETTINGS['targets_a_step']} targets a step"),
        "ranking": ("users", "all items ranked and metrics computed"),
    }
    claims = []
    for name, (counted, how) in work.items():
        own, public = (one[f"{name}_seconds"] for one in (ours, theirs))
        rates = f"{ours[counted] / own:,.0f} against {theirs[counted] / public:,.0f} of RecBole 1.2.1"
        claims.append(claim(f"speedup_public_{name}", public / own, "x", f"{counted} a second: {rates} ({how})"))
        claims.append(claim(f"{name}_seconds", own, "s", f"ours, best of {SETTINGS['epochs']}"))
    return claims


def install(folder: Path) -> Path:
    """Install RecBole into a separate folder, leaving the environment unchanged."""
    if not (folder / "recbole").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PINS]
        done = subprocess.run(command, stdout=sys.stderr, check=False)
        if done.returncode:
            raise SystemExit(f"RecBole is not here and cannot be installed; run: {' '.join(command)}")
    return folder


def simulated(users: int) -> ClickLog:
    """Simulate five or more clicks per user, on items of which few are popular and some follow each other."""
    rng = np.random.default_rng(42)
    items = max(50, round(ITEMS * users / USERS))
    lengths = 5 + np.minimum(rng.geometric(0.205, size=users) - 1, 200)
    popular = np.floor(items * rng.random(int(lengths.sum())) ** 2).astype(np.int64)
    following = np.roll(popular, 1) + 1
    drawn = np.where(rng.random(len(popular)) < 0.3, following % items, popular)
    return ClickLog(Ragged.from_lengths(lengths, drawn), items)


def write(log: ClickLog, work: Path) -> None:
    """Write clicks.inter in RecBole's format, in order."""
    (work / "clicks").mkdir()
    pl.DataFrame(
        {
            "user:token": log.clicks.rows,
            "item:token": log.clicks.values,
            "time:float": np.arange(len(log.clicks.values), dtype=np.float64),
        }
    ).write_csv(work / "clicks" / "clicks.inter", separator="\t")


if __name__ == "__main__":
    main()

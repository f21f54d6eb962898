"""Measure the time and memory of turning raw Amazon files into samples with candidates.

`python benchmarks/data.py` simulates raw files of the size of Electronics (192,403 users, 63,001 reviewed items of
498,196, 1.69 million reviews) and runs the stages `canonical` and `samples` on them, each in a separate process. For
comparison, it prepares the samples of some users row by row with pandas.

    --quick         2,000 users, to test the benchmark itself
    --scale 10      ten times the users, items and reviews
    --keep FOLDER   keep the raw files there, or use the ones already there
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from _measure import Usage, claim, options, report, run_child

#: Electronics, 5-core (2014 release); the last two numbers are lines of metadata, and queries of product search.
USERS, ITEMS, PAGES, QUERIES = 192_403, 63_001, 498_196, 989
QUICK_USERS = 2_000
#: The simulated shop has 72 categories; 14 query variants of each make about as many queries as Electronics has.
SHOP = {
    "mean_reviews": 8.78,
    "missing_descriptions": 0.1,
    "dirty_lines": 0.001,
    "second_categories": 0.05,
    "review_sentences": 14,
    "related_items": 60,
    "query_variants": 14,
}

SIMULATE = """
import sys
from pathlib import Path
from gensar_core.config.datasets import SimulationSettings
from gensar_core.sources.simulated.write import simulate
simulate(SimulationSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]), 42)
"""
CANONICAL = """
import sys
from pathlib import Path
from gensar_core.config.datasets import CanonicalSettings
from gensar_core.sources.amazon.canonical import canonicalize
canonicalize(Path(sys.argv[1]), CanonicalSettings(category="Simulated"), Path(sys.argv[2]), 42)
"""
SAMPLES = """
import sys
from pathlib import Path
from gensar_core.config.datasets import SampleSettings
from gensar_core.samples.build import build_samples
build_samples(Path(sys.argv[1]), Path(sys.argv[2]), SampleSettings(), 42)
"""


@dataclass(frozen=True)
class Folders:
    """Hold the folders of a run's raw files and results."""

    raw: Path
    canonical: Path
    samples: Path


def main() -> None:
    """Run the benchmark and print its claims."""
    parser = options("raw Amazon files -> samples: seconds, memory, and a row-by-row peer")
    parser.add_argument("--scale", type=float, default=1.0, help="times the size of Electronics")
    parser.add_argument("--keep", type=Path, help="folder for raw files that stay, or are there already")
    parser.add_argument("--rowwise-users", type=int, default=1_000, help="users whom the row-by-row peer prepares")
    arguments = parser.parse_args()
    scale = QUICK_USERS / USERS if arguments.quick else arguments.scale
    with tempfile.TemporaryDirectory(prefix="gensar-data-") as scratch:
        work = Path(scratch)
        folders = Folders(arguments.keep or work / "raw", work / "canonical", work / "samples")
        write_raw(folders.raw, scale)
        stages = {
            "canonical": run_child(CANONICAL, folders.raw, folders.canonical),
            "samples": run_child(SAMPLES, folders.canonical, folders.samples),
        }
        for name, usage in stages.items():
            say(f"{name}: {usage.seconds:.1f} s, {usage.cpu_seconds:.1f} CPU s, {usage.peak_gb:.2f} GB")
        users = min(arguments.rowwise_users, 100) if arguments.quick else arguments.rowwise_users
        peer = run_child(Path(__file__).with_name("_rowwise.py"), folders.canonical, folders.samples, users)
        report("data", [*stage_claims(folders, stages), *rowwise_claims(folders, stages["samples"], peer)])


def write_raw(folder: Path, scale: float) -> None:
    """Write the raw files, unless the folder already has files of this scale."""
    items = max(150, round(ITEMS * scale))
    settings = json.dumps(
        SHOP | {"users": round(USERS * scale), "items": items, "unreviewed_items": round((PAGES - ITEMS) * scale)}
    )
    record = folder / "stage.json"
    if record.is_file():
        there = json.loads(record.read_text(encoding="utf-8"))["settings"]
        if there != there | json.loads(settings):
            raise SystemExit(f"{folder}: holds raw files of another size; name another folder")
        return
    usage = run_child(SIMULATE, settings, folder)
    say(f"raw files: {usage.seconds:.1f} s, {usage.cpu_seconds:.1f} CPU s, {usage.peak_gb:.2f} GB")


def stage_claims(folders: Folders, stages: dict[str, Usage]) -> list[dict[str, object]]:
    """Report the seconds and memory of both stages."""
    canonical, samples = counts(folders.canonical), counts(folders.samples)
    size = (
        f"{canonical['reviews_read']:,} reviews of {canonical['users_read']:,} users and {canonical['items_read']:,} "
        f"items, {canonical['metadata_cleaned']:,} lines of metadata, "
        f"{canonical['qrels_train'] + canonical['qrels_test']:,} qrels, {canonical['distinct_queries']:,} queries -> "
        f"{number_of_samples(samples):,} samples and {samples['candidate_lists']:,} candidate lists"
    )
    both = list(stages.values())
    largest = max(stages, key=lambda name: stages[name].peak_gb)
    return [
        claim("seconds_electronics", sum(usage.seconds for usage in both), "s", f"canonical + samples: {size}"),
        claim("cpu_seconds_electronics", sum(usage.cpu_seconds for usage in both), "s", "all threads, both stages"),
        claim("peak_gb_electronics", stages[largest].peak_gb, "GB", f"resident memory, stage {largest}"),
        *(claim(f"seconds_{name}", usage.seconds, "s", "start of Python included") for name, usage in stages.items()),
        *(claim(f"cpu_seconds_{name}", usage.cpu_seconds, "s", "all threads") for name, usage in stages.items()),
        *(claim(f"peak_gb_{name}", usage.peak_gb, "GB", "resident memory") for name, usage in stages.items()),
    ]


def rowwise_claims(folders: Folders, ours: Usage, peer: Usage) -> list[dict[str, object]]:
    """Compare the stage `samples` with the peer's steps, scaled to the same number of rows."""
    done = counts(folders.samples)
    found = peer.result()
    rows = {
        "histories": done["rec_with_both_histories"] + done["search_with_both_histories"],
        "sampled negatives": done["rec_valid"] + done["rec_test"],
        "BM25 negatives": done["search_valid"] + done["search_test"],
    }
    samples = number_of_samples(done)
    claims = []
    for place, (name, kind, own) in enumerate(
        [("speedup_rowwise", "wall", ours.seconds), ("speedup_rowwise_cpu", "CPU", ours.cpu_seconds)], start=1
    ):
        per_row = {step: measured[place] / max(measured[0], 1) for step, measured in found["steps"].items()}
        projected = sum(per_row[step] * count for step, count in rows.items())
        steps = ", ".join(f"{step} {1 / seconds:,.0f} rows/s" for step, seconds in per_row.items() if seconds)
        how = (
            f"samples a {kind} second: {samples / own:,.0f} of the whole stage (reading, writing and audit included) "
            f"against {samples / projected:,.0f} row by row in pandas with one BM25 search a row ({steps}; measured on "
            f"{found['steps']['histories'][0]:,} rows, {found['equal']:,} valid and test histories equal)"
        )
        claims.append(claim(name, projected / own, "x", how))
    return claims


def number_of_samples(counts: dict[str, int]) -> int:
    """Count the samples of both tasks and all splits."""
    return sum(counts[f"{task}_{split}"] for task in ("rec", "search") for split in ("train", "valid", "test"))


def counts(folder: Path) -> dict[str, int]:
    """Read the counts of a stage's record."""
    found: dict[str, int] = json.loads((folder / "stage.json").read_text(encoding="utf-8"))["counts"]
    return found


def say(line: str) -> None:
    """Print progress to stderr, since stdout ends in the report."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

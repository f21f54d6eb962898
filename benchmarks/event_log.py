"""Measure the time and memory of a user's own event log: stages `canonical`, `samples` and `training_negatives`.

`python benchmarks/event_log.py` simulates a log of the size of Electronics in Parquet (3 million events of 192,403
users on 63,001 items, a third of them searches), and runs the stages on it, each in a separate process.

    --quick         2,000 users, to test the benchmark itself
    --scale 10      ten times the users and events; the items stay
    --core 5        `min_interactions`
    --scatter 4     `canonical` in four parts, one after the other
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from _measure import claim, options, report, run_child

#: Users, items and events of Electronics (5-core, 2014), and queries a user of the simulated log draws from.
USERS, ITEMS, EVENTS, QUERIES = 192_403, 63_001, 3_000_000, 50_000
QUICK = 2_000 / USERS
#: Events simulated and written at once.
BLOCK = 1 << 20

CANONICAL = """
import sys
from pathlib import Path
from gensar_core.config.datasets import EventLogSettings
from gensar_core.sources.eventlog import canonicalize_events
raw, core, output, parts = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
settings = EventLogSettings(min_interactions=core)
canonicalize_events(raw / "items.parquet", raw / "events.parquet", settings, output, 42, parts)
"""
PART = """
import sys
from pathlib import Path
from gensar_core.config.datasets import ClickSettings
from gensar_core.sources.shared.click_logs import canonicalize_part
surveyed, core, output, part = sys.argv[1:]
canonicalize_part(Path(surveyed), Path(output), ClickSettings(min_interactions=int(core)), 42, int(part))
"""
GATHER = """
import sys
from pathlib import Path
from gensar_core.config.datasets import ClickSettings
from gensar_core.sources.shared.click_logs import gather_canonical
surveyed, core, output, *parts = sys.argv[1:]
gather_canonical(Path(surveyed), [*map(Path, parts)], Path(output), ClickSettings(min_interactions=int(core)), 42)
"""
SAMPLES = """
import sys
from pathlib import Path
from gensar_core.config.datasets import SampleSettings
from gensar_core.samples.build import build_samples
build_samples(Path(sys.argv[1]), Path(sys.argv[2]), SampleSettings(), 42)
"""
NEGATIVES = """
import sys
from pathlib import Path
from gensar_core.config.datasets import TrainingNegativesSettings
from gensar_core.samples.training_negatives import draw_training_negatives
draw_training_negatives(*map(Path, sys.argv[1:]), TrainingNegativesSettings(), 42)
"""


def main() -> None:
    """Run the benchmark and print its claims."""
    parser = options(__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="times the users and events of Electronics")
    parser.add_argument("--core", type=int, default=5, help="the setting `min_interactions`")
    parser.add_argument("--scatter", type=int, default=1, help="the setting `scatter`, for `canonical` alone")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else arguments.scale
    with tempfile.TemporaryDirectory(prefix="gensar-log-") as scratch:
        raw, canonical, samples = (Path(scratch) / name for name in ("raw", "canonical", "samples"))
        write_log(raw, scale)
        claims = []
        surveyed, core, scatter = Path(scratch) / "survey", arguments.core, arguments.scatter
        parts = [Path(scratch) / f"part{part}" for part in range(scatter)]
        in_parts = [
            ("canonical_survey", CANONICAL, (raw, core, surveyed, scatter)),
            *((f"canonical_{path.name}", PART, (surveyed, core, path, part)) for part, path in enumerate(parts)),
            ("canonical_gather", GATHER, (surveyed, core, canonical, *parts)),
        ]
        for name, code, given in (
            *(in_parts if scatter > 1 else [("canonical", CANONICAL, (raw, core, canonical, 1))]),
            ("samples", SAMPLES, (canonical, samples)),
            ("training_negatives", NEGATIVES, (canonical, samples, Path(scratch) / "negatives")),
        ):
            usage = run_child(code, *given)
            print(f"{name}: {usage}", file=sys.stderr, flush=True)
            how = f"{round(EVENTS * scale):,} raw events"
            claims.append(claim(f"cpu_seconds_{name}", usage.cpu_seconds, "s", f"all threads, {how}"))
            claims.append(claim(f"peak_gb_{name}", usage.peak_gb, "GB", f"resident memory, {how}"))
        report("event_log", claims)


def write_log(folder: Path, scale: float) -> None:
    """Write items.parquet and events.parquet; items, queries and users are drawn with a long tail."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    words = np.array([f"word{number}" for number in range(20_000)])
    texts = [" ".join(words[row]) for row in rng.zipf(1.3, (ITEMS, 30)) % len(words)]
    items = pl.DataFrame({"item_id": [f"B{number:09}" for number in range(ITEMS)], "title": texts})
    items.write_parquet(folder / "items.parquet")
    queries = pl.Series([" ".join(words[row]) for row in rng.zipf(1.3, (QUERIES, 3)) % len(words)])
    users, count = round(USERS * scale), round(EVENTS * scale)
    writer: pq.ParquetWriter | None = None
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        item, query = rng.zipf(1.2, size) % ITEMS, rng.zipf(1.2, size) % QUERIES
        searched = pl.Series(rng.random(size) < 1 / 3)
        session = pl.Series(rng.integers(0, 1 << 40, size))
        user = pl.Series((rng.random(size) ** 1.5 * users).astype(np.int64) * 7_919 % 1_000_003_000)
        block = pl.select(
            user_id=pl.lit("A") + user.cast(pl.String()).str.zfill(12),
            time=pl.lit(pl.Series(1_500_000_000 + rng.integers(0, 10**8, size))),
            kind=pl.when(searched).then(pl.lit("search")).otherwise(pl.lit("recommendation")),
            item_id=pl.lit("B") + pl.Series(item).cast(pl.String()).str.zfill(9),
            query=pl.when(searched).then(queries.gather(query)),
            session_id=pl.when(searched).then(session.cast(pl.String())),
        ).to_arrow()
        writer = writer or pq.ParquetWriter(folder / "events.parquet", block.schema)
        writer.write_table(block)
    if writer:
        writer.close()


if __name__ == "__main__":
    main()

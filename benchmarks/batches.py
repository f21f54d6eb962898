"""Compare training batches of users' logs mapped from the disk with those of logs read into memory.

`python benchmarks/batches.py` writes ten million rows of four clicks each. Each way then reads them and builds batches,
in a process of its own. The peak counts what the process holds, not what the system keeps of mapped files and gives
back when others need memory.

    --quick             a smoke size
    --rows 10000000     rows of logs
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import _calm  # noqa: F401
import numpy as np
import polars as pl
import torch
from _generator import CPU, catalogue, token_trie
from _measure import Peak, claim, options, report, run_child

from gensar_core import schema
from gensar_core.corpora.user_logs import NO_TARGET
from gensar_core.generator.item_nodes import ItemNodes
from gensar_core.generator.log_rows import LogRows, row_tensors
from gensar_core.generator.one_pass_training import RowOrder
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.writing import TableWriter
from gensar_core.training.processes import ALONE

CLICKS, ITEMS, WORDS = 4, 12_101, 1_000
BATCH, CHUNK = 64, 1 << 17


def main() -> None:
    """Run the benchmark and print its claims."""
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), mapped=sys.argv[3] == "mapped", steps=int(sys.argv[4]))
        return
    parser = options("rows a second and memory of batches of users' logs")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of logs")
    arguments = parser.parse_args()
    rows, steps = (2_000, 20) if arguments.quick else (arguments.rows, 2_000)
    with tempfile.TemporaryDirectory(prefix="gensar-batches-", dir=".") as scratch:
        path = Path(scratch) / "user_logs.parquet"
        write(path, rows)
        found = {way: run_child(Path(__file__), "--measure", path, way, steps).result() for way in ("memory", "mapped")}
    memory, mapped = found["memory"], found["mapped"]
    assert memory["digest"] == mapped["digest"], "batches differ"
    how = f"{rows:,} rows of {CLICKS} clicks; the same batches from logs in memory: "
    report(
        "batches",
        [
            claim("peak_gb", mapped["gb"], "GB", f"{how}{memory['gb']:.3g} GB"),
            claim("rows_per_second", mapped["rows"], "1/s", f"{how}{memory['rows']:,.0f} rows a CPU second"),
            claim("ready_seconds", mapped["seconds"], "s", f"{how}{memory['seconds']:.3g} CPU s until the first batch"),
        ],
    )


def items_and_nodes() -> tuple[np.ndarray, ItemNodes]:
    """Return the token rows of the items, [items, longest], and their prefixes."""
    items = catalogue(ITEMS, WORDS, np.random.default_rng(0))
    tokens = {"rec": items, "search": items}
    return items.tokens, ItemNodes.build(tokens, {task: token_trie(items) for task in tokens}, first_code=1)


def write(path: Path, rows: int) -> None:
    """Write logs of recommendation clicks, each a target."""
    draw = np.random.default_rng(0)
    codes = items_and_nodes()[0][:, :-1]
    sizes, width = np.full(CHUNK, CLICKS), codes.shape[1]
    place = np.tile(np.arange(CLICKS), CHUNK)
    with TableWriter(schema.USER_LOGS, path) as writer:
        for start in range(0, rows, CHUNK):
            clicked = draw.integers(ITEMS, size=len(place))
            columns = {
                "lengths": np.full(len(place), width),
                "behavior": np.full(len(place), schema.RECOMMENDED_ITEM),
                "object": clicked,
                "position": width * place,
                **dict.fromkeys(("opens", "closes", "query"), place),
                "target": start * CLICKS + np.arange(len(place)),
            }
            lists = {"token_ids": Ragged.from_lengths(sizes * width, codes[clicked].ravel())}
            lists |= {name: Ragged.from_lengths(sizes, values) for name, values in columns.items()}
            frame = pl.DataFrame(
                [
                    pl.Series("user_id", np.arange(start, start + CHUNK), pl.Int32()),
                    *(rows.to_series(name, schema.USER_LOGS.schema[name].inner) for name, rows in lists.items()),
                ]
            )
            writer.write(frame.head(rows - start))


def measure(path: Path, *, mapped: bool, steps: int) -> None:
    """Read logs, build the batches of some steps, and print their speed and the peak of the process."""
    nodes = items_and_nodes()[1]
    peak = Peak()
    started = time.process_time()
    logs = LogRows.load(1 << 20, path) if mapped else LogRows.from_frame(schema.USER_LOGS.read(path))
    batches = RowOrder(logs, BATCH, 4096, 1, ALONE).from_step(0)
    first = next(batches)
    ready = time.process_time()
    rows, digest = 0, 0
    for step in itertools.islice(itertools.chain([first], batches), steps):
        for part in step.parts:
            batch = row_tensors(logs, part.rows, nodes, 0, CPU)
            rows += len(part.rows)
            digest = hash((digest, int((batch.tokens * torch.arange(1, batch.tokens.shape[1] + 1)).sum())))
    seconds = time.process_time() - ready
    assert (logs.target[:CLICKS] != NO_TARGET).all()
    print(json.dumps({"gb": peak.stop(), "rows": rows / seconds, "seconds": ready - started, "digest": digest}))


if __name__ == "__main__":
    sys.exit(main())

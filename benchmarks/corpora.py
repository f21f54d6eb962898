"""Compare the speed of materializing samples as token ids with formatting and tokenizing them in a collator.

`python benchmarks/corpora.py` simulates a shop and materializes its corpus (templates drawn, Parquet written). For
some of the samples, a data loader does the same work as the authors do: it builds and tokenizes text sample by sample
and pads in the collator. Peak memory is measured on the samples and on four copies of them.

    --quick         a smoke size
    --users 12000   users of the simulated shop
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _calm  # noqa: F401
import _shop
import polars as pl
import torch
from _measure import claim, options, report, run_child
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from gensar_core.config.prompts import find_prompts
from gensar_core.embeddings.tokenizer import train_tokenizer

BUILD = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import _calm, _shop
settings = _shop.CORPUS.model_copy(update=dict(tokenizer=sys.argv[3]))
_shop.build(Path(sys.argv[1]), Path(sys.argv[2]), settings)
"""
BATCH = 64


class Scribe:
    """Write prompts as text, one sample at a time, as a data set's `__getitem__` and its collator do."""

    def __init__(self, shop: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.templates = {name: task.templates for name, task in find_prompts("gensar").tasks.items()}
        self.queries = pl.read_parquet(shop / "canonical" / "queries.parquet")["text"].to_list()
        table = pl.read_parquet(shop / "identifiers" / "identifiers.parquet")
        self.names = {
            side: ["".join(map("<{}_{}>".format, levels, codes)) for codes in table[side]]
            for side, levels in _shop.LEVELS.items()
        }

    def entry(self, behavior: int, thing: int) -> str:
        """Format one entry of a history."""
        if behavior == 1:
            return f"<S_Q> {self.queries[thing]}"
        return (
            f"<R_I>{self.names['collaborative'][thing]}" if behavior == 0 else f"<S_I>{self.names['semantic'][thing]}"
        )

    def example(self, row: dict[str, Any], task: str) -> tuple[str, str]:
        """Return the prompt and the target of a sample."""
        history = "; ".join(map(self.entry, row["history_behavior"], row["history_object"]))
        template = self.templates[task][row["sample_id"] % len(self.templates[task])]
        asked = {"nrip": " <R_I>", "nsip": " <S_I>", "nsqp": ""}[task]
        prompt = template.replace("{history}", history)
        if task == "nsip":
            prompt = prompt.replace("{query}", self.entry(1, row["query_id"]))
        if task == "nsqp":
            return prompt + asked, self.entry(1, row["query_id"])
        return prompt + asked, self.entry(0 if task == "nrip" else 2, row["target_item"])

    def collate(self, batch: list[tuple[dict[str, Any], str]]) -> dict[str, torch.Tensor]:
        """Tokenize samples into a padded batch."""
        texts = [self.example(row, task) for row, task in batch]
        inputs = [self.tokenizer(prompt).input_ids for prompt, _ in texts]
        targets = [self.tokenizer(target).input_ids for _, target in texts]
        return {"input_ids": _padded(inputs, 0), "labels": _padded(targets, -100)}


def main() -> None:
    """Run the benchmark and print its claims."""
    parser = options("rows a second of the corpus, against a data loader's collator")
    parser.add_argument("--users", type=int, default=12_000, help="users of the simulated shop")
    arguments = parser.parse_args()
    users, items, peer_rows = (150, 160, 200) if arguments.quick else (arguments.users, arguments.users // 4, 6_000)
    with tempfile.TemporaryDirectory(prefix="gensar-corpora-") as scratch:
        shop = _shop.build_shop(Path(scratch) / "shop", users, items)
        texts = pl.read_parquet(shop / "canonical" / "items.parquet")["text"].to_list()
        train_tokenizer(texts, _shop.CORPUS.vocabulary_size).save_pretrained(shop / "tokenizer")
        usage = run_child(BUILD, shop, shop / "corpus", shop / "tokenizer")
        more = _repeated(shop, Path(scratch) / "more", 4)
        usage_more = run_child(BUILD, more, more / "corpus", shop / "tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(shop / "corpus" / "tokenizer")
        rows, seconds = collated(shop, tokenizer, peer_rows)
        small, large = _rows_and_seconds(shop / "corpus"), _rows_and_seconds(more / "corpus")
    per_second = large[0] / large[1], rows / seconds
    tasks = len(_shop.CORPUS.active_tasks())
    report(
        "corpora",
        [
            claim("speedup_collator", per_second[0] / per_second[1], "x",
                  f"{per_second[0]:,.0f} rows/s of the whole stage ({large[0]:,} rows, with reading, "
                  f"texts and Parquet) against {per_second[1]:,.0f} rows/s in the collator ({rows:,} rows)"),
            claim("rows_per_second", per_second[0], "1/s", f"{large[0]:,} rows of {tasks} tasks"),
            claim("peak_gb", usage.peak_gb, "GB", f"resident memory with {small[0]:,} rows"),
            claim("peak_gb_four_times", usage_more.peak_gb, "GB", f"resident memory with {large[0]:,} rows"),
        ],
    )  # fmt: skip


def collated(shop: Path, tokenizer: PreTrainedTokenizerBase, count: int) -> tuple[int, float]:
    """Return the number of examples the data loader yields, and the seconds it takes."""
    samples = pl.read_parquet(shop / "samples" / "samples.parquet").filter(pl.col("split") == "train")
    rows = samples.sample(min(count, len(samples)), shuffle=True, seed=1).to_dicts()
    pairs = [(row, task) for row in rows for task in (["nrip"] if row["task"] == "rec" else ["nsqp", "nsip"])]
    scribe = Scribe(shop, tokenizer)
    loader = DataLoader(pairs, batch_size=BATCH, collate_fn=scribe.collate)  # type: ignore[arg-type]
    started = time.perf_counter()
    done = sum(len(batch["labels"]) for batch in loader)
    return done, time.perf_counter() - started


def _repeated(shop: Path, folder: Path, times: int) -> Path:
    """Copy the shop with its samples repeated ``times`` times."""
    folder.mkdir()
    for name in ("canonical", "identifiers"):
        (folder / name).symlink_to(shop / name)
    (folder / "samples").mkdir()
    samples = pl.read_parquet(shop / "samples" / "samples.parquet")
    parts = [samples.with_columns(pl.col("sample_id") + number * len(samples)) for number in range(times)]
    pl.concat(parts).write_parquet(folder / "samples" / "samples.parquet")
    shutil.copy(shop / "samples" / "training_events.parquet", folder / "samples")
    return folder


def _rows_and_seconds(corpus: Path) -> tuple[int, float]:
    record = json.loads((corpus / "stage.json").read_text(encoding="utf-8"))
    counts = [*record["counts"]["tasks"].values(), *record["counts"]["prompts"].values()]
    return sum(entry["rows"] for entry in counts), record["seconds"]


def _padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)


if __name__ == "__main__":
    sys.exit(main())

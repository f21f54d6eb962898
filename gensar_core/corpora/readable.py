"""Show training examples as text."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import transformers

from gensar_core import schema
from gensar_core.corpora.instructions import Instructions, Shown
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged


def readable(corpus_folder: Path, rows: int) -> str:
    """Write the first ``rows`` examples of each task as text, in the first instruction, tokens spelled out.

    Raises UserError without a corpus.
    """
    path = corpus_folder / "train.parquet"
    if not path.is_file():
        raise UserError(f"{path}: no such file; build the corpus first")
    tokenizer = transformers.AutoTokenizer.from_pretrained(corpus_folder / "tokenizer")
    corpus = pl.scan_parquet(path)
    tasks = corpus.select("task").unique(maintain_order=True).collect().get_column("task").to_list()
    instructions = Instructions.load(corpus_folder, tasks)
    blocks = []
    for number, task in enumerate(tasks):
        examples = schema.CORPUS.check(corpus.filter(pl.col("task") == task).head(rows).collect(), path)
        history, value, targets = (
            Ragged.from_series(examples.get_column(name)) for name in ("history_ids", "value_ids", "target_ids")
        )
        shown = instructions.write(Shown(history, value), np.full(len(examples), instructions.first[number]))
        for row, sample_id in enumerate(examples.get_column("sample_id").to_list()):
            prompt, target = (
                _spaced(str(tokenizer.decode(ids.values[ids.offsets[row] : ids.offsets[row + 1]])))
                for ids in (shown, targets)
            )
            blocks.append(f"{task} {sample_id}\n  {prompt}\n  -> {target}")
    return "\n\n".join(blocks) + "\n"


def _spaced(text: str) -> str:
    """Put blanks into decoded text where a reader expects them: around tokens, not before punctuation."""
    return re.sub(r"> (?=[;.,:?])", ">", re.sub(r"(?<=[^\s>])(?=<)", " ", text))

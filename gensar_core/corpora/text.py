"""Training examples as text, to look at."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
from transformers import AutoTokenizer

from gensar_core import schema
from gensar_core.errors import UserError


def readable(corpus_folder: Path, rows: int) -> str:
    """The first ``rows`` examples of each task as text, tokens spelled out. Raises UserError without a corpus."""
    path = corpus_folder / "train.parquet"
    if not path.is_file():
        raise UserError(f"{path}: no such file; build the corpus first")
    tokenizer = AutoTokenizer.from_pretrained(corpus_folder / "tokenizer")
    corpus = pl.scan_parquet(path)
    tasks = corpus.select("task").unique(maintain_order=True).collect().get_column("task").to_list()
    blocks = []
    for task in tasks:
        examples = schema.CORPUS.check(corpus.filter(pl.col("task") == task).head(rows).collect(), path)
        for name, sample_id, shown, wanted in examples.iter_rows():
            given, answer = (_spaced(str(tokenizer.decode(ids))) for ids in (shown, wanted))
            blocks.append(f"{name} {sample_id}\n  {given}\n  -> {answer}")
    return "\n\n".join(blocks) + "\n"


def _spaced(text: str) -> str:
    """Decoded text with blanks where a reader expects them: around tokens, not before punctuation."""
    return re.sub(r"> (?=[;.,:?])", ">", re.sub(r"(?<=[^\s>])(?=<)", " ", text))

"""Corpora of the shop of five items, with a tokenizer that trains in no time."""

from pathlib import Path
from typing import Any

from gensar_core import schema
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.corpora.build import build_corpus
from tests.support.shop import QUERIES, SAMPLES, TEXTS, write_corpus_inputs, write_rows


def build_small_corpus(shop: Path, output: Path, identifiers: Path | None = None, **settings: Any) -> Path:
    """Build the corpus of a folder that `write_corpus_inputs` wrote; return its own."""
    chosen = MaterializationSettings(**{"tokenizer": "trained", "vocabulary_size": 400, **settings})
    build_corpus(shop, shop, identifiers or shop, output, chosen, 7)
    return output


def write_ranked_shop(
    folder: Path, samples: list[dict[str, Any]] = SAMPLES, queries: list[str] = QUERIES, **settings: Any
) -> Path:
    """Write a shop, all other items as the candidates of its held-out samples, and its corpus in `corpus`."""
    write_corpus_inputs(folder, samples=samples, queries=queries)
    held_out = [row for row in samples if row["split"] != "train"]
    others = [[item for item in range(len(TEXTS)) if item != row["target_item"]] for row in held_out]
    write_rows(schema.CANDIDATES, folder, [(row["sample_id"], one) for row, one in zip(held_out, others, strict=True)])
    build_small_corpus(folder, folder / "corpus", **settings)
    return folder

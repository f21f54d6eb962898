"""Build a simulated shop up to its corpus for benchmarks of later stages, one call per stage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.datasets import CanonicalSettings, SampleSettings, SimulationSettings
from gensar_core.corpora.build import build_corpus
from gensar_core.samples.build import build_samples
from gensar_core.sources.amazon.canonical import canonicalize
from gensar_core.sources.simulated.write import simulate

SEED = 42
#: 2 shared and 2 specific levels of 256 codes, as in the paper.
LEVELS = {"semantic": ["M1", "M2", "S1", "S2"], "collaborative": ["M1", "M2", "R1", "R2"]}
CODES = 256
#: The settings in tests/config_real.yaml for the Amazon categories that a laptop can train on.
CORPUS = MaterializationSettings(tokenizer="trained", vocabulary_size=4000, max_item_tokens=48, max_query_tokens=24)


def build_shop(folder: Path, users: int, items: int, mean_reviews: float = 8.8) -> Path:
    """Write samples/, canonical/ and identifiers/ below ``folder``; identifiers are random and unique."""
    shop = SimulationSettings(
        users=users, items=items, mean_reviews=mean_reviews, missing_descriptions=0.1, query_variants=4
    )
    simulate(shop, folder / "raw", SEED)
    canonicalize(folder / "raw", CanonicalSettings(category="Simulated"), folder / "canonical", SEED)
    build_samples(folder / "canonical", folder / "samples", SampleSettings(), SEED)
    write_identifiers(folder / "identifiers", pl.read_parquet(folder / "canonical" / "items.parquet").height)
    return folder


def write_identifiers(folder: Path, items: int) -> None:
    """Write random unique identifiers: random shared codes, and specific codes from a permutation of the items."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(SEED)
    shared = draw.integers(0, CODES, (items, 2))
    columns = {"item_id": np.arange(items, dtype=np.int32)}
    for side in LEVELS:
        specific = np.stack(np.divmod(draw.permutation(items) % CODES**2, CODES), axis=1)
        columns[side] = pl.Series(np.hstack([shared, specific]).astype(np.int32), dtype=pl.List(pl.Int32))
        columns[f"{side}_moved"] = np.zeros(items, dtype=bool)
        columns[f"{side}_text"] = pl.Series([None] * items, dtype=pl.String)
    schema.IDENTIFIERS.write(pl.DataFrame(columns), folder / "identifiers.parquet")
    vocabulary = {side: {"levels": names, "sizes": [CODES] * 4} for side, names in LEVELS.items()}
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")


def build(folder: Path, output: Path, settings: MaterializationSettings = CORPUS) -> Path:
    """Materialize the corpus of the shop in ``folder``."""
    build_corpus(folder / "canonical", folder / "samples", folder / "identifiers", output, settings, SEED)
    return output

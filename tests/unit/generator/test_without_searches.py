"""A data set of recommendation clicks alone, from its corpus to ranks among all items, by both backbones."""

import json

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.config.datasets import FullRankingSettings
from gensar_core.config.generators import OnePassSettings, RetrievalSettings, ScratchSize, TrainingSettings
from gensar_core.generator.open import load_generator
from gensar_core.generator.rank import rank_catalogue
from gensar_core.generator.train import train_generator
from tests.support.shop import SAMPLES, TEXTS, R
from tests.support.small_corpus import write_ranked_shop

BACKBONES = {
    "causal": {"one_pass": OnePassSettings(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2)},
    "scratch": {"size": ScratchSize(d_model=16, d_ff=16, d_kv=8, num_heads=2, num_layers=1, num_decoder_layers=1)},
}


def clicks_alone(row):
    """A sample whose history is the items of the same history, as recommendation clicks."""
    items = [item for kind, item in zip(row["history_behavior"], row["history_object"], strict=True) if kind == R]
    return {**row, "history_behavior": [R] * len(items), "history_object": items}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The samples of recommendation without their searches, with candidates and a corpus."""
    samples = [clicks_alone(row) for row in SAMPLES if row["task"] == "rec"]
    return write_ranked_shop(tmp_path_factory.mktemp("shop"), samples, queries=[])


def test_its_corpus_asks_for_recommendations_alone(shop):
    tasks = set(schema.CORPUS.read(shop / "corpus" / "train.parquet")["task"])
    assert tasks == {"nrip", *(f"{task}_{side}" for task in ("desc2id", "id2desc") for side in schema.SIDES)}
    assert schema.PROMPTS.read(shop / "corpus" / "prompts.parquet")["sample_id"].to_list() == [1, 2]
    for name in ("user_logs", "asked_logs"):
        behaviors = schema.USER_LOGS.read(shop / "corpus" / f"{name}.parquet")["behavior"].explode()
        assert set(behaviors) == {R}


@pytest.mark.parametrize("likelihood", ["catalogue", "vocabulary"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_generator_is_chosen_by_recommendation_and_ranks_all_items(shop, tmp_path, backbone, likelihood):
    settings = TrainingSettings(
        backbone=backbone, likelihood=likelihood, batch_size=2, epochs=2, patience=None, **BACKBONES[backbone]
    )
    train_generator(shop / "corpus", shop, tmp_path / "model", settings, 1, None)
    curve = json.loads((tmp_path / "model" / "curve.json").read_text())
    assert all(point["score"] == pytest.approx(point["rec_ndcg@5"]) for point in curve)
    protocol = FullRankingSettings(unseen=True)
    tables = {}
    for beams in (20, None):
        retrieval = RetrievalSettings(beams=beams)
        rank_catalogue(tmp_path / "model", shop / "corpus", shop, tmp_path, f"{beams}", retrieval, protocol)
        tables[beams] = schema.FULL_RANKS.read(tmp_path / f"{beams}.parquet")
    assert tables[20].equals(tables[None])
    row = tables[20].row(0, named=True)
    assert (row["task"], row["sample_id"], row["n_candidates"]) == ("rec", 2, len(TEXTS))
    assert 1 <= row["rank_unseen"] <= row["rank"] <= len(TEXTS)
    # By hand: the rank by the scores of all items, as the model answers for them.
    generator = load_generator(tmp_path / "model", shop / "corpus")
    everything = pl.Series(range(len(TEXTS))).cast(pl.Int32).to_numpy()[None]
    scores = generator.score(generator.asked().of(np.array([2])), everything, "rec", users_per_batch=1)[0]
    assert row["rank"] == 1 + sum(scores > scores[row["target_item"]])

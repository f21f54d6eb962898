"""A causal model through its stages: trained, killed and continued, ranked, and asked."""

import json

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.datasets import FullRankingSettings
from gensar_core.config.generators import OnePassSettings, RankingSettings, RetrievalSettings, TrainingSettings
from gensar_core.corpora.build import build_corpus
from gensar_core.corpora.live_prompts import Entry
from gensar_core.errors import UserError
from gensar_core.generator.open import load_generator
from gensar_core.generator.rank import rank_candidates, rank_catalogue
from gensar_core.generator.train import train_generator
from tests.support.shop import QUERIES, SAMPLES, TEXTS, write_corpus_inputs, write_rows

SMALL = OnePassSettings(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2)


def settings(**changes):
    return TrainingSettings(backbone="causal", one_pass=SMALL, batch_size=2, epochs=3, patience=None, **changes)


@pytest.fixture(scope="module", params=["catalogue", "vocabulary"])
def trained(request, tmp_path_factory):
    """The folders of a shop with samples, its corpus, and a model."""
    shop = write_corpus_inputs(tmp_path_factory.mktemp("shop"))
    held_out = [row for row in SAMPLES if row["split"] != "train"]
    negatives = [[item for item in range(len(TEXTS)) if item != row["target_item"]] for row in held_out]
    write_rows(schema.CANDIDATES, shop, [(row["sample_id"], n) for row, n in zip(held_out, negatives, strict=True)])
    chosen = MaterializationSettings(tokenizer="trained", vocabulary_size=400)
    build_corpus(shop, shop, shop, shop / "corpus", chosen, 7)
    model = shop / "model"
    train_generator(shop / "corpus", shop, model, settings(likelihood=request.param), 1, shop / "checkpoints")
    return shop, shop / "corpus", model


def test_equal_seeds_give_equal_weights_and_a_killed_training_continues_to_them(trained, tmp_path):
    shop, corpus, model = trained
    likelihood = json.loads((model / "config.json").read_text())["identifier_likelihood"]

    class Killed(BaseException):
        """Ends a training from outside."""

    def interrupt(*_):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gensar_core.generator.train.write_json", interrupt)
        with pytest.raises(Killed):
            train_generator(corpus, shop, tmp_path / "again", settings(likelihood=likelihood), 1, tmp_path / "kept")
    assert not (tmp_path / "again" / "config.json").exists()
    train_generator(corpus, shop, tmp_path / "again", settings(likelihood=likelihood), 1, tmp_path / "kept")
    for name in ("model.safetensors", "catalogue.safetensors", "curve.json"):
        assert (tmp_path / "again" / name).read_bytes() == (model / name).read_bytes()


def test_it_ranks_every_list_and_the_whole_catalogue(trained, tmp_path):
    shop, corpus, model = trained
    rank_candidates(model, corpus, shop, tmp_path, "ranks", RankingSettings())
    ranks = schema.RANKS.read(tmp_path / "ranks.parquet")
    assert ranks["sample_id"].to_list() == [1, 2, 4, 5]
    protocol = FullRankingSettings(unseen=True)
    for name, beams in (("beams", 20), ("scores", None)):
        rank_catalogue(model, corpus, shop, tmp_path, name, RetrievalSettings(beams=beams), protocol)
    found, scored = (schema.FULL_RANKS.read(tmp_path / f"{name}.parquet") for name in ("beams", "scores"))
    assert found.equals(scored)
    # Candidates are all items here.
    both = scored.join(ranks, on="sample_id")
    assert both.select((pl.col("rank") == pl.col("rank_right")).all()).item()


def test_it_answers_a_user_as_it_ranks_them(trained):
    _, corpus, model = trained
    generator = load_generator(model, corpus)
    history = [Entry.clicked(2), Entry.searched(QUERIES[1]), Entry.found(3)]
    hits = generator.search(QUERIES[0], history, top=5)
    assert sorted(hit.item for hit in hits) == list(range(len(TEXTS)))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    without = generator.search(QUERIES[0], history, top=5, excluded=[hits[0].item])
    assert [hit.item for hit in without] == [hit.item for hit in hits[1:]]
    allowed = np.zeros(len(TEXTS), dtype=bool)
    allowed[[1, 4]] = True
    assert {hit.item for hit in generator.recommend(history, top=5, allowed=allowed)} == {1, 4}
    # A history longer than a row keeps its end.
    long = generator.recommend([Entry.clicked(item % 5) for item in range(400)], top=3)
    short = generator.recommend([Entry.clicked(item % 5) for item in range(200, 400)], top=3)
    assert long == short


@pytest.mark.parametrize(
    ("history", "query", "message"),
    [
        ([], None, "history: is empty"),
        ([Entry.clicked(-1)], None, "there is no item number -1"),
        ([Entry.clicked(5)], None, "there is no item number 5"),
        ([Entry.clicked(1)], " ", "holds no word"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_error(trained, history, query, message):
    _, corpus, model = trained
    generator = load_generator(model, corpus)
    with pytest.raises(UserError, match=message):
        generator.recommend(history) if query is None else generator.search(query, history)


def test_settings_that_do_not_fit_and_damaged_folders_are_one_clear_error(trained, tmp_path):
    shop, corpus, model = trained
    with pytest.raises(UserError, match="write factors in place of"):
        train_generator(corpus, shop, tmp_path / "m", settings(task_weights={"nrip": {"examples": 4}}), 1, None)
    with pytest.raises(UserError, match="label_smoothing"):
        train_generator(corpus, shop, tmp_path / "m", settings(label_smoothing=0.1, likelihood="catalogue"), 1, None)
    with pytest.raises(UserError, match="leave out ranking"):
        rank_candidates(model, corpus, shop, tmp_path, "ranks", RankingSettings(beams=30))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("config.json", "model.safetensors"):
        (damaged / name).write_bytes((model / name).read_bytes())
    with pytest.raises(UserError, match="holds no causal generator that opens"):
        load_generator(damaged, corpus)

"""Items held out by `cold_share`: no training table names one, identifiers are learned without them, ranks say so."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from gensar_core import schema
from gensar_core.baselines.interface import MethodData, find, kinds
from gensar_core.baselines.run import fit_and_rank, rank_catalogue_by_method
from gensar_core.baselines.shared.trained_method import TrainedMethod
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.datasets import FullRankingSettings, SampleSettings, TrainingNegativesSettings
from gensar_core.config.generators import OnePassSettings, ScratchSize, TrainingSettings
from gensar_core.config.identifiers import ProductSettings
from gensar_core.corpora.build import build_corpus
from gensar_core.embeddings.sequential import extract_vectors
from gensar_core.generator.train import train_generator
from gensar_core.identifiers.build import build_identifiers
from gensar_core.identifiers.interface import KindData
from gensar_core.ranking.candidates import load_candidates
from gensar_core.runtime.stage import digest
from gensar_core.runtime.tensors import load_vectors, save_vectors
from gensar_core.samples.build import build_samples
from gensar_core.samples.training_negatives import draw_training_negatives
from tests.support.samples_logs import event, write_canonical
from tests.support.shop import write_users
from tests.support.small_quantizer import small_settings

ITEMS, USERS, SHARE = 30, 12, 0.3


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set built with cold items up to the corpus, and its samples without any."""
    folder, rng = tmp_path_factory.mktemp("shop"), random.Random(0)
    log, session = [], 0
    for user in range(USERS):
        for time in range(20):
            session += time % 2
            asked = (time % 3, session) if time % 2 else ()
            log.append(event(user, time, rng.randrange(ITEMS), *asked))
    canonical, samples = write_canonical(folder / "canonical", log, items=ITEMS), folder / "samples"
    write_users(canonical, [f"u{user}" for user in range(USERS)])
    settings = SampleSettings(cold_share=SHARE, negatives=8)
    build_samples(canonical, samples, settings, 1)
    build_samples(canonical, folder / "whole", settings.model_copy(update={"cold_share": 0.0}), 1)
    table = samples / "cold_items.parquet"
    stored = TrainingNegativesSettings(negatives=6)
    draw_training_negatives(canonical, samples, folder / "negatives", stored, 1, table)
    save_vectors({"items": np.random.default_rng(0).normal(size=(ITEMS, 6))}, folder / "text.safetensors")
    identifiers = folder / "identifiers"
    learn(folder / "text.safetensors", table, identifiers)
    pseudo = [(item, number, f"find number{item} now{number}") for item in range(ITEMS) for number in range(2)]
    schema.PSEUDO_QUERIES.write(
        pl.DataFrame(pseudo, schema=schema.PSEUDO_QUERIES.schema, orient="row"), folder / "pseudo.parquet"
    )
    words = MaterializationSettings(tokenizer="trained", vocabulary_size=500, prompts="dsi_qg")
    build_corpus(
        canonical, samples, identifiers, folder / "pseudo", words, 1, folder / "pseudo.parquet", "strict", table
    )
    ours = MaterializationSettings(tokenizer="trained", vocabulary_size=500)
    build_corpus(canonical, samples, identifiers, folder / "corpus", ours, 1, cold_items=table)
    return folder


def learn(vectors: Path, cold: Path, output: Path, **changes: Any) -> None:
    settings = changes.get("settings", small_settings())
    build_identifiers(KindData({"semantic": vectors}, cold_items=cold), output, settings, 1, None)


def cold_of(shop: Path) -> list[int]:
    items: list[int] = schema.COLD_ITEMS.read(shop / "samples/cold_items.parquet")["item_id"].to_list()
    return items


def test_the_share_is_drawn_by_the_seed(shop: Path, tmp_path: Path) -> None:
    cold = cold_of(shop)
    assert len(set(cold)) == round(SHARE * ITEMS)
    drawn = []
    for seed in (1, 2):
        settings = SampleSettings(cold_share=SHARE, negatives=8)
        build_samples(shop / "canonical", tmp_path / str(seed), settings, seed)
        drawn.append(schema.COLD_ITEMS.read(tmp_path / str(seed) / "cold_items.parquet")["item_id"].to_list())
    assert drawn[0] == cold != drawn[1]


def test_no_training_table_names_a_cold_item_and_nothing_else_is_gone(shop: Path) -> None:
    cold = set(cold_of(shop))
    events = schema.EVENTS.read(shop / "samples/training_events.parquet")
    kept = [row for row in schema.EVENTS.read(shop / "whole/training_events.parquet").rows() if row[4] not in cold]
    assert events.rows() == kept
    samples, whole = (schema.SAMPLES.read(shop / name / "samples.parquet") for name in ("samples", "whole"))
    for row in samples.filter(pl.col("split") == "train").iter_rows(named=True):
        shown = zip(row["history_behavior"], row["history_object"], strict=True)
        assert not cold & {row["target_item"], *(thing for kind, thing in shown if kind != schema.SEARCHED_QUERY)}
    for row in schema.TRAINING_NEGATIVES.read(shop / "negatives/training_negatives.parquet").rows():
        assert not cold & set(row[1])
    columns = [name for name in samples.columns if name != "sample_id"]
    tested = [frame.filter(pl.col("split") != "train").select(columns) for frame in (samples, whole)]
    assert tested[0].equals(tested[1])
    assert cold & set(tested[0]["target_item"].to_list())


def contains(row: Sequence[int], part: Sequence[int]) -> bool:
    return any(row[start : start + len(part)] == part for start in range(len(row) - len(part) + 1))


def training_tokens(folder: Path) -> Iterator[list[int]]:
    for table in (schema.CORPUS.read(folder / "train.parquet"),):
        for row in table.select("history_ids", "value_ids", "target_ids").iter_rows():
            yield from row
    for name in ("user_logs", "alignment_logs"):
        yield from schema.USER_LOGS.read(folder / f"{name}.parquet")["token_ids"].to_list()


@pytest.mark.parametrize("name", ["corpus", "pseudo"])
def test_no_corpus_writes_the_identifier_of_a_cold_item(shop: Path, name: str) -> None:
    rows, cold = list(training_tokens(shop / name)), set(cold_of(shop))
    table = schema.ITEM_TOKENS.read(shop / name / "item_tokens.parquet")
    assert set(table["item_id"].to_list()) == set(range(ITEMS))
    named = {
        item
        for _, item, tokens in table.select("task", "item_id", "target_ids").rows()
        # Without the end of sequence and, where there is one, the behavior token.
        if any(contains(row, tokens[len(tokens) - 4 : -1]) for row in rows)
    }
    assert named == set(range(ITEMS)) - cold


@pytest.mark.parametrize("kind", ["rqvae", "rq_kmeans", "product"])
def test_identifiers_are_learned_from_the_other_items_and_exist_for_all(shop: Path, tmp_path: Path, kind: str) -> None:
    cold, table = cold_of(shop), shop / "samples/cold_items.parquet"
    settings = (
        ProductSettings(kind="product", subspaces=3, codebook_size=8)
        if kind == "product"
        else small_settings(kind=kind)
    )
    moved = load_vectors(shop / "text.safetensors").copy()
    moved[cold] += 1.0
    save_vectors({"items": moved}, tmp_path / "moved.safetensors")
    for name, vectors in (("as_is", shop / "text.safetensors"), ("moved", tmp_path / "moved.safetensors")):
        learn(vectors, table, tmp_path / name, settings=settings)
    assert digest(tmp_path / "as_is/model.safetensors") == digest(tmp_path / "moved/model.safetensors")
    codes = schema.IDENTIFIERS.read(tmp_path / "as_is/identifiers.parquet")["semantic"].to_list()
    assert len(set(map(tuple, codes))) == ITEMS


def run(shop: Path, home: Path, kind: str, **overrides: Any) -> Path:
    negatives = shop / "negatives/training_negatives.parquet"
    fit_and_rank(
        kind, kind, overrides, shop / "canonical", shop / "samples", None, home / kind, home / "ranks", 1, None,
        negatives, shop / "samples/cold_items.parquet",
    )  # fmt: skip
    return home / "ranks" / f"{kind}.parquet"


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [("popularity", {}), ("sasrec", {"dimensions": 8, "epochs": 1}), ("query_frequency", {}), ("qem", {"epochs": 1})],
)
def test_a_method_without_vectors_ranks_cold_items_last(
    shop: Path, tmp_path: Path, kind: str, overrides: dict[str, Any]
) -> None:
    cold = set(cold_of(shop))
    ranks = schema.RANKS.read(run(shop, tmp_path, kind, **overrides))
    (task,) = ranks["task"].unique()
    checked = 0
    for split in ("valid", "test"):
        lists = load_candidates(shop / "samples", task, split)
        of_sample = dict(ranks.select("sample_id", "rank").iter_rows())
        for sample, row in zip(lists.samples["sample_id"].to_list(), lists.items.tolist(), strict=True):
            candidates = [item for item in row if item >= 0]
            warm = [item for item in candidates if item not in cold]
            if row[0] in cold:
                # Behind all others, and in the middle of the cold ones.
                assert of_sample[sample] == len(warm) + (len(candidates) - len(warm) + 1) / 2
                checked += 1
            else:
                assert of_sample[sample] <= len(warm)
    assert checked
    record = json.loads((tmp_path / "ranks" / f"{kind}.stage.json").read_text())
    assert record["counts"]["cold_items_last"] == len(cold)


def test_among_the_catalogue_they_are_last_too(shop: Path, tmp_path: Path) -> None:
    cold = cold_of(shop)
    run(shop, tmp_path, "popularity")
    rank_catalogue_by_method(
        "popularity", "popularity", {}, shop / "canonical", shop / "samples", None, tmp_path / "popularity",
        tmp_path / "full", 1, FullRankingSettings(), shop / "samples/cold_items.parquet",
    )  # fmt: skip
    table = schema.FULL_RANKS.read(tmp_path / "full/popularity.parquet")
    last = ITEMS - (len(cold) - 1) / 2
    assert set(table.filter(pl.col("target_item").is_in(cold))["rank"].to_list()) == {last}
    assert table.filter(~pl.col("target_item").is_in(cold))["rank"].max() <= ITEMS - len(cold)


def test_a_method_that_reads_texts_scores_cold_items(shop: Path, tmp_path: Path) -> None:
    ranks = schema.RANKS.read(run(shop, tmp_path, "bm25"))
    # A query finds one item in three, so a target of its own word is never behind all others.
    found = ranks.filter(pl.col("target_item").is_in(cold_of(shop)) & (pl.col("target_item") % 3 == 0))
    assert len(found)
    assert json.loads((tmp_path / "ranks/bm25.stage.json").read_text())["counts"]["cold_items_last"] == 0


def test_the_collaborative_vector_of_a_cold_item_is_the_mean_of_the_others(shop: Path, tmp_path: Path) -> None:
    cold = cold_of(shop)
    run(shop, tmp_path, "sasrec", dimensions=8, epochs=1)
    extract_vectors(tmp_path / "sasrec", tmp_path / "embedding")
    vectors = load_vectors(tmp_path / "embedding/vectors.safetensors")
    seen = load_vectors(tmp_path / "sasrec/item_vectors.safetensors", "seen")[:, 0] > 0
    assert not seen[cold].any()
    np.testing.assert_allclose(vectors[cold], np.tile(vectors[seen].mean(axis=0), (len(cold), 1)), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        *(("sasrec", {"loss": loss}) for loss in ("softmax", "sampled_softmax", "bce")),
        ("sasrec", {"loss": "gbce", "popularity_power": 0.0, "negatives": 64}),
        ("qem", {"catalogue_softmax": True}),
        ("qem", {"catalogue_softmax": False, "sampled_negatives": 16, "popularity_power": 0.0}),
    ],
)
def test_no_loss_sets_a_target_against_a_cold_item(
    shop: Path, tmp_path: Path, kind: str, overrides: dict[str, Any]
) -> None:
    """Where item vectors come from texts, what is learned does not depend on the texts of cold items."""
    learned = []
    for shift in (0.0, 5.0):
        vectors = load_vectors(shop / "text.safetensors").copy()
        vectors[cold_of(shop)] += shift
        embedding = tmp_path / f"{shift}.safetensors"
        save_vectors({"items": vectors, "queries": np.zeros((3, 6), dtype=np.float32)}, embedding)
        home = tmp_path / str(shift)
        fit_and_rank(
            kind, kind, {"dimensions": 8, "epochs": 1, "item_vectors": "text", **overrides}, shop / "canonical",
            shop / "samples", embedding, home / "model", home / "ranks", 1, None,
            shop / "negatives/training_negatives.parquet", shop / "samples/cold_items.parquet",
        )  # fmt: skip
        learned.append(load_file(home / "model/model.safetensors"))
    for name, weights in learned[0].items():
        np.testing.assert_array_equal(weights, learned[1][name], err_msg=name)


#: Settings by which losses draw items uniformly, where a method has them.
UNIFORM = {"popularity_power": 0.0, "sampled_negatives": 4, "negatives": 64}
#: All methods that learn a vector for each item, and the losses of those that need not draw items uniformly.
LEARNED = [(kind, {}) for kind in kinds() if issubclass(find(kind), TrainedMethod) and kind != "dense"]
LEARNED += [("unifiedssr", {"loss": "softmax"}), ("tem", {"catalogue_softmax": False})]


@pytest.mark.parametrize(("kind", "overrides"), LEARNED)
def test_training_moves_no_parameter_of_a_cold_item(shop: Path, kind: str, overrides: dict[str, Any]) -> None:
    """No loss of any method sets a target, or contrasts a history, with a cold item."""
    cold, method = cold_of(shop), find(kind)
    settings = {key: value for key, value in UNIFORM.items() if key in method.settings_model.model_fields} | overrides
    stored = shop / "negatives/training_negatives.parquet"
    for table in (shop / "samples/cold_items.parquet", None):
        data = MethodData(shop / "canonical", shop / "samples", None, stored, table)
        training = method(method.settings_model(**settings), data, 1).training()
        training.backward(next(training.batches(0)))
        weights = dict(training.module.named_parameters())
        for name in {"items.weight", "bias"} & {*weights}:
            gradient = weights[name].grad
            assert gradient is not None
            assert gradient.any()
            # Without the table, losses draw cold items too.
            assert bool(gradient[cold].any()) == (table is None)


def with_other_codes(identifiers: Path, cold: Sequence[int], output: Path) -> Path:
    """Copy identifiers in which each cold item has another last code that no item has, where there is one."""
    shutil.copytree(identifiers, output)
    table = schema.IDENTIFIERS.read(output / "identifiers.parquet").sort("item_id")
    codes = table["semantic"].to_list()
    for item in cold:
        taken = {row[-1] for row in codes if row[:-1] == codes[item][:-1]}
        codes[item] = [*codes[item][:-1], min({*range(8)} - taken, default=codes[item][-1])]
    assert codes != table["semantic"].to_list()
    columns = {side: pl.Series(codes, dtype=pl.List(pl.Int32())) for side in schema.SIDES}
    schema.IDENTIFIERS.write(table.with_columns(**columns), output / "identifiers.parquet")
    return output


@pytest.mark.parametrize("backbone", ["scratch", "causal"])
def test_no_target_of_a_generator_competes_with_a_cold_item(shop: Path, tmp_path: Path, backbone: str) -> None:
    """What is learned over the catalogue does not depend on the codes of cold items."""
    # The dropout of nodes is drawn in the order of their numbers.
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_layers": 1, "num_heads": 2}
    one_pass = OnePassSettings(**sizes, node_dropout=0.0)
    size = ScratchSize(d_model=16, d_ff=16, d_kv=4, num_heads=2, num_layers=1, num_decoder_layers=1)
    settings = TrainingSettings(
        backbone=backbone, likelihood="catalogue", epochs=1, batch_size=16, patience=None, one_pass=one_pass, size=size
    )
    other = with_other_codes(shop / "identifiers", cold_of(shop), tmp_path / "identifiers")
    words = MaterializationSettings(tokenizer="trained", vocabulary_size=500)
    table = shop / "samples/cold_items.parquet"
    build_corpus(shop / "canonical", shop / "samples", other, tmp_path / "corpus", words, 1, cold_items=table)
    learned = {}
    for name, corpus, cold in (
        ("one", shop / "corpus", table), ("other", tmp_path / "corpus", table), ("all", tmp_path / "corpus", None)
    ):  # fmt: skip
        train_generator(corpus, shop / "samples", tmp_path / name, settings, 1, None, cold_items=cold)
        weights = load_file(tmp_path / name / "model.safetensors")
        # Vectors of nodes are numbered by the trie, which the codes are part of.
        learned[name] = {key: value for key, value in weights.items() if "node" not in key}

    def same(name: str) -> bool:
        return all(np.allclose(value, learned[name][key], atol=1e-7) for key, value in learned["one"].items())

    assert same("other")
    assert not same("all")

"""Fitting and ranking as one job: what it writes, what it cleans up, and what it refuses."""

import json

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.baselines.run import fit_and_rank
from gensar_core.embeddings.sequential import ItemVectors, extract_vectors
from gensar_core.errors import UserError
from gensar_core.ranking.metrics import ndcg
from gensar_core.runtime.tensors import load_vectors
from tests.support.method_contract import N_ITEMS, N_NEGATIVES, N_USERS, random_clicks, write_shop
from tests.support.shop import read_samples
from tests.unit.baselines.helpers import rewrite_samples

SMALL = {"dimensions": 8, "epochs": 2, "negatives": 16}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("shop"), random_clicks(), N_ITEMS)


def run(shop, folder, kind, settings=None, embedding=None, checkpoints=None, negatives=None):
    fit_and_rank(
        "m", kind, settings or {}, shop.canonical, shop.samples_folder, embedding, folder / "models" / "m",
        folder / "ranks", 42, checkpoints, negatives,
    )  # fmt: skip
    return schema.RANKS.read(folder / "ranks" / "m.parquet")


@pytest.mark.parametrize(
    ("kind", "tasks"),
    [
        ("random_order", {"rec", "search"}),
        ("popularity", {"rec"}),
        ("query_frequency", {"search"}),
        ("bm25", {"search"}),
        ("text_cosine", {"search"}),
    ],
)
def test_every_target_of_the_methods_tasks_is_ranked(shop, tmp_path, kind, tasks):
    ranks = run(shop, tmp_path, kind, embedding=shop.embedding if kind == "text_cosine" else None)
    expected = read_samples(shop).filter(pl.col("task").cast(pl.String).is_in(tasks) & (pl.col("split") != "train"))
    assert ranks["sample_id"].to_list() == expected["sample_id"].to_list()
    assert ranks["target_item"].to_list() == expected["target_item"].to_list()
    assert set(ranks["n_candidates"]) == {N_NEGATIVES + 1}
    assert ranks["rank"].is_between(1, N_NEGATIVES + 1).all()
    record = json.loads((tmp_path / "ranks" / "m.stage.json").read_text())
    test = ranks.filter((pl.col("split") == "test") & (pl.col("task") == min(tasks)))
    assert record["counts"][f"{min(tasks)}_test_ndcg@5"] == pytest.approx(ndcg(test["rank"].to_numpy(), 5))
    fitted = json.loads((tmp_path / "models" / "m" / "stage.json").read_text())["counts"]
    assert fitted["parameters"] == 0
    assert fitted["training_seconds"] >= 0.0


def test_a_trained_method_leaves_item_vectors_and_no_checkpoint(shop, tmp_path):
    checkpoints = tmp_path / "checkpoints" / "m"
    run(shop, tmp_path, "sasrec", SMALL, checkpoints=checkpoints)
    assert not checkpoints.exists()
    model = tmp_path / "models" / "m"
    assert {path.name for path in model.iterdir()} == {"stage.json", "model.safetensors", "item_vectors.safetensors"}
    assert ItemVectors.load(model).vectors.shape == (N_ITEMS, 8)
    counts = json.loads((model / "stage.json").read_text())["counts"]
    assert counts["unseen_items"] == 0
    # Items; positions; in each of two blocks the projections, the output, two point-wise layers and two normalizations
    # of 8 weights and 8 shifts; the last normalization.
    assert counts["parameters"] == 8 * (N_ITEMS + 50) + 2 * (6 * 8 * 8 + 6 * 8 + 4 * 8) + 2 * 8
    assert [entry["step"] for entry in counts["curve"]] == [1.0, 2.0]
    extract_vectors(model, tmp_path / "embedding")
    assert (tmp_path / "embedding" / "vectors.safetensors").is_file()


def test_unisars_item_vectors_become_an_embedding(tmp_path):
    shop = write_shop(tmp_path / "shop", random_clicks(), N_ITEMS + 2, searching=True)
    small = {"dimensions": 8, "embedding_size": 4, "epochs": 1, "query_item_negatives": 8}
    with pytest.raises(UserError, match="give it the table training_negatives"):
        run(shop, tmp_path / "without", "unisar", small)
    run(shop, tmp_path, "unisar", small, negatives=shop.training_negatives)
    model = tmp_path / "models" / "m"
    record = json.loads((model / "stage.json").read_text())
    assert str(shop.training_negatives) in record["inputs"]
    assert record["counts"]["training_rows"] == {"rec": N_USERS, "search": N_USERS}
    extract_vectors(model, tmp_path / "embedding")
    vectors = load_vectors(tmp_path / "embedding" / "vectors.safetensors")
    # Projected by tanh. Items that nobody clicks are known as negatives.
    assert vectors.shape == (N_ITEMS + 2, 8)
    assert np.abs(vectors).max() < 1.0
    assert (vectors == ItemVectors.load(model).vectors).all()


def test_wrong_settings_are_named(shop, tmp_path):
    with pytest.raises(UserError, match=r"methods\.m: dimension: unknown key; did you mean 'dimensions'\?"):
        run(shop, tmp_path, "sasrec", {"dimension": 8})
    with pytest.raises(UserError, match=r"methods\.m\.kind: no method 'sasrek'"):
        run(shop, tmp_path, "sasrek")
    with pytest.raises(UserError, match="name an embedding under its key 'embedding'"):
        run(shop, tmp_path, "text_cosine")
    assert not (tmp_path / "ranks").exists()
    assert not list((tmp_path / "models").rglob("*.json"))


def test_a_data_set_without_the_methods_task_is_one_clear_error(tmp_path):
    shop = write_shop(tmp_path, random_clicks()[:5], N_ITEMS)
    rewrite_samples(shop, read_samples(shop).filter(pl.col("task") == "rec"))
    with pytest.raises(UserError, match=r"samples\.parquet: no valid or test target of search"):
        run(shop, tmp_path, "query_frequency")
    ranks = run(shop, tmp_path, "random_order")
    assert ranks["task"].unique().to_list() == ["rec"]
    assert len(ranks) == 2 * 5 < 2 * N_USERS
    assert np.isfinite(ranks["rank"].to_numpy()).all()

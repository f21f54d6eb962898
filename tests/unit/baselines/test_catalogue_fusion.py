"""Fusions among the catalogue: ranks and weights against plain loops, parts by task, and what is refused."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from gensar_core import schema
from gensar_core.baselines import catalogue_fusion
from gensar_core.baselines.catalogue_fusion import FusedMethod, rank_catalogue_by_fusion
from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.run import fit_and_rank, rank_catalogue_by_method
from gensar_core.config.datasets import FullRankingSettings
from gensar_core.config.fusions import WeightSettings
from gensar_core.errors import UserError
from gensar_core.samples.popularity import count_clicks
from tests.support.method_contract import N_ITEMS, N_USERS, random_clicks, write_shop
from tests.support.shop import read_samples
from tests.unit.baselines.helpers import make, rewrite_samples

#: A sequence model, a counting one, one of texts, one of both tasks.
METHODS = {
    "sasrec": {"dimensions": 8, "epochs": 10, "learning_rate": 1.0e-2, "dropout": 0.0},
    "itemknn": {},
    "text_cosine": {},
    "random_order": {},
}
RIDGE = 0.01


def walks():
    """Clicks in which mostly the next item comes next, so that validation finds parts worth a weight."""
    draws = np.random.default_rng(0)
    steps = draws.choice([1, 1, 1, 7], size=(N_USERS, 8))
    return ((draws.integers(N_ITEMS, size=(N_USERS, 1)) + np.cumsum(steps, axis=1)) % N_ITEMS).tolist()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    data = write_shop(folder, walks(), N_ITEMS)
    for kind, settings in METHODS.items():
        part = part_of(data, kind)
        fit_and_rank(kind, kind, settings, data.canonical, data.samples_folder, part.embedding, part.model, folder / "ranks", 42, None)  # fmt: skip
    return data


def part_of(data, kind):
    embedding = data.embedding if kind == "text_cosine" else None
    return FusedMethod(kind, METHODS[kind], 42, data.samples_folder.parent / "models" / kind, embedding)


def fused(data, kinds, output, *, unseen=False, **settings):
    """Fuse the kinds; return the table and what the record counts."""
    parts = {kind: part_of(data, kind) for kind in kinds}
    rank_catalogue_by_fusion(
        "both", parts, data.canonical, data.samples_folder, output, WeightSettings(ridge=RIDGE, **settings),
        FullRankingSettings(unseen=unseen),
    )  # fmt: skip
    record = json.loads((output / "both.stage.json").read_text())
    return schema.FULL_RANKS.read(output / "both.parquet"), record["counts"]


def features_by_loop(data, kinds, split, popularity):
    """Features of all items of each recommendation target, computed item by item."""
    samples = read_samples(data).filter((pl.col("task") == "rec") & (pl.col("split") == split))
    clicks = count_clicks(data.samples_folder / "training_events.parquet")
    scores = []
    for kind in kinds:
        method = make(
            kind,
            MethodData(data.canonical, data.samples_folder, part_of(data, kind).embedding),
            seed=42,
            **METHODS[kind],
        )
        method.load(part_of(data, kind).model)
        scores.append(method.score_catalogue(samples).astype(np.float64))
    rows = []
    for row in range(len(samples)):
        items = []
        for item in range(N_ITEMS):
            values = []
            for part in scores:
                better, equal = (part[row] > part[row, item]).sum(), (part[row] == part[row, item]).sum()
                values += [part[row, item] - part[row].mean(), -np.log(better + (equal + 1) / 2)]
            items.append(values + ([np.log1p(clicks[item])] if popularity else []))
        rows.append(items)
    return np.array(rows), samples


@pytest.mark.parametrize(("kinds", "popularity"), [(("sasrec", "itemknn"), False), (("sasrec",), True)])
def test_weights_and_ranks_equal_those_of_loops(shop, tmp_path, kinds, popularity):
    table, counts = fused(shop, kinds, tmp_path, popularity=popularity)
    valid, samples = features_by_loop(shop, kinds, "valid", popularity)
    scale = valid.reshape(-1, valid.shape[2]).std(axis=0)
    wanted = samples["target_item"].to_numpy()

    def loss(weights):
        logits = (valid / scale) @ weights
        own = logits[np.arange(len(wanted)), wanted]
        return np.mean(np.log(np.exp(logits).sum(axis=1)) - own) + RIDGE * weights @ weights / 2

    bounds = [(0.0, None)] * (2 * len(kinds)) + [(None, None)] * popularity
    by_loop = minimize(loss, np.zeros(valid.shape[2]), bounds=bounds, method="L-BFGS-B").x
    named = counts["rec_weights"]
    recorded = [named[kind][feature] for kind in kinds for feature in ("score", "rank")]
    recorded += [named["popularity"]["log_clicks"]] if popularity else []
    assert recorded == pytest.approx(by_loop, abs=2e-3)
    assert max(recorded) > 0.1

    test, samples = features_by_loop(shop, kinds, "test", popularity)
    logits = (test / scale) @ np.array(recorded)
    for row, (rank, item) in enumerate(table.select("rank", "target_item").rows()):
        assert samples["target_item"][row] == item
        # Recorded weights are rounded, so nearly equal items may change places.
        better, near = logits[row] > logits[row, item] + 1e-4, np.abs(logits[row] - logits[row, item]) <= 1e-4
        assert 1 + better.sum() <= rank <= better.sum() + near.sum()


def test_one_part_alone_keeps_its_order_in_both_rankings(shop, tmp_path):
    table, _ = fused(shop, ["sasrec"], tmp_path / "fused", unseen=True)
    part = part_of(shop, "sasrec")
    rank_catalogue_by_method(
        "sasrec", "sasrec", METHODS["sasrec"], shop.canonical, shop.samples_folder, None, part.model,
        tmp_path / "alone", 42, FullRankingSettings(unseen=True),
    )  # fmt: skip
    alone = schema.FULL_RANKS.read(tmp_path / "alone" / "sasrec.parquet")
    assert table.drop("rank", "rank_unseen").equals(alone.drop("rank", "rank_unseen"))
    for column in ("rank", "rank_unseen"):
        assert table[column].to_list() == alone[column].to_list()
    assert (table["rank_unseen"] <= table["rank"]).all()


def test_a_part_counts_in_the_tasks_that_it_ranks(shop, tmp_path):
    table, counts = fused(shop, ["itemknn", "text_cosine", "random_order"], tmp_path)
    assert {name: list(counts[f"{name}_weights"]) for name in schema.TASKS} == {
        "rec": ["itemknn", "random_order"],
        "search": ["text_cosine", "random_order"],
    }
    assert table.group_by("task").len().sort("task").rows() == [("rec", N_USERS), ("search", N_USERS)]


@given(st.integers(2, 60), st.integers(1, 50), st.lists(st.integers(0, 59), min_size=1, max_size=5), st.integers(0, 9))
def test_a_target_is_compared_with_other_items_each_once(n_items, most, targets, seed):
    wanted = np.array(targets) % n_items
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue_fusion, "_ITEMS", most)
        shown, again = (catalogue_fusion._compared(wanted, n_items, np.random.default_rng(seed)) for _ in range(2))
    assert (shown == again).all()
    assert (shown[:, 0] == wanted).all()
    assert shown.shape == (len(wanted), 1 + min(n_items - 1, most))
    assert ((shown >= 0) & (shown < n_items)).all()
    assert all(len(set(row)) == len(row) for row in shown.tolist())


def test_every_other_item_is_drawn_equally_often(monkeypatch):
    monkeypatch.setattr(catalogue_fusion, "_ITEMS", 3)
    shown = catalogue_fusion._compared(np.full(20_000, 4), 10, np.random.default_rng(1))
    counts = np.bincount(shown[:, 1:].ravel(), minlength=10)
    assert counts[4] == 0
    assert np.delete(counts, 4) == pytest.approx(20_000 / 3, rel=0.05)


def test_cold_items_are_the_last_of_a_fusion_that_has_no_vectors_for_them(shop, tmp_path):
    cold = [int(item) for item in read_samples(shop).filter(pl.col("split") == "test")["target_item"][:3]]
    schema.COLD_ITEMS.write(pl.DataFrame({"item_id": sorted(set(cold))}), tmp_path / "cold.parquet")
    rank_catalogue_by_fusion(
        "both", {kind: part_of(shop, kind) for kind in ("sasrec", "itemknn")}, shop.canonical, shop.samples_folder,
        tmp_path, WeightSettings(), FullRankingSettings(), tmp_path / "cold.parquet",
    )  # fmt: skip
    table = schema.FULL_RANKS.read(tmp_path / "both.parquet")
    unknown = pl.col("target_item").is_in(cold)
    assert table.filter(unknown)["rank"].min() > N_ITEMS - len(set(cold))
    assert table.filter(~unknown)["rank"].max() <= N_ITEMS - len(set(cold))


def test_weights_want_valid_targets(tmp_path):
    data = write_shop(tmp_path, random_clicks(), N_ITEMS)
    part = part_of(data, "itemknn")
    fit_and_rank(
        "itemknn", "itemknn", {}, data.canonical, data.samples_folder, None, part.model, tmp_path / "ranks", 42, None
    )
    rewrite_samples(data, read_samples(data).filter(pl.col("split") != "valid"))
    with pytest.raises(UserError, match=r"fusions\.both: rec has no valid targets, on which its weights are fitted"):
        fused(data, ["itemknn"], tmp_path)
    assert not (tmp_path / "both.parquet").exists()

"""Full ranking: its candidates, ranks by scores and by beam searches, and its table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gensar_core import schema
from gensar_core.baselines.interface import Method, find
from gensar_core.baselines.run import fit_and_rank, rank_catalogue_by_method
from gensar_core.config.base import validate
from gensar_core.config.datasets import FullRankingSettings
from gensar_core.config.generators import RetrievalSettings
from gensar_core.errors import UserError
from gensar_core.evaluation.tables import FULL_METRICS, metric_table, metrics
from gensar_core.generator.rank import rank_catalogue as generator_rank_catalogue
from gensar_core.ranking.full_ranking import (
    CatalogueTargets,
    TargetBlocks,
    catalogue_ranks,
    found_ranks,
    full_ranks,
    ranks_by_score,
)
from tests.support import generator_folders as folders
from tests.support.method_contract import N_ITEMS, random_clicks, write_shop
from tests.support.ragged import ragged


def targets(wanted: list[int], clicked: list[list[int]] | None = None) -> CatalogueTargets:
    numbers = range(len(wanted))
    columns = {"sample_id": numbers, "task": "rec", "split": "test", "user_id": numbers, "target_item": wanted}
    return CatalogueTargets(pl.DataFrame(columns), None if clicked is None else ragged(clicked))


def load_targets(folder: Path, task: str, users: int = 0, *, unseen: bool = False) -> CatalogueTargets:
    blocks = TargetBlocks.open(folder, task, "test", 99, users)
    (found,) = blocks.read(columns=list(schema.SAMPLES.columns), unseen=unseen)
    return found


def test_ranks_by_hand() -> None:
    scores = np.array([[5.0, 3.0, 4.0, 3.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    everything, unasked = catalogue_ranks(scores, targets([1, 2, 0]))
    assert everything.tolist() == [3.5, 2.5, 4.0]
    assert np.isnan(unasked).all()
    wanted = targets([1, 2, 0], [[0, 3], [1], [3, 2]])
    ranks = catalogue_ranks(scores, wanted)
    assert ranks.tolist() == [[3.5, 2.5, 4.0], [2.0, 2.0, 2.0]]
    table = full_ranks(wanted, ranks, 4)
    assert table["n_candidates"].to_list() == [4, 4, 4]
    assert table["n_unseen"].to_list() == [2, 3, 2]
    assert table["rank_unseen"].to_list() == [2.0, 2.0, 2.0]
    assert full_ranks(targets([1, 2, 0]), ranks, 4)["n_unseen"].null_count() == 3


@given(
    arrays.arrays(np.int64, (5, 9), elements=st.integers(0, 6)),
    st.lists(st.integers(0, 8), min_size=5, max_size=5),
    st.integers(1, 9),
)
@settings(max_examples=50)
def test_items_of_a_beam_search_rank_as_by_scores(scores: np.ndarray, wanted: list[int], beams: int) -> None:
    values = scores.astype(np.float32)
    order = np.argsort(-values, axis=1, kind="stable")
    exact, _ = catalogue_ranks(values, targets(wanted))
    everything = found_ranks(order, np.take_along_axis(values, order, axis=1), targets(wanted))
    np.testing.assert_array_equal(everything, exact)
    best = order[:, :beams]
    ranks = found_ranks(best, np.take_along_axis(values, best, axis=1), targets(wanted))
    assert (np.isnan(ranks) == ~(best == np.array(wanted)[:, None]).any(axis=1)).all()
    # Ties with items that the search missed are unknown; without ties, ranks agree.
    alone = (values == values[np.arange(5), wanted][:, None]).sum(axis=1) == 1
    np.testing.assert_array_equal(ranks[alone & ~np.isnan(ranks)], exact[alone & ~np.isnan(ranks)])


def test_unfilled_places_of_a_beam_search_are_no_candidates() -> None:
    items, scores = np.array([[2, -1, -1], [-1, -1, -1]]), np.array([[0.5, -np.inf, -np.inf], [-np.inf] * 3])
    ranks = found_ranks(items, scores, targets([2, 1]))
    assert ranks[0] == 1.0
    assert np.isnan(ranks[1])


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(UserError, match="a score is not a number"):
        catalogue_ranks(np.array([[1.0, np.nan]]), targets([0]))


def test_leaving_clicked_items_out_keeps_the_target(tmp_path: Path) -> None:
    clicks = [[0, 1, 2, 3], [4, 4, 5, 0]]
    data = write_shop(tmp_path, clicks, 8, negatives=3)
    everything = load_targets(data.samples_folder, "rec")
    assert len(everything) == 2
    assert everything.clicked is None
    fewer = load_targets(data.samples_folder, "rec", unseen=True)
    assert fewer.clicked is not None
    assert fewer.clicked.values.tolist() == [0, 1, 2, 4, 5]
    assert fewer.clicked.lengths.tolist() == [3, 2]
    assert len(load_targets(data.samples_folder, "search", users=1)) == 1


@pytest.mark.parametrize("read", [1, 5, 1000])
def test_targets_come_with_the_earlier_items_of_their_users_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: int
) -> None:
    clicks = random_clicks()
    data = write_shop(tmp_path, clicks, N_ITEMS, targets=[(user * 7) % N_ITEMS for user in range(len(clicks))])
    monkeypatch.setattr("gensar_core.ranking.candidates.PART_ROWS", read)
    parts = list(TargetBlocks.open(data.samples_folder, "search", "test", 2).read(unseen=True))
    assert max(map(len, parts)) <= max(read, 2)
    user = 0
    for part in parts:
        assert part.clicked is not None
        for row, target in enumerate(part.samples["target_item"].to_list()):
            assert part.samples["user_id"][row] == user
            found = part.clicked.take(np.array([row])).values.tolist()
            assert found == sorted({*clicks[user], (user * 7) % N_ITEMS} - {target})
            user += 1
    assert user == len(clicks)


def test_full_rankings_are_the_same_bytes_whatever_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_shop(tmp_path / "shop", random_clicks(), N_ITEMS)
    shop = (data.canonical, data.samples_folder, data.embedding)
    corpus, samples = folders.write_corpus(tmp_path / "corpus"), folders.write_samples(tmp_path / "samples")
    schema.EVENTS.write(schema.EVENTS.empty(), samples / "training_events.parquet")
    folders.random_t5(folders.VOCABULARY).save_pretrained(tmp_path / "model")
    folders.write_tokenizer(tmp_path / "model")
    monkeypatch.setattr("gensar_core.generator.rank._LISTS", 4)
    monkeypatch.setattr("gensar_core.ranking.full_ranking._PAIRS", 4 * N_ITEMS)
    protocol = FullRankingSettings(unseen=True)
    fit_and_rank("m", "popularity", {}, *shop, tmp_path / "fitted", tmp_path / "ranks", 42, None)
    written = []
    for read in (1, 9, 1000):
        monkeypatch.setattr("gensar_core.ranking.candidates.PART_ROWS", read)
        out = tmp_path / str(read)
        rank_catalogue_by_method("m", "popularity", {}, *shop, tmp_path / "fitted", out, 42, protocol)
        for beams in (None, 20):
            places = (tmp_path / "model", corpus, samples, out, f"beams{beams}")
            generator_rank_catalogue(*places, RetrievalSettings(beams=beams), protocol)
        written.append({file.name: file.read_bytes() for file in out.glob("*.parquet")})
    assert len(written[0]) == 3
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("kind", ["popularity", "query_frequency", "random_order", "text_cosine"])
def test_a_method_ranks_the_catalogue_by_its_scores(kind: str, tmp_path: Path) -> None:
    data = write_shop(tmp_path, random_clicks(), N_ITEMS)
    folders = (data.canonical, data.samples_folder, data.embedding)
    fit_and_rank("m", kind, {}, *folders, tmp_path / "model", tmp_path / "ranks", 42, None)
    protocol = FullRankingSettings()
    rank_catalogue_by_method("m", kind, {}, *folders, tmp_path / "model", tmp_path / "full", 42, protocol)
    table = schema.FULL_RANKS.read(tmp_path / "full" / "m.parquet")
    assert set(table["task"].unique()) == set(find(kind).tasks)
    assert (table["n_candidates"] == N_ITEMS).all()
    method = find(kind)(validate(find(kind).settings_model, {}, kind), data, 42)
    method.load(tmp_path / "model")
    for task in method.tasks:
        wanted = load_targets(data.samples_folder, task)
        scores = method.score_catalogue(wanted.samples)
        ranks = dict(table.select("sample_id", "rank").rows())
        for sample, item, row in zip(wanted.samples["sample_id"], wanted.samples["target_item"], scores, strict=True):
            assert ranks[sample] == 1 + sum(row > row[item]) + (sum(row == row[item]) - 1) / 2


@pytest.mark.slow
def test_a_sequential_method_scores_all_items_as_it_scores_candidates(tmp_path: Path) -> None:
    data = write_shop(tmp_path, random_clicks(), N_ITEMS)
    method_class = find("sasrec")
    method = method_class(validate(method_class.settings_model, {"epochs": 1}, "sasrec"), data, 42)
    method.fit(None, "")
    wanted = load_targets(data.samples_folder, "rec")
    scores = method.score_catalogue(wanted.samples)
    np.testing.assert_allclose(scores, Method.score_catalogue(method, wanted.samples), rtol=1e-4, atol=1e-5)
    table = ranks_by_score(wanted, N_ITEMS, method.score_catalogue, description="full ranks")
    assert table["rank"].to_list() == catalogue_ranks(scores, wanted)[0].tolist()


def write_full_ranks(folder: Path, wanted: CatalogueTargets, ranks: dict[str, list[list[float]]]) -> list[Path]:
    for name, both in ranks.items():
        schema.FULL_RANKS.write(full_ranks(wanted, np.array(both), 30), folder / f"{name}.parquet")
    return [folder / f"{name}.parquet" for name in ranks]


def test_the_table_counts_a_target_without_a_rank_as_a_miss(tmp_path: Path) -> None:
    unasked = [np.nan] * 4
    ranks = {"first": [[1.0, 5.0, 11.0, np.nan], unasked], "second": [[21.0, 2.0, np.nan, 20.0], unasked]}
    paths = write_full_ranks(tmp_path, targets([0, 1, 2, 3]), ranks)
    table = metrics(paths, ["first", "second"], schema.FULL_RANKS, FULL_METRICS)
    assert table.columns == ["task", "method", *FULL_METRICS, "samples"]
    assert [row[2:5] for row in table.rows()] == [(0.5, 0.5, 0.75), (0.25, 0.25, 0.5)]
    assert table["ndcg@5"][0] == pytest.approx((1 + 1 / np.log2(6)) / 4)
    metric_table(paths, ["first", "second"], tmp_path / "tables" / "demo_full", full=True)
    assert pl.read_csv(tmp_path / "tables" / "demo_full.csv").columns == table.columns
    assert "**0.7500**" in (tmp_path / "tables" / "demo_full.md").read_text()


def test_a_second_ranking_has_its_own_columns_and_tests(tmp_path: Path) -> None:
    wanted = targets([0, 1], [[3, 4], [5]])
    ranks = {"first": [[6.0, np.nan], [5.0, 10.0]], "second": [[7.0, 30.0], [6.0, 29.0]]}
    metric_table(write_full_ranks(tmp_path, wanted, ranks), list(ranks), tmp_path / "t" / "demo", full=True)
    table = pl.read_csv(tmp_path / "t" / "demo.csv")
    unseen = [f"{name}_unseen" for name in FULL_METRICS]
    assert table.columns == ["task", "method", *FULL_METRICS, *unseen, "samples"]
    chosen = table.select("recall@5", "recall@10", "recall@5_unseen", "recall@10_unseen", "ndcg@10_unseen").rows()
    assert chosen[0] == pytest.approx((0.0, 0.5, 0.5, 1.0, (1 / np.log2(6) + 1 / np.log2(11)) / 2), abs=1e-6)
    assert chosen[1] == pytest.approx((0.0, 0.5, 0.0, 0.5, 1 / np.log2(7) / 2), abs=1e-6)
    tests = pl.read_csv(tmp_path / "t" / "demo.significance.csv")
    differences = dict(tests.select("metric", "difference").rows())
    assert (differences["recall@10"], differences["recall@10_unseen"]) == pytest.approx((0.0, 0.5))


def test_a_generator_ranks_alike_by_a_wide_beam_search_and_by_exact_scores(tmp_path: Path) -> None:
    corpus, samples = folders.write_corpus(tmp_path / "corpus"), folders.write_samples(tmp_path / "samples")
    schema.EVENTS.write(schema.EVENTS.empty(), samples / "training_events.parquet")
    folders.random_t5(folders.VOCABULARY).save_pretrained(tmp_path / "model")
    folders.write_tokenizer(tmp_path / "model")
    ranked = {}
    for beams in (None, folders.N_ITEMS, 20):
        settings = RetrievalSettings(beams=beams)
        places = (tmp_path / "model", corpus, samples, tmp_path / "ranks", f"beams{beams}")
        generator_rank_catalogue(*places, settings, FullRankingSettings(unseen=True))
        ranked[beams] = schema.FULL_RANKS.read(tmp_path / "ranks" / f"beams{beams}.parquet")
    # Nobody has clicked in training, but each user has a valid target of each task; one may be the test target.
    assert ranked[None].equals(ranked[folders.N_ITEMS])
    assert set(ranked[None]["task"]) == set(schema.TASKS)
    assert (ranked[None]["rank"] >= 1).all()
    assert (ranked[None]["rank_unseen"] <= ranked[None]["rank"]).all()
    assert (ranked[None]["rank_unseen"] < ranked[None]["rank"]).any()
    assert ranked[None]["n_unseen"].is_between(folders.N_ITEMS - 2, folders.N_ITEMS).all()
    narrow = ranked[20]
    assert narrow["rank_unseen"].is_null().any()
    assert (narrow["rank_unseen"].drop_nulls() <= 20).all()
    # Clicked items ahead of a target are counted exactly.
    ahead, exact = (one["rank"] - one["rank_unseen"] for one in (narrow, ranked[None]))
    assert ahead.drop_nulls().equals(exact.filter(ahead.is_not_null()))
    record = json.loads((tmp_path / "ranks" / "beams20.stage.json").read_text())
    assert record["counts"]["rec_not_found"] > 0

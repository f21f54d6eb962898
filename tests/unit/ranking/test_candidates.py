"""Candidate lists as they are loaded, scored in batches, and turned into the ranks table."""

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists, concat_ranks, load_candidates, rank_lists, ranks_table

NEGATIVES = {0: [4, 5, 6], 1: [7], 2: [], 3: [1, 2, 3], 5: [9, 8, 7]}
TARGETS = {0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 6}
SPLIT = {4: "train", 3: "valid"}


def write(folder, negatives=NEGATIVES, order=(5, 3, 0, 4, 2, 1)):
    """Samples 0-2 are rec test, 3 rec valid, 4 rec train, 5 search test; written in a scrambled order."""
    rows = [
        {
            "sample_id": i, "task": "search" if i == 5 else "rec", "split": SPLIT.get(i, "test"), "user_id": 10 + i,
            "time": 1, "event_id": i, "target_item": TARGETS[i], "query_id": 0 if i == 5 else None,
            "history_behavior": [0], "history_object": [1],
        }
        for i in order
    ]  # fmt: skip
    schema.SAMPLES.write(pl.DataFrame(rows, infer_schema_length=None), folder / "samples.parquet")
    lists = {"sample_id": list(negatives), "negatives": list(negatives.values())}
    schema.CANDIDATES.write(pl.DataFrame(lists), folder / "candidates.parquet")
    return folder


def test_lists_hold_the_target_first_and_minus_one_last(tmp_path):
    lists = load_candidates(write(tmp_path), "rec", "test")
    assert lists.samples["sample_id"].to_list() == [0, 1, 2]
    assert lists.items.tolist() == [[1, 4, 5, 6], [2, 7, -1, -1], [3, -1, -1, -1]]
    assert lists.items.dtype == np.int32
    assert lists.present.tolist() == [[True] * 4, [True, True, False, False], [True, False, False, False]]
    assert lists.samples.columns == list(schema.SAMPLES.columns)


def test_tasks_and_splits_are_kept_apart(tmp_path):
    folder = write(tmp_path)
    assert load_candidates(folder, "rec", "valid").items.tolist() == [[4, 1, 2, 3]]
    assert load_candidates(folder, "search", "test").items.tolist() == [[6, 9, 8, 7]]
    assert len(load_candidates(folder, "search", "valid")) == 0


def test_some_users_are_evenly_spread(tmp_path):
    folder = write(tmp_path)
    assert load_candidates(folder, "rec", "test", users=2).samples["sample_id"].to_list() == [0, 2]
    assert load_candidates(folder, "rec", "test", users=3).samples["sample_id"].to_list() == [0, 1, 2]
    assert load_candidates(folder, "rec", "test", users=99).samples["sample_id"].to_list() == [0, 1, 2]


def test_the_latest_targets_are_taken_by_time_and_stay_in_order(tmp_path):
    folder = write(tmp_path)
    table = schema.SAMPLES.read(folder / "samples.parquet")
    # Samples 0, 1, 2 at 30, 10 and 20; a search later than all of them.
    times = pl.col("sample_id").replace_strict({0: 30, 1: 10, 2: 20, 5: 99}, default=1)
    table = table.with_columns(time=times.cast(pl.Int64))
    some = [load_candidates(folder, "rec", "test", users=users, choice="latest", samples=table) for users in (1, 2, 9)]
    assert [lists.samples["sample_id"].to_list() for lists in some] == [[0], [0, 2], [0, 1, 2]]
    assert some[1].items.tolist() == [[1, 4, 5, 6], [3, -1, -1, -1]]


def test_a_sample_without_candidates_is_one_clear_error(tmp_path):
    folder = write(tmp_path, {0: [1], 1: [2]})
    with pytest.raises(UserError, match=r"candidates\.parquet: holds no candidates for some rec samples of test"):
        load_candidates(folder, "rec", "test")


def scores_of_items(batch):
    """A score that depends on the item alone, so that it moves with a candidate."""
    return np.sin(batch.items * 7.3)


def test_ranks_table_by_hand_whatever_the_batch_size(tmp_path):
    lists = load_candidates(write(tmp_path), "rec", "test")
    for rows in (1, 2, 4096):
        # The -1 at absent places scores best here and must not count.
        table = rank_lists(lists, lambda batch: -batch.items.astype(float), batch_rows=rows, description="test").ranks
        assert table.columns == list(schema.RANKS.columns)
        assert table["rank"].to_list() == [1.0, 1.0, 1.0]
        table = rank_lists(lists, lambda batch: batch.items.astype(float), batch_rows=rows, description="test").ranks
        assert table["rank"].to_list() == [4.0, 2.0, 1.0]
        assert table["n_candidates"].to_list() == [4, 2, 1]
        assert table["target_item"].to_list() == [1, 2, 3]
        assert table["user_id"].to_list() == [10, 11, 12]


def test_shuffled_candidates_give_the_same_ranks(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    shuffled = {i: rng.permutation(items).tolist() for i, items in NEGATIVES.items()}
    assert shuffled != NEGATIVES
    tables = [
        rank_lists(load_candidates(folder, task, "test"), scores_of_items, description="test").ranks
        for task in schema.TASKS
        for folder in (write(tmp_path / "a"), write(tmp_path / "b", shuffled))
    ]
    assert tables[0].equals(tables[1])
    assert tables[2].equals(tables[3])


def test_no_lists_give_an_empty_table(tmp_path):
    lists = load_candidates(write(tmp_path), "search", "valid")
    ranking = rank_lists(lists, scores_of_items, description="test")
    assert ranking.ranks.is_empty()
    assert ranking.scores.is_empty()


def test_scores_are_kept_as_given_whatever_the_batch_size(tmp_path):
    lists = load_candidates(write(tmp_path), "rec", "test")
    for rows in (1, 2, 4096):
        ranking = rank_lists(lists, lambda batch: batch.items / 2.0, batch_rows=rows, description="test")
        assert ranking.scores["sample_id"].to_list() == [0, 1, 2]
        assert ranking.scores["scores"].to_list() == [[0.5, 2.0, 2.5, 3.0], [1.0, 3.5], [1.5]]


def test_ranks_tables_are_joined_in_the_order_of_samples(tmp_path):
    folder = write(tmp_path)
    parts = [
        rank_lists(load_candidates(folder, task, split), scores_of_items, description="test").ranks
        for task, split in (("search", "test"), ("rec", "valid"), ("rec", "test"))
    ]
    assert concat_ranks(parts)["sample_id"].to_list() == [0, 1, 2, 3, 5]


def test_a_ranks_table_takes_the_ranks_given(tmp_path):
    lists: CandidateLists = load_candidates(write(tmp_path), "rec", "test")
    assert ranks_table(lists, np.array([1.0, 1.5, 1.0]))["rank"].to_list() == [1.0, 1.5, 1.0]

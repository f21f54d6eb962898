"""Candidate lists: loaded, scored in batches, and turned into the ranks table."""

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import (
    CandidateBlocks,
    RankingWriter,
    load_candidates,
    rank_batch,
)
from gensar_core.runtime.stage import Stage, read_record

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


def test_some_lists_are_taken_evenly_spread_or_latest_in_time(tmp_path):
    folder = write(tmp_path)
    # Samples 0, 1, 2 at 30, 10 and 20; a search later than all of them.
    times = pl.col("sample_id").replace_strict({0: 30, 1: 10, 2: 20, 5: 99}, default=1).cast(pl.Int64)
    samples = schema.SAMPLES.read(folder / "samples.parquet").with_columns(time=times)
    schema.SAMPLES.write(samples, folder / "samples.parquet")
    for choice, users, taken in (
        ("spread", 2, [0, 2]), ("spread", 3, [0, 1, 2]), ("spread", 99, [0, 1, 2]),
        ("latest", 1, [0]), ("latest", 2, [0, 2]), ("latest", 9, [0, 1, 2]),
    ):  # fmt: skip
        lists = load_candidates(folder, "rec", "test", users=users, choice=choice)
        assert lists.samples["sample_id"].to_list() == taken
        assert lists.items[:, 0].tolist() == [TARGETS[sample] for sample in taken]


def test_a_sample_without_candidates_is_one_clear_error(tmp_path):
    folder = write(tmp_path, {0: [1], 1: [2]})
    with pytest.raises(UserError, match=r"candidates\.parquet: holds no candidates for some rec samples of test"):
        load_candidates(folder, "rec", "test")


def test_ranks_and_scores_by_hand(tmp_path):
    lists = load_candidates(write(tmp_path), "rec", "test")
    # The -1 at absent places scores best here and must not count.
    falling = rank_batch(lists, lambda batch: -batch.items.astype(float))
    assert falling.ranks["rank"].to_list() == [1.0, 1.0, 1.0]
    ranking = rank_batch(lists, lambda batch: batch.items / 2.0)
    assert ranking.ranks.columns == list(schema.RANKS.columns)
    assert ranking.ranks.drop("task", "split").rows() == [(0, 10, 1, 4.0, 4), (1, 11, 2, 2.0, 2), (2, 12, 3, 1.0, 1)]
    assert ranking.scores.rows() == [(0, [0.5, 2.0, 2.5, 3.0]), (1, [1.0, 3.5]), (2, [1.5])]


def test_shuffled_candidates_give_the_same_ranks(tmp_path):
    rng = np.random.default_rng(0)
    shuffled = {sample: rng.permutation(items).tolist() for sample, items in NEGATIVES.items()}
    assert shuffled != NEGATIVES
    for task in schema.TASKS:
        plain, moved = (
            # The score depends on the item alone, so it moves with a candidate.
            rank_batch(
                load_candidates(write(tmp_path, negatives), task, "test"), lambda batch: np.sin(batch.items * 7.3)
            )
            for negatives in (NEGATIVES, shuffled)
        )
        assert plain.ranks.equals(moved.ranks)


def test_no_lists_give_empty_tables(tmp_path):
    ranking = rank_batch(load_candidates(write(tmp_path), "search", "valid"), lambda batch: batch.items)
    assert ranking.ranks.is_empty()
    assert ranking.scores.is_empty()


@pytest.mark.parametrize("rows", [1, 2, 3, 4096])
@pytest.mark.parametrize("read", [1, 2, 99])
def test_blocks_hold_the_lists_that_are_loaded_at_once(tmp_path, monkeypatch, rows, read):
    monkeypatch.setattr("gensar_core.ranking.candidates.PART_ROWS", read)
    folder = write(tmp_path, order=range(6))
    for task, split in (("rec", "test"), ("rec", "valid"), ("search", "test"), ("search", "valid")):
        whole = load_candidates(folder, task, split)
        blocks = CandidateBlocks.open(folder, task, split, rows)
        assert len(blocks) == len(whole)
        for start in (0, rows, len(whole)):
            read_from = list(blocks.read(start))
            assert all(len(block) == rows for block in read_from[:-1])
            ids = [number for block in read_from for number in block.samples["sample_id"]]
            assert ids == whole.samples["sample_id"][start:].to_list()
            for block in read_from:
                # Each block is as wide as its longest list.
                first = whole.samples["sample_id"].to_list().index(block.samples["sample_id"][0])
                same = whole.items[first : first + len(block)]
                assert (block.items == same[:, : block.items.shape[1]]).all()
                assert (same[:, block.items.shape[1] :] == -1).all()


@pytest.mark.parametrize("users", [1, 2, 3, 4])
@pytest.mark.parametrize("read", [1, 2, 99])
@pytest.mark.parametrize("choice", ["spread", "latest"])
def test_blocks_of_some_samples_hold_those_that_are_loaded_at_once(tmp_path, monkeypatch, users, read, choice):
    monkeypatch.setattr("gensar_core.ranking.candidates.PART_ROWS", read)
    monkeypatch.setattr("gensar_core.runtime.reading.PART_ROWS", read)
    folder = write(tmp_path, order=range(6))
    whole = load_candidates(folder, "rec", "test", users=users, choice=choice)
    blocks = CandidateBlocks.open(folder, "rec", "test", 2, users, choice)
    lists = list(blocks.read(columns=list(schema.SAMPLES.columns)))
    assert len(blocks) == len(whole) == min(users, 3)
    assert all(len(block) == 2 for block in lists[:-1])
    assert pl.concat(block.samples for block in lists).equals(whole.samples)


def test_blocks_of_unordered_samples_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"samples\.parquet: rows are not in the order of sample_id"):
        CandidateBlocks.open(write(tmp_path), "rec", "test", 2)


def test_a_ranking_written_in_parts_is_the_ranking_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("gensar_core.ranking.candidates.PART_ROWS", 2)
    folder = write(tmp_path, order=range(6))
    parts = [
        rank_batch(load_candidates(folder, *of), lambda batch: batch.items)
        for of in (("rec", "test"), ("rec", "valid"))
    ]
    with Stage("parts", tmp_path / "parts") as stage, RankingWriter(stage, "m") as writer:
        for part in parts:
            for row in range(len(part.ranks)):
                writer.write(part.ranks[row : row + 1], part.scores[row : row + 1])
    with Stage("whole", tmp_path / "whole") as stage, RankingWriter(stage, "m") as writer:
        for part in parts:
            writer.write(part.ranks, part.scores)
    for name in ("m.parquet", "m.scores.parquet"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    counts = [read_record(tmp_path / name / "stage.json")["counts"] for name in ("parts", "whole")]
    # Ranks 4, 2 and 1 of test, 1 of valid (its target has the largest number).
    assert counts[0] == counts[1]
    assert counts[0]["rec_test_hr@5"] == 1.0
    assert counts[0]["rec_test_ndcg@5"] == pytest.approx((1 / np.log2(5) + 1 / np.log2(3) + 1) / 3)
    assert counts[0]["rec_valid_ndcg@5"] == 1.0

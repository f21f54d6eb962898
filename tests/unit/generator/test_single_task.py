"""A corpus whose prompt file ranks one task alone: its generator is trained, validated, chosen and ranked by that task."""

import json
from pathlib import Path

import pytest

from gensar_core import schema
from gensar_core.config.datasets import FullRankingSettings
from gensar_core.config.generators import RankingSettings, RetrievalSettings
from gensar_core.errors import UserError
from gensar_core.evaluation.targets import check_same_targets, read_test_ranks
from gensar_core.generator.rank import rank_candidates, rank_catalogue
from gensar_core.generator.train import train_generator
from gensar_core.runtime.stage import read_record
from gensar_core.schema import TASKS
from tests.support.generator_folders import write_corpus, write_samples
from tests.support.shop import write_rows
from tests.unit.generator.test_likelihoods import SCRATCH


@pytest.mark.parametrize("task", TASKS)
def test_one_task_is_learned_chosen_and_ranked(tmp_path: Path, task: str) -> None:
    corpus = write_corpus(tmp_path / "corpus", ranked=[task])
    samples, model = write_samples(tmp_path / "samples"), tmp_path / "model"
    train_generator(corpus, samples, model, SCRATCH, seed=3, checkpoints=None)
    curve = json.loads((model / "curve.json").read_text())
    (other,) = set(TASKS) - {task}
    assert all(entry["score"] == entry[f"{task}_ndcg@5"] and f"{other}_ndcg@5" not in entry for entry in curve)

    rank_candidates(model, corpus, samples, tmp_path / "ranks", "one", RankingSettings())
    ranks = schema.RANKS.read(tmp_path / "ranks" / "one.parquet")
    rows = schema.SAMPLES.read(samples / "samples.parquet")
    held_out = rows.filter(task=task).select("task", "split", "sample_id", "user_id", "target_item")
    assert ranks.select(held_out.columns).sort("sample_id").equals(held_out.sort("sample_id"))
    assert read_record(tmp_path / "ranks" / "one.stage.json")["counts"][f"{task}_valid_ndcg@5"] > 0.9

    write_rows(schema.EVENTS, samples, [], "training_events")
    full = tmp_path / "full_ranks"
    rank_catalogue(model, corpus, samples, full, "one", RetrievalSettings(), FullRankingSettings())
    assert set(schema.FULL_RANKS.read(full / "one.parquet")["task"]) == {task}


def test_its_row_stands_beside_those_of_both_tasks(tmp_path: Path) -> None:
    samples, paths = write_samples(tmp_path / "samples"), {}
    for name, ranked in (("both", TASKS), ("one", TASKS[:1])):
        corpus = write_corpus(tmp_path / name, ranked=ranked)
        settings = SCRATCH.model_copy(update={"epochs": 1.0})
        train_generator(corpus, samples, tmp_path / f"model_{name}", settings, seed=3, checkpoints=None)
        rank_candidates(tmp_path / f"model_{name}", corpus, samples, tmp_path / "ranks", name, RankingSettings())
        paths[tmp_path / "ranks" / f"{name}.parquet"] = read_test_ranks(tmp_path / "ranks" / f"{name}.parquet")
    check_same_targets(paths)
    assert [set(ranks.codes) for ranks in paths.values()] == [{"rec", "search"}, {"rec"}]


def test_samples_without_a_valid_target_of_the_task_are_named(tmp_path: Path) -> None:
    corpus, samples = write_corpus(tmp_path / "corpus", ranked=["search"]), write_samples(tmp_path / "samples")
    table = schema.SAMPLES.read(samples / "samples.parquet").filter(task="rec")
    write_rows(schema.SAMPLES, samples, table.rows())
    with pytest.raises(UserError, match="holds no valid samples of search to choose the model by"):
        train_generator(corpus, samples, tmp_path / "model", SCRATCH, seed=3, checkpoints=None)

"""The stage `rank_generator`: its settings applied to a trained generator's scores."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.config.datasets import FullRankingSettings
from gensar_core.config.generators import (
    OtherIdentifier,
    RankingSettings,
    RetrievalSettings,
)
from gensar_core.corpora.read import load_prompts
from gensar_core.errors import UserError
from gensar_core.generator.rank import each_once, rank_candidates, rank_catalogue
from gensar_core.generator.train import train_generator
from gensar_core.generator.trained import TrainedGenerator
from gensar_core.ranking.candidates import load_candidates
from gensar_core.ranking.fusion import list_scores
from gensar_core.runtime import device
from gensar_core.runtime.stage import read_record
from tests.support import generator_folders as folders
from tests.support.samples_logs import event, events_frame


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, its corpus, and samples."""
    home = tmp_path_factory.mktemp("rank")
    corpus, samples = folders.write_corpus(home / "corpus", 10), folders.write_samples(home / "samples", 10)
    settings = folders.tiny_settings(epochs=2.0, batch_size=8, batch_tokens=256)
    train_generator(corpus, samples, home / "model", settings, 1, None)
    return home / "model", corpus, samples


def scores(folder: Path, name: str, samples: Path, task: str) -> np.ndarray:
    """Read the scores of a task's test lists, [lists, width]."""
    table = schema.SCORES.read(folder / f"{name}.scores.parquet")
    matrix = list_scores(table, load_candidates(samples, task, "test"))
    assert matrix is not None
    return matrix


def test_scores_by_the_other_identifier_are_added_by_their_weight(
    inputs: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    model, corpus, samples = inputs
    rank_candidates(*inputs, tmp_path, "plain", RankingSettings())
    rank_candidates(*inputs, tmp_path, "both", RankingSettings(other_identifier=OtherIdentifier(rec=0.5)))
    trained = TrainedGenerator.load(model, corpus)
    lists = load_candidates(samples, "rec", "test")
    prompts = load_prompts(corpus, trained.vocabulary).of(lists.samples.get_column("sample_id").to_numpy())
    other = trained.score(prompts, lists.items, "search")
    plain, both = (scores(tmp_path, name, samples, "rec") for name in ("plain", "both"))
    assert np.abs(other - plain).max() > 1e-3
    np.testing.assert_allclose(both, plain + 0.5 * other, atol=1e-4)
    np.testing.assert_array_equal(*(scores(tmp_path, name, samples, "search") for name in ("plain", "both")))


@pytest.mark.parametrize("unseen", [False, True])
def test_the_catalogue_is_ranked_by_the_sum_of_both_identifiers_with_beams_and_without(
    inputs: tuple[Path, Path, Path], tmp_path: Path, unseen: bool
) -> None:
    model, corpus, samples = inputs
    log = [event(user, time, (7 * user + 3 * time) % folders.N_ITEMS) for user in range(10) for time in range(user % 4)]
    schema.EVENTS.write(events_frame(log), samples / "training_events.parquet")
    settings = [
        RetrievalSettings(beams=beams, other_identifier=OtherIdentifier(rec=0.5))
        for beams in (None, 2 * folders.N_ITEMS)
    ]
    for name, one in zip(("exact", "beams"), settings, strict=True):
        rank_catalogue(*inputs, tmp_path, name, one, FullRankingSettings(unseen=unseen))
    exact, beams = (schema.FULL_RANKS.read(tmp_path / f"{name}.parquet") for name in ("exact", "beams"))
    assert exact.equals(beams)
    targets = exact.filter(pl.col("task") == "rec")
    trained = TrainedGenerator.load(model, corpus)
    prompts = load_prompts(corpus, trained.vocabulary).of(targets["sample_id"].to_numpy())
    everything = np.tile(np.arange(folders.N_ITEMS, dtype=np.int32), (len(targets), 1))
    both = trained.score(prompts, everything, "rec") + 0.5 * trained.score(prompts, everything, "search")
    own = both[np.arange(len(both)), targets["target_item"].to_numpy()]
    assert targets["rank"].to_list() == (1 + (both > own[:, None]).sum(1)).tolist()
    for name, beam in (("plain", None), ("found", 2 * folders.N_ITEMS)):
        rank_catalogue(*inputs, tmp_path, name, RetrievalSettings(beams=beam), FullRankingSettings(unseen=unseen))
    plain, found = (schema.FULL_RANKS.read(tmp_path / f"{name}.parquet") for name in ("plain", "found"))
    assert found.equals(plain)
    assert not plain.equals(exact)


@given(lists=st.lists(st.tuples(*[st.lists(st.integers(-1, 4), min_size=3, max_size=3)] * 2), min_size=1, max_size=3))
def test_items_of_two_lists_are_joined_each_once(lists: list[tuple[list[int], list[int]]]) -> None:
    first, second = (np.array([pair[side] for pair in lists]) for side in (0, 1))
    for joined, *both in zip(each_once(first, second).tolist(), first.tolist(), second.tolist(), strict=True):
        found = [item for item in joined if item >= 0]
        assert sorted(found) == sorted({item for part in both for item in part if item >= 0})


def test_prompts_out_of_order_or_missing_are_refused(inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    trained = TrainedGenerator.load(*inputs[:2])
    table = schema.PROMPTS.read(inputs[1] / "prompts.parquet")
    prompts = load_prompts(inputs[1], trained.vocabulary)
    assert prompts.of(np.array([3, 0])).take(np.array([1])).values.tolist() == table["input_ids"][0].to_list()
    for sample in (len(table), 10_000):
        with pytest.raises(UserError, match=r"prompts\.parquet: holds no prompt for some samples"):
            prompts.of(np.array([0, sample]))
    schema.PROMPTS.write(table.reverse(), tmp_path / "prompts.parquet")
    with pytest.raises(UserError, match="rows are not in the order of sample_id, each once"):
        load_prompts(tmp_path, trained.vocabulary)


def test_bfloat16_changes_scores_little(
    inputs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Emulated where the processor lacks it.
    monkeypatch.setattr(device, "has_bfloat16", lambda _: True)
    for precision in ("float32", "bfloat16"):
        rank_candidates(*inputs, tmp_path, precision, RankingSettings.model_validate({"precision": precision}))
    exact, rounded = (scores(tmp_path, name, inputs[2], "rec") for name in ("float32", "bfloat16"))
    assert 0.0 < np.abs(exact - rounded).max() < 0.1 * exact.std()
    assert precision_of(tmp_path, "bfloat16") == "bfloat16"


@pytest.mark.parametrize("beams", [None, 20])
def test_items_that_the_identifiers_tell_nothing_of_are_last(
    inputs: tuple[Path, Path, Path], tmp_path: Path, beams: int | None
) -> None:
    lists = load_candidates(inputs[2], "rec", "test")
    unknown = sorted({int(lists.items[0, 0]), *lists.items[0, 1:].tolist()[:2]})
    schema.COLD_ITEMS.write(
        pl.DataFrame({"item_id": unknown}, schema=schema.COLD_ITEMS.schema), tmp_path / "cold_items.parquet"
    )
    table = tmp_path / "cold_items.parquet"
    rank_candidates(*inputs, tmp_path, "lists", RankingSettings(), unknown_items=table)
    last = np.isin(lists.items, unknown)
    for values, marked in zip(scores(tmp_path, "lists", inputs[2], "rec"), last, strict=True):
        assert values[marked].max(initial=-np.inf) < values[~marked].min()
    events = inputs[2] / "training_events.parquet"
    schema.EVENTS.write(schema.EVENTS.empty(), events)
    rank_catalogue(*inputs, tmp_path, "all", RetrievalSettings(beams=beams), FullRankingSettings(), unknown_items=table)
    full = schema.FULL_RANKS.read(tmp_path / "all.parquet").filter(pl.col("target_item").is_in(unknown))
    # A beam search does not look for them.
    middle = folders.N_ITEMS - (len(unknown) - 1) / 2 if beams is None else None
    assert full["rank"].to_list() == [middle] * len(full)
    assert len(full)


def precision_of(folder: Path, name: str) -> str:
    """Read the number type from the record of a ranking."""
    counts: dict[str, str] = read_record(folder / f"{name}.stage.json")["counts"]
    return counts["precision"]


@pytest.mark.parametrize("forbidden", ["by the processor", "by the environment"])
def test_a_processor_without_bfloat16_ranks_and_retrieves_in_float32_and_says_so(
    inputs: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    forbidden: str,
) -> None:
    model, corpus, samples = inputs
    has = {"avx512_bf16": forbidden != "by the processor"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    if forbidden == "by the environment":
        monkeypatch.setenv("GENSAR_PRECISION", "float32")
    cpu = torch.device("cpu")
    monkeypatch.setattr("gensar_core.generator.trained.pick_device", lambda: cpu)
    settings = RetrievalSettings(beams=20, precision="bfloat16")
    schema.EVENTS.write(pl.DataFrame(schema=schema.EVENTS.schema), samples / "training_events.parquet")
    rank_candidates(*inputs, tmp_path, "ranks", RankingSettings(precision="bfloat16"))
    rank_catalogue(*inputs, tmp_path, "full", settings, FullRankingSettings())
    assert TrainedGenerator.load(model, corpus, precision="bfloat16").model.dtype == torch.float32
    assert capfd.readouterr().err.count("precision: bfloat16: this cpu does not multiply in it") == 3
    assert [precision_of(tmp_path, name) for name in ("ranks", "full")] == ["float32", "float32"]
    rank_candidates(*inputs, tmp_path, "exact", RankingSettings())
    for name in ("parquet", "scores.parquet"):
        assert (tmp_path / f"ranks.{name}").read_bytes() == (tmp_path / f"exact.{name}").read_bytes()

"""Ranking by several jobs: every list once, in the blocks of one job, with the bytes of one job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.config.datasets import FullRankingSettings
from gensar_core.config.generators import RankingSettings, RetrievalSettings, ScratchSize, TrainingSettings
from gensar_core.errors import UserError
from gensar_core.generator import rank
from gensar_core.generator.train import train_generator
from gensar_core.ranking import full_ranking
from gensar_core.ranking.parts import Part, gather_full_ranks, gather_rankings
from tests.support import generator_folders as folders

SIZE = ScratchSize(d_model=16, d_ff=32, d_kv=8, num_heads=2, num_layers=1, num_decoder_layers=1)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 9), st.integers(1, 12))
def test_parts_share_all_rows_evenly_in_whole_blocks(lengths: list[int], block: int, parts: int) -> None:
    spans = [Part(number, parts).spans(lengths, block) for number in range(parts)]
    for table, length in enumerate(lengths):
        rows = [row for part in spans for row in range(*part[table])]
        assert rows == list(range(length))
    assert all(start % block == 0 for part in spans for start, stop in part if stop > start)
    sizes = [sum(-(-(stop - start) // block) for start, stop in part) for part in spans]
    assert max(sizes) - min(sizes) <= 1


def test_a_part_beyond_the_last_is_refused() -> None:
    with pytest.raises(UserError, match="part 3 of 3: parts are numbered from 0 to 2"):
        Part(3, 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Train a generator; return the folders of the model, its corpus and its samples."""
    folder = tmp_path_factory.mktemp("parts")
    corpus, samples = folders.write_corpus(folder / "corpus", 10), folders.write_samples(folder / "samples", 10)
    schema.EVENTS.write(schema.EVENTS.empty(), samples / "training_events.parquet")
    settings = TrainingSettings(backbone="scratch", size=SIZE, epochs=2.0, batch_size=8, batch_tokens=256)
    train_generator(corpus, samples, folder / "model", settings, 1, None)
    return folder / "model", corpus, samples


@pytest.fixture
def inputs(trained: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """Rank in blocks of three lists: ten users are four blocks a task and split."""
    monkeypatch.setattr(rank, "_LISTS", 3)
    monkeypatch.setattr(full_ranking, "_PAIRS", 3 * folders.N_ITEMS)
    return trained


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 40])
def test_candidates_rank_alike_in_parts_and_at_once(
    inputs: tuple[Path, Path, Path], tmp_path: Path, parts: int
) -> None:
    settings = RankingSettings(users_per_batch=2)
    rank.rank_candidates(*inputs, tmp_path, "whole", settings)
    for number in range(parts):
        rank.rank_candidates(*inputs, tmp_path / "parts", f"{number}", settings, Part(number, parts))
    gather_rankings([tmp_path / "parts" / f"{number}.parquet" for number in range(parts)], tmp_path, "gathered")
    for ending in (".parquet", ".scores.parquet"):
        assert (tmp_path / f"gathered{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    whole, gathered = (json.loads((tmp_path / f"{name}.stage.json").read_text()) for name in ("whole", "gathered"))
    assert gathered["counts"].pop("parts") == parts
    assert gathered["counts"].pop("parts_seconds") > 0.0
    assert gathered["counts"] == whole["counts"]


@pytest.mark.parametrize("beams", [None, 20])
@pytest.mark.parametrize("parts", [2, 3, 12])
def test_the_catalogue_ranks_alike_in_parts_and_at_once(
    inputs: tuple[Path, Path, Path], tmp_path: Path, parts: int, beams: int | None
) -> None:
    settings = (RetrievalSettings(beams=beams, users_per_batch=2), FullRankingSettings())
    rank.rank_catalogue(*inputs, tmp_path, "whole", *settings)
    for number in range(parts):
        rank.rank_catalogue(*inputs, tmp_path / "parts", f"{number}", *settings, Part(number, parts))
    gather_full_ranks([tmp_path / "parts" / f"{number}.parquet" for number in range(parts)], tmp_path, "gathered")
    assert (tmp_path / "gathered.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()

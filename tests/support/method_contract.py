"""What every ranking method must hold: a mix-in of tests.

A test class of a method inherits `MethodContract`, or `TrainedMethodContract`, and names the method's file as ``kind``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.baselines.interface import INPUTS, Method, MethodData, find
from gensar_core.config.base import validate
from gensar_core.ranking.candidates import CandidateLists, load_candidates
from gensar_core.ranking.metrics import average_ranks
from tests.support.shop import (  # noqa: F401
    N_ITEMS,
    N_NEGATIVES,
    N_QUERIES,
    N_USERS,
    clicked_history,
    random_clicks,
    searched_history,
    write_shop,
)

#: Settings by which small methods learn the shop by heart.
BY_HEART = {"dimensions": 16, "dropout": 0.0, "learning_rate": 1.0e-2, "weight_decay": 0.0, "batch_size": 64}


def ranks(method: Method[Any], lists: CandidateLists) -> np.ndarray:
    return average_ranks(method.score(lists), lists.present)


class MethodContract:
    """Tests of one method on a shop of random clicks; those with ``task`` run for each task that it ranks."""

    kind: str
    own: ClassVar[dict[str, Any]] = {}
    #: Changes of ``own`` where a method only has to be fitted, not to learn.
    brief: ClassVar[dict[str, Any]] = {}

    @classmethod
    def make(cls, data: MethodData, seed: int = 42, **changes: Any) -> Method[Any]:
        method = find(cls.kind)
        return method(validate(method.settings_model, cls.own | changes, cls.kind), data, seed)

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        if "task" in metafunc.fixturenames:
            metafunc.parametrize("task", find(cls.kind).tasks)

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, tmp_path_factory: pytest.TempPathFactory) -> MethodData:
        return write_shop(tmp_path_factory.mktemp("shop"), random_clicks(), N_ITEMS, searching=True)

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, data: MethodData) -> Method[Any]:
        method = cls.make(data)
        method.fit(None, "")
        return method

    @pytest.fixture
    def lists(self, data: MethodData, task: str) -> CandidateLists:
        return load_candidates(data.samples_folder, task, "test")

    def test_says_what_it_is(self) -> None:
        assert set(find(self.kind).tasks) <= set(schema.TASKS)
        assert find(self.kind).tasks
        assert set(find(self.kind).inputs) <= set(INPUTS)
        assert find(self.kind).paper

    def test_scores_have_the_lists_shape_and_are_finite(self, fitted: Method[Any], lists: CandidateLists) -> None:
        shorter = lists.items.copy()
        shorter[::2, 5:] = -1
        scores = fitted.score(replace(lists, items=shorter))
        assert scores.shape == lists.items.shape
        assert np.isfinite(scores).all()

    def test_empty_and_very_long_histories_are_scored(self, fitted: Method[Any], lists: CandidateLists) -> None:
        items = [[length % N_ITEMS] * length for length in np.resize([0, 200, 1], len(lists)).tolist()]
        # Clicks alone, and clicks and searches.
        shown = [
            searched_history(clicks, N_QUERIES) if row % 2 else clicked_history(clicks)
            for row, clicks in enumerate(items)
        ]
        histories = lists.samples.with_columns(
            history_behavior=pl.Series([behaviors for behaviors, _ in shown], dtype=pl.List(pl.UInt8)),
            history_object=pl.Series([objects for _, objects in shown], dtype=pl.List(pl.Int32)),
        )
        assert np.isfinite(fitted.score(replace(lists, samples=histories))).all()

    def test_the_order_of_candidates_does_not_matter(self, fitted: Method[Any], lists: CandidateLists) -> None:
        order = np.concatenate([[0], 1 + np.random.default_rng(2).permutation(lists.items.shape[1] - 1)])
        shuffled = replace(lists, items=np.ascontiguousarray(lists.items[:, order]))
        assert fitted.score(shuffled) == pytest.approx(fitted.score(lists)[:, order], rel=1e-5, abs=1e-6)
        assert (ranks(fitted, shuffled) == ranks(fitted, lists)).all()

    def test_the_batch_does_not_matter(self, fitted: Method[Any], lists: CandidateLists) -> None:
        together = fitted.score(lists)
        apart = np.concatenate([fitted.score(lists.take(start, start + 7)) for start in range(0, len(lists), 7)])
        assert apart == pytest.approx(together, rel=1e-4, abs=1e-5)

    def test_saved_and_loaded_it_scores_the_same(
        self, fitted: Method[Any], data: MethodData, lists: CandidateLists, tmp_path: Path
    ) -> None:
        fitted.save(tmp_path)
        loaded = self.make(data, seed=42)
        loaded.load(tmp_path)
        assert (loaded.score(lists) == fitted.score(lists)).all()
        assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors"}

    def test_equal_seeds_give_equal_scores(self, data: MethodData, tmp_path: Path) -> None:
        first, again = (self.make(data, **self.brief) for _ in range(2))
        for method in (first, again):
            method.fit(None, "")
        for task in again.tasks:
            lists = load_candidates(data.samples_folder, task, "test")
            assert (again.score(lists) == first.score(lists)).all()
        for method, name in ((first, "first"), (again, "second")):
            (tmp_path / name).mkdir()
            method.save(tmp_path / name)
        for file in (tmp_path / "first").iterdir():
            assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()

    def test_what_is_not_seeded_scores_alike_with_any_seed(self, fitted: Method[Any], data: MethodData) -> None:
        if fitted.seeded:
            return
        other = self.make(data, seed=7)
        other.fit(None, "")
        for task in other.tasks:
            lists = load_candidates(data.samples_folder, task, "test")
            assert (other.score(lists) == fitted.score(lists)).all()

    def test_one_user_and_one_item_are_enough(self, tmp_path: Path) -> None:
        method = self.make(write_shop(tmp_path, [[0, 0, 0]], 1), **self.brief)
        method.fit(None, "")
        for task in method.tasks:
            alone = load_candidates(tmp_path / "samples", task, "test")
            assert ranks(method, alone).tolist() == [1.0]


class TrainedMethodContract(MethodContract):
    """And of a method that is trained by gradient and learns item vectors."""

    brief: ClassVar[dict[str, Any]] = {"epochs": 2, "validate_every": 1}
    #: Share of the targets that must come first; chance is 1 / 21.
    by_heart: ClassVar[float] = 0.95
    #: The same for search, of a method that cannot tell apart users who ask the same query.
    by_heart_in_search: ClassVar[float | None] = None

    def test_learns_training_targets_by_heart(self, fitted: Method[Any], lists: CandidateLists, task: str) -> None:
        least = self.by_heart_in_search if task == "search" else None
        assert np.mean(ranks(fitted, lists) == 1.0) > (self.by_heart if least is None else least)

    def test_item_vectors_are_one_row_an_item(self, fitted: Method[Any]) -> None:
        learned = fitted.item_vectors()
        assert learned is not None
        assert learned.vectors.shape[0] == learned.seen.shape[0] == N_ITEMS
        assert learned.vectors.dtype == np.float32
        assert np.isfinite(learned.vectors).all()
        assert learned.seen.all()

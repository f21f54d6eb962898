"""What every method that encodes click sequences must hold, beside the contract of all trained methods."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch

from gensar_core.baselines.interface import MethodData, find
from gensar_core.baselines.shared.sequential_recommender import SequentialRecommender
from gensar_core.config.base import validate
from gensar_core.embeddings.sequential import extract_vectors
from gensar_core.ranking.candidates import load_candidates
from tests.support.method_contract import TrainedMethodContract, ranks
from tests.support.shop import N_ITEMS, random_clicks, write_shop

#: Enough to learn 64 users by heart.
SMALL: dict[str, Any] = {
    "dimensions": 32,
    "dropout": 0.0,
    "max_history": 12,
    "learning_rate": 1.0e-2,
    "negatives": 64,
    "batch_size": 64,
    "epochs": 100,
    "validate_every": 50,
}


class SequentialContract(TrainedMethodContract):
    """Tests of an untrained encoder, and of short trainings that need not learn anything.

    ``looks_ahead`` says whether a state depends on later clicks; a method that gives one state a row says so by
    ``one_state``, and tests itself that all places move it.
    """

    looks_ahead: ClassVar[bool] = False
    one_state: ClassVar[bool] = False

    @classmethod
    def untrained(cls, data: MethodData, **own: Any) -> SequentialRecommender[Any]:
        method = find(cls.kind)
        made: Any = method(validate(method.settings_model, cls.own | {"epochs": 1} | own, cls.kind), data, 3)
        return made

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, data: MethodData) -> Any:
        encoder = cls.untrained(data).module
        torch.manual_seed(0)
        # Weights as initialized are so small that a leak could hide below the tolerance.
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        return encoder.eval()

    @pytest.fixture(scope="class")
    @classmethod
    def inputs(cls) -> torch.Tensor:
        return torch.randint(N_ITEMS, (4, 12), generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def test_which_clicks_move_which_states(self, encoder: Any, inputs: torch.Tensor) -> None:
        states = encoder(inputs)
        for place in range(inputs.shape[1]):
            changed = inputs.clone()
            changed[:, place] = (changed[:, place] + 7) % N_ITEMS
            moved = (encoder(changed) - states).abs().amax(dim=(0, 2))
            if self.looks_ahead or self.one_state:
                assert (moved > 1e-4).all()
            else:
                # To the last bit: a leak through a mask that is merely large would show.
                assert (moved[:place] == 0).all()
                assert (moved[place:] > 1e-4).all()

    @torch.no_grad()
    def test_padding_never_moves_a_state(self, encoder: Any, inputs: torch.Tensor) -> None:
        padded = inputs.clone()
        padded[:, 8:] = N_ITEMS if self.looks_ahead else 0
        assert torch.allclose(encoder(inputs[:, :8]), encoder(padded)[:, :8], atol=1e-5)

    def test_only_the_last_clicks_count(self, data: MethodData) -> None:
        method = self.untrained(data, max_history=3)
        lists = load_candidates(data.samples_folder, "rec", "test")
        # Each click stands with the search for its item: three entries. A mask takes one place.
        visible = 3 * (2 if self.looks_ahead else 3)
        shorter = lists.samples.with_columns(
            history_behavior=lists.samples["history_behavior"].list.tail(visible),
            history_object=lists.samples["history_object"].list.tail(visible),
        )
        assert (method.score(lists) == method.score(type(lists)(shorter, lists.items))).all()

    def test_searches_are_not_read(self, data: MethodData) -> None:
        method = self.untrained(data)
        lists = load_candidates(data.samples_folder, "rec", "test")
        searching = lists.samples.with_columns(
            history_behavior=pl.concat_list(pl.lit([1, 2], pl.List(pl.UInt8)), "history_behavior"),
            history_object=pl.concat_list(pl.lit([3, 4], pl.List(pl.Int32)), "history_object"),
        )
        assert (method.score(lists) == method.score(type(lists)(searching, lists.items))).all()

    def test_an_item_unseen_in_training_gets_the_mean_and_is_counted(self, tmp_path: Path) -> None:
        data = write_shop(tmp_path, random_clicks(), N_ITEMS + 3)
        method = self.untrained(data)
        counts = method.fit(None, "")
        learned = method.item_vectors()
        assert counts["unseen_items"] == 3
        assert learned.seen.tolist() == [True] * N_ITEMS + [False] * 3
        mean = np.tile(learned.vectors[:N_ITEMS].mean(axis=0), (3, 1))
        assert learned.vectors[-3:] == pytest.approx(mean, abs=1e-6)
        if method.module.bias is not None:
            bias = method.module.bias.detach().numpy()
            assert bias[-3:] == pytest.approx(np.repeat(bias[:N_ITEMS].mean(), 3), abs=1e-6)
        learned.save(tmp_path)
        extract_vectors(tmp_path, tmp_path / "embedding")
        assert (tmp_path / "embedding" / "vectors.safetensors").is_file()

    def test_an_empty_history_prefers_nothing(self, tmp_path: Path) -> None:
        data = write_shop(tmp_path, random_clicks(), N_ITEMS, histories=[[] for _ in random_clicks()])
        assert (ranks(self.untrained(data), load_candidates(tmp_path / "samples", "rec", "test")) == 11.0).all()

    @pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "bce", "gbce", "bpr_max"])
    def test_every_loss_is_finite_on_the_shortest_and_longest_sequences(self, tmp_path: Path, loss: str) -> None:
        clicks = [[1], [2, 3], [5] * 40, list(range(N_ITEMS)) * 2]
        method = self.untrained(write_shop(tmp_path, clicks, N_ITEMS), loss=loss, epochs=2, validate_every=1)
        curve = method.fit(None, "")["curve"]
        assert all(np.isfinite(entry["train_loss"]) for entry in curve)
        assert np.isfinite(method.item_vectors().vectors).all()
        assert np.isfinite(method.score(load_candidates(tmp_path / "samples", "rec", "test"))).all()

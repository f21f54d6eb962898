"""Ranks over the whole catalogue, as benchmarks compute them, against a plain count."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gensar_core.ranking.metrics import average_ranks
from gensar_core.runtime.arrays import Ragged

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _full_ranking import ClickLog, full_ranks


class Fixed:
    """A method whose states and items are given."""

    def __init__(self, states, table):
        self.states = lambda _: states
        self.module = type("Encoder", (), {"table": lambda _: table})()


@pytest.mark.parametrize("filter_seen", [False, True])
def test_ranks_count_better_items_and_half_the_ties(filter_seen):
    generator = torch.Generator().manual_seed(0)
    # Small whole numbers tie often.
    states = torch.randint(-2, 3, (50, 2), generator=generator).float()
    table = torch.randint(-2, 3, (30, 2), generator=generator).float()
    targets = np.arange(50) % 30
    histories = Ragged.from_lengths(np.full(50, 3), np.random.default_rng(0).integers(30, size=150))
    found = full_ranks(Fixed(states, table), histories, targets, filter_seen=filter_seen)
    scores = (states @ table.T).numpy()
    for user, target in enumerate(targets):
        seen = set(histories.values[3 * user : 3 * user + 3].tolist()) if filter_seen else set()
        others = [item for item in range(30) if item != target and item not in seen]
        row = scores[user, [target, *others]][None]
        assert found[user] == average_ranks(row, np.ones(row.shape, dtype=bool))[0]


def test_the_last_two_clicks_are_held_out():
    log = ClickLog(Ragged.from_lengths(np.array([3, 4]), np.array([1, 2, 3, 4, 5, 6, 7])), 8)
    assert log.without_last(2).values.tolist() == [1, 4, 5]
    assert log.target(2).tolist() == [2, 6]
    assert log.without_last(1).values.tolist() == [1, 2, 4, 5, 6]
    assert log.target(1).tolist() == [3, 7]

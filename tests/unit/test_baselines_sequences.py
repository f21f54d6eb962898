"""Sequences, batches and losses of sequential methods, against plain loops and hand-computed values."""

import itertools

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.baselines.losses import PopularityNegatives, UnseenNegatives, binary, full_softmax, sampled_softmax
from gensar_core.baselines.sequences import (
    SequenceBatches,
    SequenceEncoder,
    last_states,
    recommended_clicks,
    recommended_histories,
    windows,
)
from gensar_core.runtime.arrays import Ragged


def ragged(rows):
    values = np.array([value for row in rows for value in row], dtype=np.int32)
    return Ragged.from_lengths(np.array([len(row) for row in rows], dtype=np.int64), values)


def as_lists(rows):
    return [rows.values[start:stop].tolist() for start, stop in itertools.pairwise(rows.offsets)]


def test_clicks_are_recommendations_by_user_in_event_order():
    events = schema.EVENTS.check(
        pl.DataFrame(
            {
                "event_id": [4, 0, 1, 2, 3],
                "user_id": [7, 2, 2, 2, 7],
                "time": [9, 1, 1, 2, 8],
                "task": ["rec", "rec", "search", "rec", "rec"],
                "item_id": [40, 10, 11, 12, 30],
                "query_id": [None, None, 0, None, None],
                "session_id": [None, None, 0, None, None],
            }
        )
    )
    users, clicks = recommended_clicks(events)
    assert users.tolist() == [2, 7]
    assert as_lists(clicks) == [[10, 12], [30, 40]]


def test_histories_hold_recommendations_alone():
    samples = pl.DataFrame(
        {"history_behavior": [[0, 1, 2, 0], [], [1, 2]], "history_object": [[5, 6, 7, 8], [], [1, 2]]},
        schema={"history_behavior": pl.List(pl.UInt8), "history_object": pl.List(pl.Int32)},
    )
    assert as_lists(recommended_histories(samples)) == [[5, 8], [], []]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=14), max_size=8), st.integers(1, 5))
def test_windows_give_each_target_once_with_its_last_inputs(sequences, width):
    rows, cut = windows(ragged(sequences), width)
    assert (cut.lengths >= 2).all()
    assert (cut.lengths <= width + 1).all()
    for row, sequence in enumerate(sequences):
        own = [window for window, owner in zip(as_lists(cut), rows, strict=True) if owner == row]
        assert [item for window in own for item in window[1:]] == sequence[1:]
        # Neighbors share an item, and only the first window may be short.
        assert all(first[-1] == second[0] for first, second in itertools.pairwise(own))
        assert all(len(window) == width + 1 for window in own[1:])


def test_an_epoch_serves_every_sequence_once_and_resumes_anywhere():
    rng = np.random.default_rng(0)
    sequences = ragged([rng.integers(100, size=rng.integers(2, 9)).tolist() for _ in range(53)])
    batches = SequenceBatches(sequences, batch_size=8, seed=5)
    assert batches.steps_per_epoch == 7
    served = list(itertools.islice(batches(0), 14))
    for epoch in (served[:7], served[7:]):
        pairs = []
        for batch in epoch:
            width = batch.inputs.shape[1]
            for place, target, row in zip(batch.places, batch.targets, batch.rows, strict=True):
                position = place % width
                expected = as_lists(sequences)[row]
                assert batch.inputs.ravel()[place] == expected[position]
                assert target == expected[position + 1]
                pairs.append((row, position))
        assert sorted(pairs) == [
            (row, place) for row, items in enumerate(as_lists(sequences)) for place in range(len(items) - 1)
        ]
    assert [batch.rows.tolist() for batch in served[:7]] != [batch.rows.tolist() for batch in served[7:]]
    for first in (0, 3, 7, 9):
        resumed = next(batches(first))
        assert resumed.step == served[first].step == first
        assert (resumed.inputs == served[first].inputs).all()
        assert (resumed.targets == served[first].targets).all()


def test_batches_hold_little_padding():
    rng = np.random.default_rng(0)
    sequences = ragged([[1] * length for length in rng.integers(2, 60, size=2000)])
    batches = SequenceBatches(sequences, batch_size=50, seed=5)
    epoch = list(itertools.islice(batches(0), batches.steps_per_epoch))
    filled = sum(len(batch.targets) for batch in epoch) / sum(batch.inputs.size for batch in epoch)
    assert filled > 0.9


def test_last_states_are_of_the_last_items_and_zero_without_any():
    class Echo(SequenceEncoder):
        """The item and its place."""

        def forward(self, items):
            return torch.stack([items, torch.arange(items.shape[1]).expand_as(items)], dim=2).float()

    histories = ragged([[3, 4, 5], [], [9], [1, 2, 3, 4]])
    states = last_states(Echo(10, 2), histories, 3, torch.device("cpu"), batch_size=2)
    assert states.tolist() == [[5, 2], [0, 0], [9, 0], [4, 2]]
    assert last_states(Echo(10, 2), ragged([[], []]), 3, torch.device("cpu")).tolist() == [[0, 0], [0, 0]]


def test_losses_by_hand():
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    states = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    targets = torch.tensor([0, 1])
    # Logits: [1, 0, 2] and [0, 2, 0].
    expected = [np.log(np.exp([1, 0, 2]).sum()) - 1, np.log(np.exp([0, 2, 0]).sum()) - 2]
    assert full_softmax(states, targets, table).item() == pytest.approx(np.mean(expected))
    # Negatives 0, 2, 2: the first is the target of the first row and does not count there.
    expected = [np.log(np.exp([1, 2, 2]).sum()) - 1, np.log(np.exp([2, 0, 0, 0]).sum()) - 2]
    sampled = sampled_softmax(states, targets, table, torch.tensor([0, 2, 2]))
    assert sampled.item() == pytest.approx(np.mean(expected))
    expected = [np.log1p(np.exp(-1)) + np.log1p(np.exp(2)), np.log1p(np.exp(-2)) + np.log1p(np.exp(0))]
    assert binary(states, targets, table, torch.tensor([2, 0])).item() == pytest.approx(np.mean(expected))


def test_a_catalogue_of_targets_alone_has_a_finite_gradient():
    table = torch.zeros(1, 2, requires_grad=True)
    states = torch.ones(3, 2, requires_grad=True)
    loss = sampled_softmax(states, torch.zeros(3, dtype=torch.long), table, torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert loss.item() == pytest.approx(0.0)
    assert torch.isfinite(table.grad).all()
    assert torch.isfinite(states.grad).all()


@pytest.mark.parametrize(
    ("power", "expected"), [(1.0, [0.0, 0.1, 0.9, 0.0]), (0.5, [0.0, 0.25, 0.75, 0.0]), (0.0, [0.25] * 4)]
)
def test_popular_items_are_drawn_more_often(power, expected):
    negatives = PopularityNegatives(np.array([0, 1, 9, 0]), power, seed=1)
    shares = np.bincount(negatives.draw(0, 40_000), minlength=4) / 40_000
    assert shares == pytest.approx(expected, abs=0.015)
    assert (shares[np.array(expected) == 0] == 0).all()
    assert (negatives.draw(3, 50) == negatives.draw(3, 50)).all()
    assert (negatives.draw(3, 50) != negatives.draw(4, 50)).any()


def test_unseen_negatives_avoid_the_users_own_clicks():
    clicked = ragged([[0, 1, 2], [5], list(range(10))])
    negatives = UnseenNegatives(clicked, 10, seed=1)
    rows = np.repeat([0, 1], 3000)
    drawn = negatives.draw(0, rows)
    assert set(drawn[rows == 0]) == set(range(3, 10))
    assert set(drawn[rows == 1]) == set(range(10)) - {5}
    # The third user has clicked everything; something must still be drawn.
    assert len(negatives.draw(0, np.array([2, 2]))) == 2

"""Sequences, forms, batches and losses of sequential methods, against plain loops and hand-computed values."""

import itertools

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.baselines.shared.next_item_losses import (
    PopularityNegatives,
    UnseenNegatives,
    binary,
    bpr_max,
    full_softmax,
    generalized_binary,
    sampled_softmax,
)
from gensar_core.baselines.shared.sequence_encoder import (
    SequenceEncoder,
    last_states,
    recommended_histories,
)
from gensar_core.baselines.shared.sequence_examples import (
    ClickPrefixes,
    ClickWindows,
    EachPrefix,
    EveryPlace,
    LastPlace,
    MaskedPlaces,
)
from gensar_core.errors import UserError
from gensar_core.samples.user_clicks import UserClicks
from tests.support.ragged import ragged


def numbers(cuts):
    return np.arange(len(cuts))


def as_lists(rows):
    return [rows.values[start:stop].tolist() for start, stop in itertools.pairwise(rows.offsets)]


@pytest.mark.parametrize("read", [1, 2, 3, 99])
def test_clicks_of_a_user_are_those_of_one_task_in_the_order_of_events(tmp_path, monkeypatch, read):
    monkeypatch.setattr("gensar_core.runtime.reading.PART_ROWS", read)
    rows = [
        (0, 2, 1, "rec", 10, None, None),
        (1, 2, 1, "search", 11, 8, 0),
        (2, 2, 2, "rec", 12, None, None),
        (3, 5, 2, "search", 13, 9, 1),
        (4, 7, 8, "rec", 30, None, None),
        (5, 7, 9, "rec", 40, None, None),
    ]
    events = schema.EVENTS.check(pl.DataFrame(rows, schema=schema.EVENTS.schema, orient="row"))
    schema.EVENTS.write(events, tmp_path / "events.parquet")
    clicks, searches = (UserClicks.read(tmp_path / "events.parquet", task) for task in ("rec", "search"))
    assert clicks.users.tolist() == [2, 7]
    assert as_lists(clicks.items) == [[10, 12], [30, 40]]
    assert searches.users.tolist() == [2, 5]
    assert as_lists(searches.items) == [[11], [13]]
    assert searches.queries.tolist() == [8, 9]
    for order in ([2, 1, 0, 3, 4, 5], [3, 4, 5, 0, 1, 2], [0, 1, 2, 3, 5, 4]):
        schema.EVENTS.write(events[order], tmp_path / "events.parquet")
        with pytest.raises(UserError, match="rows are not in the order of users and events"):
            for task in schema.TASKS:
                UserClicks.read(tmp_path / "events.parquet", task)
    schema.EVENTS.write(events.clear(), tmp_path / "events.parquet")
    assert len(UserClicks.read(tmp_path / "events.parquet", "rec").items) == 0


def test_histories_hold_only_recommendations():
    samples = pl.DataFrame(
        {"history_behavior": [[0, 1, 2, 0], [], [1, 2]], "history_object": [[5, 6, 7, 8], [], [1, 2]]},
        schema={"history_behavior": pl.List(pl.UInt8), "history_object": pl.List(pl.Int32)},
    )
    assert as_lists(recommended_histories(samples)) == [[5, 8], [], []]


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 9), max_size=14), max_size=8), st.integers(1, 5))
def test_windows_give_each_target_once_with_its_last_inputs(sequences, width):
    cuts = ClickWindows(ragged(sequences), width)
    rows, cut = cuts.rows_of(numbers(cuts)), cuts.take(numbers(cuts))
    assert (cuts.lengths_of(numbers(cuts)) == cut.lengths).all()
    assert (cut.lengths >= 2).all()
    assert (cut.lengths <= width + 1).all()
    for row, sequence in enumerate(sequences):
        cuts = [window for window, owner in zip(as_lists(cut), rows, strict=True) if owner == row]
        assert [item for window in cuts for item in window[1:]] == sequence[1:]
        # Neighbors share an item, and only the first window may be short.
        assert all(first[-1] == second[0] for first, second in itertools.pairwise(cuts))
        assert all(len(window) == width + 1 for window in cuts[1:])


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 9), max_size=14), max_size=8), st.integers(1, 5))
def test_prefixes_end_at_every_click_but_the_first(sequences, width):
    cuts = ClickPrefixes(ragged(sequences), width)
    rows, cut = cuts.rows_of(numbers(cuts)), cuts.take(numbers(cuts))
    expected = [
        (row, sequence[max(0, stop - width - 1) : stop])
        for row, sequence in enumerate(sequences)
        for stop in range(2, len(sequence) + 1)
    ]
    assert list(zip(rows.tolist(), as_lists(cut), strict=True)) == expected


def test_every_place_predicts_the_next_item():
    batch = EveryPlace(3, 10).batch(0, np.array([7, 8]), ragged([[1, 2], [3, 4, 5]]))
    # A shorter row goes on with its last target: no state that predicts sees it.
    assert batch.inputs.tolist() == [[1, 2], [3, 4]]
    assert batch.targets.tolist() == [2, 4, 5]
    assert batch.places.tolist() == [0, 2, 3]
    assert batch.rows.tolist() == [7, 8, 8]


def test_each_prefix_predicts_its_last_item():
    form = EachPrefix(3, 10)
    cuts = form.examples(ragged([[1, 2], [3, 4, 5, 6, 7], [8]]))
    rows, sequences = cuts.rows_of(numbers(cuts)), cuts.take(numbers(cuts))
    assert list(zip(rows.tolist(), as_lists(sequences), strict=True)) == [
        (0, [1, 2]), (1, [3, 4]), (1, [3, 4, 5]), (1, [3, 4, 5, 6]), (1, [4, 5, 6, 7])
    ]  # fmt: skip
    batch = form.batch(0, rows, sequences)
    assert batch.inputs.tolist() == [[1, 0, 0], [3, 0, 0], [3, 4, 0], [3, 4, 5], [4, 5, 6]]
    assert batch.targets.tolist() == [2, 4, 5, 6, 7]
    assert batch.rows.tolist() == [0, 1, 1, 1, 1]
    # The last item's place in the flattened states of each row.
    assert batch.places.tolist() == [0, 3, 7, 11, 14]
    inputs, places = form.question(ragged([[1, 2, 3, 4, 5], [6]]))
    assert inputs.tolist() == [[3, 4, 5], [6, 0, 0]]
    assert places.tolist() == [2, 3]


def test_last_place_predicts_from_rows_of_full_width():
    form = LastPlace(3, 10)
    batch = form.batch(0, np.array([7, 8]), ragged([[1, 2], [3, 4, 5, 6]]))
    assert batch.inputs.tolist() == [[10, 10, 1], [3, 4, 5]]
    assert batch.targets.tolist() == [2, 6]
    assert batch.rows.tolist() == [7, 8]
    # One state a row comes out of the encoder.
    assert batch.places.tolist() == [0, 1]
    inputs, places = form.question(ragged([[1, 2, 3, 4, 5], [6]]))
    assert inputs.tolist() == [[3, 4, 5], [10, 10, 6]]
    assert places.tolist() == [0, 1]


def test_masks_hide_their_targets_and_nothing_else():
    form = MaskedPlaces(9, 100, 0.5, 0.25, seed=5)
    rng = np.random.default_rng(0)
    sequences = ragged([rng.integers(100, size=rng.integers(2, 10)).tolist() for _ in range(400)])
    batch = form.batch(3, np.arange(400) + 1000, sequences)
    width = batch.inputs.shape[1]
    restored = batch.inputs.ravel().copy()
    assert (restored[batch.places] == form.mask).all()
    assert (restored == form.mask).sum() == len(batch.places)
    restored[batch.places] = batch.targets
    assert (batch.rows == 1000 + batch.places // width).all()
    masked = np.zeros((400, width), dtype=bool)
    masked.ravel()[batch.places] = True
    assert masked.any(axis=1).all()
    for row, (items, inputs) in enumerate(zip(as_lists(sequences), restored.reshape(400, width), strict=True)):
        assert inputs.tolist() == items + [form.padding] * (width - len(items))
        assert not masked[row, len(items) :].any()
    lengths = sequences.lengths
    long = lengths >= 6
    only_last = masked[np.arange(400), lengths - 1] & (masked.sum(axis=1) == 1)
    # A quarter of the rows, give or take what chance masks so as well.
    assert only_last[long].mean() == pytest.approx(0.26, abs=0.08)
    others = masked[long & ~only_last]
    assert others.sum() / lengths[long & ~only_last].sum() == pytest.approx(0.5, abs=0.05)
    again, other = form.batch(3, np.arange(400), sequences), form.batch(4, np.arange(400), sequences)
    assert (again.inputs == batch.inputs).all()
    assert (other.inputs != batch.inputs).any()


def test_a_mask_after_the_history_predicts_the_next_item():
    form = MaskedPlaces(4, 10, 0.5, 0.0, seed=5)
    inputs, places = form.question(ragged([[1, 2, 3, 4, 5], [6]]))
    assert inputs.tolist() == [[3, 4, 5, 11], [6, 11, 10, 10]]
    assert inputs.ravel()[places].tolist() == [11, 11]
    cuts = form.examples(ragged([[1, 2, 3, 4, 5, 6], [7], [8, 9]]))
    assert cuts.rows_of(numbers(cuts)).tolist() == [0, 0, 2]
    assert as_lists(cuts.take(numbers(cuts))) == [[1, 2, 3], [3, 4, 5, 6], [8, 9]]
    assert as_lists(cuts.take(np.array([2, 0]))) == [[8, 9], [1, 2, 3]]


def test_last_states_belong_to_the_last_items_and_are_zero_for_empty_histories():
    class Echo(SequenceEncoder):
        """The item and its place."""

        def forward(self, items):
            return torch.stack([items, torch.arange(items.shape[1]).expand_as(items)], dim=2).float()

    histories = ragged([[3, 4, 5], [], [9], [1, 2, 3, 4]])
    form = EveryPlace(3, 10)
    assert last_states(Echo(10, 2), form, histories, batch_size=2).tolist() == [[5, 2], [0, 0], [9, 0], [4, 2]]
    assert last_states(Echo(10, 2), form, ragged([[], []])).tolist() == [[0, 0], [0, 0]]
    biased = Echo(10, 2, bias=True)
    torch.nn.init.constant_(biased.bias, 7.0)
    states = last_states(biased, form, histories)
    assert states.tolist() == [[5, 2, 1], [0, 0, 0], [9, 0, 1], [4, 2, 1]]
    assert (states @ biased.table().T)[0].tolist() == pytest.approx(
        (7 + biased.items.weight @ torch.tensor([5.0, 2.0])).tolist()
    )


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


def test_losses_of_shared_negatives_by_hand():
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 0.0], [0.0, -1.0]])
    states = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    targets = torch.tensor([0, 1])
    negatives = torch.tensor([0, 2])

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    # Logits of the targets: 1 and 2; of the negatives: (itself, 2) and (0, 0). Two of the four others are drawn: alpha
    # is 1/2, and beta = 1/2 (3/4 (1 - 2) + 2) = 5/8.
    first = [-0.625 * np.log(sigmoid(1)) - np.log(1 - sigmoid(2))]
    second = [-0.625 * np.log(sigmoid(2)) - 2 * np.log(1 - sigmoid(0))]
    loss = generalized_binary(states, targets, table, negatives, 0.75)
    assert loss.item() == pytest.approx(np.mean([first, second]) / 3)
    # Uncalibrated it is the plain binary loss over one positive and two negatives.
    plain = [-np.log(sigmoid(1)) - np.log(1 - sigmoid(2)), -np.log(sigmoid(2)) - 2 * np.log(0.5)]
    assert generalized_binary(states, targets, table, negatives, 0.0).item() == pytest.approx(np.mean(plain) / 3)
    # All weight of the first row is on its one other negative; the second has two equal ones.
    first = -np.log(sigmoid(1 - 2)) + 0.1 * 2**2
    second = -np.log(sigmoid(2 - 0))
    assert bpr_max(states, targets, table, negatives, 0.1).item() == pytest.approx(np.mean([first, second]))
    # Weights are over negatives alone: logits 2 and 0 weigh e^2 to 1, whatever the target's.
    weight = np.exp(2) / (np.exp(2) + 1)
    expected = -np.log(weight * sigmoid(1 - 2) + (1 - weight) * sigmoid(1 - 0))
    loss = bpr_max(states[:1], targets[:1], table, torch.tensor([2, 3]), 0.0)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "loss",
    [
        sampled_softmax,
        lambda *arguments: generalized_binary(*arguments, 0.75),
        lambda *arguments: bpr_max(*arguments, 1.0),
    ],
)
def test_negatives_that_all_equal_the_target_have_a_finite_gradient(loss):
    table = torch.zeros(1, 2, requires_grad=True)
    states = torch.ones(3, 2, requires_grad=True)
    value = loss(states, torch.zeros(3, dtype=torch.long), table, torch.zeros(4, dtype=torch.long))
    value.backward()
    assert np.isfinite(value.item())
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


def test_unseen_negatives_avoid_items_that_the_user_clicked(tmp_path):
    clicked = ragged([[0, 1, 2], [5], list(range(10))])
    negatives = UnseenNegatives(clicked, np.arange(10), 10, 1, tmp_path)
    rows = np.repeat([0, 1], 3000)
    drawn = negatives.draw(0, rows)
    assert set(drawn[rows == 0]) == set(range(3, 10))
    assert set(drawn[rows == 1]) == set(range(10)) - {5}
    # The third user has clicked everything; something must still be drawn.
    assert len(negatives.draw(0, np.array([2, 2]))) == 2

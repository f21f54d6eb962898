"""Which examples make which step."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.errors import UserError
from gensar_core.generator.batches import Batches, MicroBatch, cuts
from gensar_core.generator.corpus import Examples
from gensar_core.runtime.arrays import Ragged


def examples(count: int, seed: int = 0) -> Examples:
    """Example ``i`` of task ``i % 3``; its first input token is ``i``, so that batches tell whom they hold."""
    draw = np.random.default_rng(seed)
    inputs, targets = draw.integers(1, 30, count), draw.integers(1, 20, count)
    input_rows = Ragged.from_lengths(inputs, np.full(inputs.sum(), 7, dtype=np.int32))
    input_rows.values[input_rows.offsets[:-1]] = np.arange(count)
    target_rows = Ragged.from_lengths(targets, draw.integers(1, 50, targets.sum()).astype(np.int32))
    return Examples(input_rows, target_rows, (np.arange(count) % 3).astype(np.uint8), ["a", "b", "c"])


def make(data: Examples, batch_size: int = 8, seed: int = 1, tokens: int = 100, **weights: float) -> Batches:
    return Batches(data, batch_size=batch_size, tokens=tokens, weights=weights, seed=seed)


def members(step: list[MicroBatch]) -> list[int]:
    return [int(row[0]) for part in step for row in part.inputs]


@pytest.mark.parametrize("batch_size", [1, 8, 25, 100])
def test_an_epoch_holds_every_example_once(batch_size: int) -> None:
    batches = make(examples(50), batch_size)
    stream = itertools.chain.from_iterable(map(members, batches.from_step(0)))
    epochs = [sorted(itertools.islice(stream, 50)) if batch_size in (1, 25) else None for _ in range(3)]
    assert all(epoch in (None, list(range(50))) for epoch in epochs)
    rows = np.concatenate([batches.rows(step) for step in range(200 // batch_size)])
    for epoch in rows[: len(rows) // 50 * 50].reshape(-1, 50):
        assert sorted(epoch) == list(range(50))
    assert rows[:50].tolist() != rows[50:100].tolist()


def test_a_step_depends_on_its_number_alone() -> None:
    data = examples(50)
    whole = list(itertools.islice(make(data).from_step(0), 20))
    later = list(itertools.islice(make(data).from_step(13), 7))
    for one, other in zip(whole[13:], later, strict=True):
        assert len(one) == len(other)
        for part, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(part.inputs, same.inputs)
            np.testing.assert_array_equal(part.targets, same.targets)
    assert [members(step) for step in itertools.islice(make(data, seed=2).from_step(0), 20)] != list(
        map(members, whole)
    )


def test_micro_batches_hold_their_rows_whole_and_within_the_budget() -> None:
    data = examples(200)
    batches = make(data, batch_size=120, tokens=150)
    step = next(batches.from_step(1))
    assert sorted(members(step)) == sorted(batches.rows(1).tolist())
    assert len(step) > 1
    for part in step:
        assert part.inputs.size + part.targets.size <= 150
        for row, target, task in zip(part.inputs, part.targets, part.task, strict=True):
            example = int(row[0])
            stored = data.inputs.take(np.array([example])).values
            wanted = data.targets.take(np.array([example])).values
            assert row[row >= 0].tolist() == stored.tolist()
            assert (row[len(stored) :] == -1).all()
            assert target[target >= 0].tolist() == wanted.tolist()
            assert task == example % 3


def test_sorting_inside_a_step_leaves_little_padding() -> None:
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.normal(93, 18, 4096), 20, 139).astype(int)
    rows = Ragged.from_lengths(lengths, np.zeros(lengths.sum(), dtype=np.int32))
    targets = Ragged.from_lengths(np.full(4096, 6), np.zeros(4096 * 6, dtype=np.int32))
    data = Examples(rows, targets, np.zeros(4096, dtype=np.uint8), ["a"])
    parts = next(make(data, batch_size=2048, tokens=4096).from_step(0))
    padded = sum(part.inputs.size for part in parts)
    real = sum((part.inputs >= 0).sum() for part in parts)
    assert padded / real < 1.06


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=40), st.integers(18, 60))
@settings(deadline=None)
def test_cuts_are_those_of_the_plain_loop(lengths: list[tuple[int, int]], tokens: int) -> None:
    expected, start = [], 0
    for stop in range(1, len(lengths) + 1):
        part = lengths[start : stop + 1]
        longest = max(pair[0] for pair in part) + max(pair[1] for pair in part)
        if stop == len(lengths) or len(part) * longest > tokens:
            expected.append(stop)
            start = stop
    inputs, targets = np.array(lengths).T
    assert cuts(inputs, targets, tokens) == expected


def test_task_weights_repeat_whole_times_and_draw_the_rest_anew() -> None:
    batches = make(examples(60), a=2.5, b=0.0, c=0.4)
    assert batches.epoch_size == 50 + 8
    rows = np.concatenate([batches.rows(step) for step in range(58)])[: 58 * 8]
    epochs = rows[: 58 * 8].reshape(8, 58)
    extra = []
    for epoch in epochs:
        times = Counter(epoch.tolist())
        assert not any(row % 3 == 1 for row in times)
        assert sorted(times[row] for row in range(0, 60, 3)) == [2] * 10 + [3] * 10
        assert sorted(times[row] for row in range(2, 60, 3)) == [0] * 12 + [1] * 8
        extra.append(tuple(row for row in range(0, 60, 3) if times[row] == 3))
    assert len(set(extra)) > 1


def test_steps_of_fractional_epochs() -> None:
    batches = make(examples(50), batch_size=8)
    assert [batches.steps(epochs) for epochs in (0.01, 0.5, 1.0, 3.2)] == [1, 3, 6, 20]


def test_wrong_settings_are_named() -> None:
    data = examples(50)
    with pytest.raises(UserError, match=r"task_weights\.d: the corpus has no such task \(there: a, b, c\)"):
        make(data, d=1.0)
    with pytest.raises(UserError, match="no example is left"):
        make(data, a=0.0, b=0.0, c=0.0)
    longest = int((data.inputs.lengths + data.targets.lengths).max())
    with pytest.raises(UserError, match=f"set batch_tokens to at least {longest}"):
        make(data, tokens=longest - 1)
    make(data, tokens=longest)

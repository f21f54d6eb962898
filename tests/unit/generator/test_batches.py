"""Which examples make which step."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.config.generators import ExamplesPerEpoch
from gensar_core.corpora.instructions import Instructions
from gensar_core.corpora.read import Examples, PromptInputs
from gensar_core.errors import UserError
from gensar_core.generator.batches import Batches, Step, cuts, prompt_tokens
from gensar_core.runtime.arrays import Ragged


def examples(count: int, seed: int = 0) -> Examples:
    """Example ``i`` of task ``i % 3``; its first input token is ``i``, so that batches tell whom they hold."""
    draw = np.random.default_rng(seed)
    inputs, targets = draw.integers(1, 30, count), draw.integers(1, 20, count)
    input_rows = Ragged.from_lengths(inputs, np.full(inputs.sum(), 7, dtype=np.int32))
    input_rows.values[input_rows.offsets[:-1]] = np.arange(count)
    target_rows = Ragged.from_lengths(targets, draw.integers(1, 50, targets.sum()).astype(np.int32))
    return Examples(
        PromptInputs.whole(input_rows),
        target_rows,
        np.arange(count),
        (np.arange(count) % 3).astype(np.uint8),
        ["a", "b", "c"],
    )


def make(
    data: Examples, batch_size: int = 8, seed: int = 1, tokens: int = 100, **weights: float | ExamplesPerEpoch
) -> Batches:
    return Batches(data, batch_size=batch_size, tokens=tokens, weights=weights, seed=seed)


def members(step: Step) -> list[int]:
    return [int(row[0]) for part in step.parts for row in part.inputs[part.prompt]]


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
        assert len(one.parts) == len(other.parts)
        for part, same in zip(one.parts, other.parts, strict=True):
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
    assert len(step.parts) > 1
    for part in step.parts:
        assert part.inputs.size + part.targets.size <= 150
        for row, target, task in zip(part.inputs[part.prompt], part.targets, part.task, strict=True):
            example = int(row[0])
            stored = data.inputs.shown.take(np.array([example])).history.values
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
    data = Examples(PromptInputs.whole(rows), targets, np.arange(4096), np.zeros(4096, dtype=np.uint8), ["a"])
    parts = next(make(data, batch_size=2048, tokens=4096).from_step(0)).parts
    padded = sum(part.inputs.size for part in parts)
    real = sum((part.inputs >= 0).sum() for part in parts)
    assert padded / real < 1.06


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=40),
    st.integers(36, 80),
)
@settings(deadline=None)
def test_cuts_are_those_of_the_plain_loop(prompts: list[tuple[int, int, int]], tokens: int) -> None:
    expected, start = [], 0
    for stop in range(1, len(prompts) + 1):
        part = prompts[start : stop + 1]
        inputs, targets, counts = zip(*part, strict=True)
        if stop == len(prompts) or len(part) * max(inputs) + sum(counts) * max(targets) > tokens:
            expected.append(stop)
            start = stop
    assert cuts(*np.array(prompts).T, tokens) == expected


def shared_prompts(seed: int = 0) -> Examples:
    """Sixty targets of prompts with one to five targets each; target ``i`` begins with the number ``i``."""
    draw = np.random.default_rng(seed)
    rows = draw.integers(1, 6, 20)
    rows[-1] += 60 - rows.sum() if rows.sum() < 60 else 0
    prompt = np.repeat(np.arange(20), rows)[:60]
    inputs = Ragged.from_lengths(draw.integers(2, 12, prompt[-1] + 1), np.zeros(0, dtype=np.int32))
    inputs = Ragged(inputs.offsets, np.arange(inputs.offsets[-1], dtype=np.int32))
    targets = Ragged.from_lengths(np.full(60, 3), np.repeat(np.arange(60, dtype=np.int32), 3))
    return Examples(PromptInputs.whole(inputs), targets, prompt, (prompt % 2).astype(np.uint8), ["a", "b"])


@pytest.mark.parametrize("seed", range(5))
def test_targets_of_one_prompt_share_its_row(seed: int) -> None:
    data = shared_prompts(seed)
    batches = make(data, batch_size=60, tokens=90, seed=seed)
    seen = []
    for part in next(batches.from_step(0)).parts:
        assert len(np.unique(part.prompt)) == len(part.inputs)
        assert (np.diff(part.prompt) >= 0).all()
        for target, place, task in zip(part.targets, part.prompt, part.task, strict=True):
            row = int(target[0])
            seen.append(row)
            wanted = data.inputs.shown.take(data.prompt[row : row + 1]).history.values
            assert part.inputs[place][part.inputs[place] >= 0].tolist() == wanted.tolist()
            assert task == data.task[row]
    assert sorted(seen) == list(range(60))
    # Whole prompts stand in one step, but for those at its two ends.
    small = make(data, batch_size=10, tokens=90, seed=seed)
    steps = [set(small.rows(step).tolist()) for step in range(6)]
    split = [
        p for p in set(data.prompt) if sum(bool(step & set(np.flatnonzero(data.prompt == p))) for step in steps) > 1
    ]
    assert len(split) <= 5


def test_shares_of_shared_prompts_count_targets() -> None:
    data = shared_prompts()
    of_a = np.flatnonzero(data.task == 0)
    batches = make(data, batch_size=1, a=1.5, b=0.0)
    assert batches.epoch_size == len(of_a) + round(0.5 * len(of_a))
    for epoch in range(3):
        rows = [int(batches.rows(epoch * batches.epoch_size + step)[0]) for step in range(batches.epoch_size)]
        times = Counter(rows)
        assert set(times) == set(of_a.tolist())
        assert set(times.values()) <= {1, 2}


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


def test_a_task_may_give_a_number_of_examples_drawn_anew_each_epoch() -> None:
    # Twenty of each task: seven of a, all of b (there are no thirty), none of c; what the corpus lacks does not count.
    few = {"a": ExamplesPerEpoch(examples=7), "b": ExamplesPerEpoch(examples=30), "c": ExamplesPerEpoch(examples=0)}
    batches = make(examples(60), **few, absent=2.0)
    assert batches.epoch_size == 7 + 20
    epochs = np.concatenate([batches.rows(step) for step in range(27)]).reshape(8, 27)
    drawn = []
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 27
        assert sorted(row for row in epoch if row % 3 == 1) == list(range(1, 60, 3))
        drawn.append(tuple(sorted(row for row in epoch if row % 3 == 0)))
    assert {len(some) for some in drawn} == {7}
    assert len(set(drawn)) == 8
    assert (make(examples(60), **few).rows(11) == batches.rows(11)).all()


def test_numbers_of_examples_count_targets_of_shared_prompts() -> None:
    data = shared_prompts()
    batches = make(data, batch_size=1, a=ExamplesPerEpoch(examples=11), b=0.0)
    for epoch in range(3):
        rows = [int(batches.rows(epoch * 11 + step)[0]) for step in range(11)]
        assert len(set(rows)) == 11
        assert (data.task[rows] == 0).all()


def instructed(count: int) -> Examples:
    """Prompt ``i`` shows the token ``100 + i`` in one of three instructions: 1 x, 2 x 2 and 3 x. It has two targets."""
    shown = PromptInputs.whole(Ragged.from_lengths(np.ones(count, dtype=np.int64), np.arange(100, 100 + count))).shown
    texts = Ragged.from_lengths(np.array([0, 1, 1, 1]), np.array([1, 2, 3]))
    # Place 0 is what is shown; 2 is the empty text, 3 to 5 are the others.
    places = np.array([[3, 0, 2], [4, 0, 4], [5, 0, 2]])
    inputs = PromptInputs(shown, np.zeros(count, dtype=np.int64), Instructions(texts, places, np.array([0, 3])))
    targets = Ragged.from_lengths(np.full(2 * count, 1), np.arange(2 * count))
    return Examples(inputs, targets, np.repeat(np.arange(count), 2), np.zeros(2 * count, dtype=np.uint8), ["a"])


def test_a_prompt_is_in_another_instruction_at_each_visit_and_in_one_for_all_its_targets() -> None:
    data = instructed(30)
    batches = make(data, batch_size=20)
    seen: dict[int, list[tuple[int, ...]]] = {}
    for step in itertools.islice(batches.from_step(0), 90):
        for part in step.parts:
            assert len(np.unique(part.prompt)) == len(part.inputs)
            for row in part.inputs:
                prompt = tuple(row[row >= 0].tolist())
                assert prompt in {(1, prompt[1]), (2, prompt[1], 2), (3, prompt[1])}
                seen.setdefault(prompt[1] - 100, []).append(prompt)
            assert (part.targets[:, 0] // 2 == part.inputs[part.prompt, 1] - 100).all()
    # Thirty visits each: every instruction comes up, about as often as the others.
    assert all(len(set(prompts)) == 3 for prompts in seen.values())
    counts = Counter(len(prompt) for prompts in seen.values() for prompt in prompts)
    assert 0.25 < counts[3] / counts.total() < 0.42


def test_steps_of_fractional_epochs() -> None:
    batches = make(examples(50), batch_size=8)
    assert [batches.steps(epochs) for epochs in (0.01, 0.5, 1.0, 3.2)] == [1, 3, 6, 20]


def test_wrong_settings_are_named() -> None:
    data = examples(50)
    with pytest.raises(UserError, match="no example is left"):
        make(data, a=0.0, b=0.0, c=0.0)
    longest = int(prompt_tokens(data).max())
    assert longest == int((data.inputs.longest + data.targets.lengths).max())
    with pytest.raises(UserError, match=f"set batch_tokens to at least {longest}"):
        make(data, tokens=longest - 1)
    make(data, tokens=longest)

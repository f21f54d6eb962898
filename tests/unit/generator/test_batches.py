"""The examples of each step."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensar_core.config.generators import ExamplesPerEpoch
from gensar_core.corpora.instructions import Instructions
from gensar_core.corpora.read import Examples, PromptInputs
from gensar_core.errors import UserError
from gensar_core.generator.batches import Batches, Step, cuts, prompt_tokens
from gensar_core.runtime.arrays import Ragged


def examples(count: int, seed: int = 0) -> Examples:
    """Example ``i`` of task ``i % 3``; its target begins with ``i``, so that batches show which examples they hold."""
    draw = np.random.default_rng(seed)
    inputs, targets = draw.integers(1, 30, count), draw.integers(1, 20, count)
    input_rows = Ragged.from_lengths(inputs, draw.integers(1, 50, inputs.sum()).astype(np.int32))
    target_rows = Ragged.from_lengths(targets, draw.integers(1, 50, targets.sum()).astype(np.int32))
    target_rows.values[target_rows.offsets[:-1]] = np.arange(count)
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
    return [int(row[0]) for part in step.parts for row in part.targets]


@pytest.mark.parametrize("batch_size", [1, 8, 25, 100])
def test_an_epoch_holds_every_example_once(batch_size: int) -> None:
    batches = make(examples(50), batch_size)
    rows = np.concatenate([batches.rows(step) for step in range(200 // batch_size)])
    stream = itertools.chain.from_iterable(sorted(members(step)) for step in batches.from_step(0))
    by_step = np.split(rows, range(batch_size, len(rows), batch_size))
    assert list(itertools.islice(stream, len(rows))) == np.concatenate([np.sort(step) for step in by_step]).tolist()
    for epoch in rows.reshape(-1, 50):
        assert sorted(epoch) == list(range(50))
    assert rows[:50].tolist() != rows[50:100].tolist()


def test_a_step_depends_on_its_number_alone() -> None:
    data = examples(50)
    whole = list(itertools.islice(make(data).from_step(0), 20))
    later = list(itertools.islice(make(data).from_step(13), 7))
    for step, same_step in zip(whole[13:], later, strict=True):
        for part, same in zip(step.parts, same_step.parts, strict=True):
            np.testing.assert_array_equal(part.inputs, same.inputs)
            np.testing.assert_array_equal(part.targets, same.targets)
    other_seed = itertools.islice(make(data, seed=2).from_step(0), 20)
    assert [*map(members, other_seed)] != [*map(members, whole)]


def test_sorting_within_a_step_keeps_padding_low() -> None:
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
    prompt = np.repeat(np.arange(60), draw.integers(1, 6, 60))[:60]
    lengths = draw.integers(2, 12, prompt[-1] + 1)
    inputs = Ragged.from_lengths(lengths, np.arange(lengths.sum(), dtype=np.int32))
    targets = Ragged.from_lengths(np.full(60, 3), np.repeat(np.arange(60, dtype=np.int32), 3))
    return Examples(PromptInputs.whole(inputs), targets, prompt, (prompt % 2).astype(np.uint8), ["a", "b"])


@pytest.mark.parametrize("data", [examples(200), *map(shared_prompts, range(5))])
def test_micro_batches_hold_their_rows_whole_within_the_budget_and_each_prompt_once(data: Examples) -> None:
    batches = make(data, batch_size=60, tokens=150)
    step = next(batches.from_step(0))
    assert sorted(members(step)) == sorted(batches.rows(0).tolist())
    assert len(step.parts) > 1
    for part in step.parts:
        assert part.inputs.size + part.targets.size <= 150
        assert len(np.unique(part.prompt)) == len(part.inputs)
        assert (np.diff(part.prompt) >= 0).all()
        for target, prompt, task in zip(part.targets, part.inputs[part.prompt], part.task, strict=True):
            example = target[:1]
            tokens = data.inputs.shown.take(data.prompt[example]).history.values
            assert prompt.tolist() == [*tokens, *[-1] * (len(prompt) - len(tokens))]
            assert target[target >= 0].tolist() == data.targets.take(example).values.tolist()
            assert task == data.task[example]


@pytest.mark.parametrize("seed", range(5))
def test_a_step_holds_whole_prompts_except_at_its_two_ends(seed: int) -> None:
    data = shared_prompts(seed)
    batches = make(data, batch_size=10, tokens=90, seed=seed)
    steps_of_prompt = Counter(prompt for step in range(6) for prompt in set(data.prompt[batches.rows(step)]))
    assert sum(steps > 1 for steps in steps_of_prompt.values()) <= 5


def epochs(batches: Batches, count: int) -> list[Counter[int]]:
    """Count how often each of the first epochs holds each example."""
    size, batch_size = batches.epoch_size, batches.batch_size
    rows = np.concatenate([batches.rows(step) for step in range(-(-count * size // batch_size))])
    return [Counter(epoch.tolist()) for epoch in rows[: count * size].reshape(count, size)]


def test_task_weights_repeat_whole_times_and_draw_the_rest_anew() -> None:
    batches = make(examples(60), a=2.5, b=0.0, c=0.4)
    assert batches.epoch_size == 50 + 8
    drawn = set()
    for times in epochs(batches, 8):
        assert sorted(times[row] for row in range(0, 60, 3)) == [2] * 10 + [3] * 10
        assert sorted(times[row] for row in range(1, 60, 3)) == [0] * 20
        assert sorted(times[row] for row in range(2, 60, 3)) == [0] * 12 + [1] * 8
        drawn.add(tuple(row for row in range(0, 60, 3) if times[row] == 3))
    assert len(drawn) > 1


def test_a_task_may_give_a_number_of_examples_drawn_anew_each_epoch() -> None:
    # Twenty of each task: seven of a, all of b (there are no thirty), none of c; the corpus lacks the fourth task.
    numbers = {"a": ExamplesPerEpoch(examples=7), "b": ExamplesPerEpoch(examples=30), "c": ExamplesPerEpoch(examples=0)}
    batches = make(examples(60), **numbers, absent=2.0)
    assert batches.epoch_size == 7 + 20
    drawn = set()
    for times in epochs(batches, 8):
        assert set(times.values()) == {1}
        assert sorted(row for row in times if row % 3 == 1) == list(range(1, 60, 3))
        drawn.add(tuple(sorted(row for row in times if row % 3 == 0)))
    assert {len(rows) for rows in drawn} == {7}
    assert len(drawn) == 8
    assert (make(examples(60), **numbers).rows(11) == batches.rows(11)).all()


def test_weights_and_numbers_count_targets_of_shared_prompts() -> None:
    data = shared_prompts()
    of_a = np.flatnonzero(data.task == 0)
    by_weight = make(data, batch_size=1, a=1.5, b=0.0)
    assert by_weight.epoch_size == len(of_a) + round(0.5 * len(of_a))
    for times in epochs(by_weight, 3):
        assert set(times) == set(of_a.tolist())
        assert set(times.values()) <= {1, 2}
    by_number = make(data, batch_size=1, a=ExamplesPerEpoch(examples=11), b=0.0)
    for times in epochs(by_number, 3):
        assert len(times) == by_number.epoch_size == 11
        assert set(times) <= set(of_a.tolist())


def test_blocks_of_prompts_hold_every_example_of_each_epoch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gensar_core.training.blocks.BLOCK", 7)
    batches = make(examples(60), a=2.5, b=ExamplesPerEpoch(examples=9), c=1.0)
    # Nine blocks, of every ninth prompt: all of one task.
    assert batches.epoch_size == 50 + 9 + 20
    drawn = set()
    for times in epochs(batches, 6):
        assert sorted(times[row] for row in range(0, 60, 3)) == [2] * 10 + [3] * 10
        assert sorted(times[row] for row in range(1, 60, 3)) == [0] * 11 + [1] * 9
        assert sorted(times[row] for row in range(2, 60, 3)) == [1] * 20
        drawn.add(tuple(times))
    assert len(drawn) == 6
    later = make(examples(60), a=2.5, b=ExamplesPerEpoch(examples=9), c=1.0)
    assert [later.rows(step).tolist() for step in (25, 11, 3)] == [batches.rows(step).tolist() for step in (25, 11, 3)]


def instructed(count: int) -> Examples:
    """Prompt ``i`` shows the token ``100 + i`` in one of three instructions: 1 x, 2 x 2 and 3 x. It has two targets."""
    shown = PromptInputs.whole(Ragged.from_lengths(np.ones(count, dtype=np.int64), np.arange(100, 100 + count))).shown
    texts = Ragged.from_lengths(np.array([0, 1, 1, 1]), np.array([1, 2, 3]))
    # Place 0 is the shown token, 2 the empty text, and 3 to 5 are the other texts.
    places = np.array([[3, 0, 2], [4, 0, 4], [5, 0, 2]])
    inputs = PromptInputs(shown, np.zeros(count, dtype=np.int64), Instructions(texts, places, np.array([0, 3])))
    targets = Ragged.from_lengths(np.full(2 * count, 1), np.arange(2 * count))
    return Examples(inputs, targets, np.repeat(np.arange(count), 2), np.zeros(2 * count, dtype=np.uint8), ["a"])


def test_each_visit_of_a_prompt_draws_one_instruction_for_all_its_targets() -> None:
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
    # Each prompt is visited thirty times: every instruction comes up, about as often as the others.
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
    total, longest = prompt_tokens(data)
    tokens = data.inputs.longest(np.arange(50)) + data.targets.lengths
    assert (total, longest) == (tokens.sum(), tokens.max())
    with pytest.raises(UserError, match=f"set batch_tokens to at least {longest}"):
        make(data, tokens=longest - 1)
    make(data, tokens=longest)

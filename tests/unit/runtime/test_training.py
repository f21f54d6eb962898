"""The shared loop: a killed training continues to the same weights, the best weights are kept, bad losses stop it."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from gensar_core.errors import UserError
from gensar_core.training.loop import RATE_SCHEDULES, Schedule, train, warmup_cosine, warmup_linear
from gensar_core.training.processes import Processes


class Regression:
    """Dropout regression on fixed data: randomness in every step, so a resume that lost any state would differ."""

    def __init__(self, scores=None, stop_at=None, poison_at=None):
        torch.manual_seed(0)
        self.module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.05)
        self.x = torch.linspace(-1, 1, 64).reshape(16, 4)
        self.scores, self.stop_at, self.poison_at = scores, stop_at, poison_at
        self.served, self.validated = [], []

    def batches(self, first_step):
        for step in itertools.count(first_step):
            if step == self.stop_at:
                raise KeyboardInterrupt
            self.served.append(step)
            yield step, self.x[[step % 16, (3 * step) % 16]]

    def backward(self, batch):
        step, x = batch
        loss = (self.module(x) - x.sum(1, keepdim=True)).square().mean()
        if step == self.poison_at:
            loss = loss * float("nan")
        loss.backward()
        return {"loss": loss.detach()}

    def validate(self):
        self.validated.append(weights(self))
        if self.scores is not None:
            return {"score": self.scores.pop(0)}
        return {"score": -float((self.module(self.x) - self.x.sum(1, keepdim=True)).square().mean())}


def weights(task):
    return torch.cat([value.flatten() for value in task.module.state_dict().values()])


SCHEDULE = Schedule(total_steps=40, validate_every=7, gradient_clip=1.0, rate=warmup_cosine(40, 0.1))
AVERAGED = dataclasses.replace(SCHEDULE, weight_average=0.6)


def fit(task, folder=None, key="k", schedule=SCHEDULE, **options):
    """Train, with checkpoints in a folder or without any."""
    return train(task, schedule, seed=3, description="t", checkpoints=folder, key=key, **options)


def ticking(seconds):
    """Return a clock on which this time passes between two looks: one before the first step, one after each step, and
    one after each checkpoint."""
    return functools.partial(next, itertools.count(0.0, seconds))


def killed(folder, stop_at=12, step_seconds=12.0, key="k", schedule=SCHEDULE):
    """Kill a training after this many steps; return its checkpoint, which by default the tenth has left."""
    with pytest.raises(KeyboardInterrupt):
        fit(Regression(stop_at=stop_at), folder, key, schedule, clock=ticking(step_seconds))
    return next(folder.glob("*.pt"), None)


@pytest.fixture(autouse=True)
def _a_checkpoint_a_minute(monkeypatch):
    monkeypatch.setenv("GENSAR_CHECKPOINT_SECONDS", "60")


@pytest.mark.parametrize(
    ("checkpoint_seconds", "step_seconds", "steps_between", "schedule"),
    [
        (60, 0.0, 40, SCHEDULE),
        (60, 12.0, 5, SCHEDULE),
        (60, 12.0, 5, AVERAGED),
        (60, 20.0, 3, SCHEDULE),
        (0, 0.0, 1, SCHEDULE),
    ],
)
@pytest.mark.parametrize("stop_at", [1, 5, 7, 12, 33, 39])
def test_a_killed_training_continues_from_its_checkpoint_to_the_same_weights(
    tmp_path, monkeypatch, stop_at, checkpoint_seconds, step_seconds, steps_between, schedule
):
    monkeypatch.setenv("GENSAR_CHECKPOINT_SECONDS", str(checkpoint_seconds))
    undisturbed, resumed = Regression(), Regression()
    expected = fit(undisturbed, schedule=schedule)
    killed(tmp_path, stop_at, step_seconds, schedule=schedule)
    record = fit(resumed, tmp_path, schedule=schedule, clock=ticking(0.0))
    assert torch.equal(weights(resumed), weights(undisturbed))
    assert record.history == expected.history
    assert resumed.served[0] == stop_at - stop_at % steps_between


def test_of_several_processes_only_the_first_looks_at_the_clock(tmp_path):
    class Second(Processes):
        def sum_step(self, module, losses):  # noqa: ARG002
            return losses

        def agree(self, metrics):
            return dict(metrics)

    # Tells the time of the start, and fails at a second look.
    clock = functools.partial(next, iter([0.0]))
    assert fit(Regression(), tmp_path, clock=clock, processes=Second(1, 2)).steps == 40
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_other_settings_is_removed(tmp_path):
    fit(Regression(), tmp_path, "old")
    (tmp_path / "notes.txt").touch()
    (old,) = tmp_path.glob("*.pt")
    fresh = Regression()
    fit(fresh, tmp_path, "new")
    assert fresh.served[0] == 0
    assert not old.exists()
    assert len(list(tmp_path.glob("*.pt"))) == 1
    assert (tmp_path / "notes.txt").exists()


SPOILED = {
    "empty": lambda content: content[:0],
    "cut off at once": lambda content: content[:40],
    "cut off in the middle": lambda content: content[: len(content) // 2],
    "cut off at the end": lambda content: content[:-1],
    "zeros where the disk lost a block": lambda content: content[:600] + bytes(1500) + content[2100:],
    "longer": lambda content: content + b"\0",
    "text": lambda content: content.hex().encode(),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_spoiled_checkpoint_is_refused_until_it_is_deleted(tmp_path, spoil):
    file = killed(tmp_path)
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(UserError, match=rf"{file}: is damaged or cut off .*; delete it and run again"):
        fit(Regression(), tmp_path)
    file.unlink()
    assert fit(Regression(), tmp_path).steps == 40


def test_a_checkpoint_with_one_changed_bit_is_refused(tmp_path):
    file = killed(tmp_path)
    content, rng = file.read_bytes(), np.random.default_rng(0)
    for place in {0, len(content) - 1, *rng.choice(len(content), 80, replace=False).tolist()}:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(changed)
        with pytest.raises(UserError, match=rf"{file}: is damaged"):
            fit(Regression(), tmp_path)
    file.write_bytes(content)
    resumed = Regression()
    fit(resumed, tmp_path)
    assert resumed.served[0] == 10


def test_a_foreign_file_under_the_checkpoints_name_is_refused(tmp_path):
    file, foreign = killed(tmp_path), killed(tmp_path / "other", key="other")
    foreign.rename(file)
    with pytest.raises(UserError, match=rf"{file}: is the checkpoint of other settings, inputs or code; delete"):
        fit(Regression(), tmp_path)
    torch.save([1, 2], file)
    with pytest.raises(UserError, match="is damaged or cut off"):
        fit(Regression(), tmp_path)


def test_the_best_weights_are_kept_and_patience_stops():
    task, same = Regression(scores=[1.0, 3.0, 2.0, 2.5, 9.0]), Regression(scores=[1.0, 3.0])
    schedule = Schedule(total_steps=40, validate_every=4, patience=2)
    record = train(task, schedule, seed=3, description="t", checkpoints=None)
    # The second validation (step 8) is the best; two follow without gain, and the fifth never happens.
    assert (record.best_step, record.best_score, record.steps) == (8, 3.0, 16)
    train(same, Schedule(total_steps=8, validate_every=4), seed=3, description="t", checkpoints=None)
    assert torch.equal(weights(task), weights(same))


def test_the_average_of_the_weights_is_validated_and_kept_and_the_training_goes_on_without_it():
    plain, averaged = Regression(), Regression()
    expected, means = fit(plain, schedule=dataclasses.replace(SCHEDULE, validate_every=1)), [weights(averaged)]
    for done, after in enumerate(plain.validated, start=1):
        factor = min(0.6, (1 + done) / (10 + done))
        means.append(factor * means[-1] + (1 - factor) * after)
    record = fit(averaged, schedule=AVERAGED)
    steps = [7, 14, 21, 28, 35, 40]
    assert [entry["step"] for entry in record.history] == steps
    torch.testing.assert_close(torch.stack(averaged.validated), torch.stack([means[step] for step in steps]))
    torch.testing.assert_close(weights(averaged), means[record.best_step])
    losses = [entry["train_loss"] for entry in expected.history]
    for entry, step in zip(record.history, steps, strict=True):
        assert entry["train_loss"] == pytest.approx(np.mean(losses[step - (step % 7 or 7) : step]), rel=1e-6)


def test_a_loss_that_is_not_finite_stops_the_training_before_it_reaches_the_weights():
    task = Regression(poison_at=4)
    with pytest.raises(UserError, match="loss, gradient_norm not a finite number at step 5; lower the learning rate"):
        fit(task)
    assert weights(task).isfinite().all()


def test_a_task_names_the_samples_of_a_bad_step_under_its_random_numbers():
    class Naming(Regression):
        def backward(self, batch):
            self.drawn = torch.get_rng_state()
            return super().backward(batch)

        def spoiling_samples(self, step):
            assert torch.equal(torch.get_rng_state(), self.drawn)
            return f"rows of step number {step}"

    with pytest.raises(UserError, match=r"at step 5 \(rows of step number 4\); lower"):
        fit(Naming(poison_at=4))


def test_warmup_cosine_by_hand():
    rate = warmup_cosine(100, 0.1)
    assert [rate(0), rate(4), rate(9), rate(10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert rate(55) == pytest.approx(0.5)
    assert rate(100) == pytest.approx(0.0)


def test_an_inverse_square_root_stands_still_and_then_falls():
    # TIGER: constant for the first 10,000 of 200,000 steps.
    rate = RATE_SCHEDULES["inverse_square_root"](200_000, 0.05)
    assert {rate(step) for step in (0, 4_000, 9_999)} == {1.0}
    assert [rate(39_999), rate(159_999)] == pytest.approx([0.5, 0.25])


def test_a_constant_rate_stays_after_its_warm_up():
    rate = RATE_SCHEDULES["constant"](100, 0.1)
    assert [rate(0), rate(4), rate(9), rate(10), rate(99)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0])
    assert RATE_SCHEDULES["constant"](100, 0.0)(0) == 1.0


def test_warmup_linear_matches_transformers_one_step_ahead_while_it_rises():
    rate = warmup_linear(100, 0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=10, num_training_steps=100).lr_lambdas[0]
    # Theirs spends the first step at a rate of zero.
    assert [rate(step) for step in range(10)] == pytest.approx([theirs(step + 1) for step in range(10)])
    assert [rate(step) for step in range(10, 101)] == pytest.approx([theirs(step) for step in range(10, 101)])
    assert [rate(55), rate(100)] == pytest.approx([0.5, 0.0])

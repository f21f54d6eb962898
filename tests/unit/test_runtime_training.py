"""The shared loop: a killed training continues to the same weights, the best weights are kept, bad losses stop it."""

import itertools

import pytest
import torch

from gensar_core.errors import UserError
from gensar_core.runtime.training import Schedule, train, warmup_cosine


class Regression:
    """Dropout regression on fixed data: randomness in every step, so a resume that lost any state would differ."""

    def __init__(self, scores=None, stop_at=None, poison_at=None):
        torch.manual_seed(0)
        self.module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.05)
        self.x = torch.linspace(-1, 1, 64).reshape(16, 4)
        self.scores, self.stop_at, self.poison_at = scores, stop_at, poison_at
        self.served = []

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
        if self.scores is not None:
            return {"score": self.scores.pop(0)}
        return {"score": -float((self.module(self.x) - self.x.sum(1, keepdim=True)).square().mean())}


def weights(task):
    return torch.cat([value.flatten() for value in task.module.state_dict().values()])


SCHEDULE = Schedule(
    total_steps=40, validate_every=7, checkpoint_every=5, gradient_clip=1.0, rate=warmup_cosine(40, 0.1)
)


@pytest.mark.parametrize("stop_at", [1, 5, 7, 12, 33, 39])
def test_a_killed_training_ends_in_the_same_weights(tmp_path, stop_at):
    undisturbed = Regression()
    expected = train(undisturbed, SCHEDULE, seed=3, description="t", checkpoints=None)
    with pytest.raises(KeyboardInterrupt):
        train(Regression(stop_at=stop_at), SCHEDULE, seed=3, description="t", checkpoints=tmp_path, key="k")
    resumed = Regression()
    record = train(resumed, SCHEDULE, seed=3, description="t", checkpoints=tmp_path, key="k")
    assert torch.equal(weights(resumed), weights(undisturbed))
    assert record.history == expected.history
    assert resumed.served[0] == stop_at - stop_at % 5


def test_a_checkpoint_of_other_settings_is_not_continued(tmp_path):
    train(Regression(), SCHEDULE, seed=3, description="t", checkpoints=tmp_path, key="old")
    fresh = Regression()
    train(fresh, SCHEDULE, seed=3, description="t", checkpoints=tmp_path, key="new")
    assert fresh.served[0] == 0


def test_the_best_weights_are_kept_and_patience_stops():
    task = Regression(scores=[1.0, 3.0, 2.0, 2.5, 9.0])
    record = train(
        task,
        Schedule(total_steps=40, validate_every=4, checkpoint_every=100, patience=2),
        seed=3,
        description="t",
        checkpoints=None,
    )
    # The second validation (step 8) is the best; two without gain follow, and the fifth is never asked for.
    assert (record.best_step, record.best_score, record.steps) == (8, 3.0, 16)
    same = Regression(scores=[1.0, 3.0])
    train(
        same, Schedule(total_steps=8, validate_every=4, checkpoint_every=100), seed=3, description="t", checkpoints=None
    )
    assert torch.equal(weights(task), weights(same))


def test_a_loss_that_is_not_finite_stops_with_one_line():
    with pytest.raises(UserError, match="loss, gradient_norm not a finite number at step 5"):
        train(Regression(poison_at=4), SCHEDULE, seed=3, description="t", checkpoints=None)


def test_warmup_cosine_by_hand():
    rate = warmup_cosine(100, 0.1)
    assert [rate(0), rate(4), rate(9), rate(10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert rate(55) == pytest.approx(0.5)
    assert rate(100) == pytest.approx(0.0)

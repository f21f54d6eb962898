"""A training that is killed from outside, and what it takes to continue it."""

from typing import Any

import pytest


class Killed(BaseException):
    """Ends a training from outside."""


def kill_at(step: int, task: type[Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Raise `Killed` at a step (from 0) of trainings of ``task``, once; return the batches of all steps, as they come.

    A checkpoint is written after every step.
    """
    plain, batches = task.backward, []

    def watched(self: Any, batch: Any) -> Any:
        batches.append(batch)
        if len(batches) == step + 1:
            raise Killed
        return plain(self, batch)

    monkeypatch.setenv("GENSAR_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr(task, "backward", watched)
    return batches

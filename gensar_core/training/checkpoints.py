"""Checkpoints that a killed training continues from."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gensar_core.errors import UserError
from gensar_core.runtime.progress import say
from gensar_core.runtime.sealing import check_seal, seal
from gensar_core.training.state import TrainingRecord, TrainingState

#: Where the Snakefile puts `checkpoint_seconds` of config.yaml. No result depends on it, so it is none of the settings
#: that a stage is known by; and every process of a training finds it.
_SECONDS_VARIABLE = "GENSAR_CHECKPOINT_SECONDS"
_SECONDS = "60"


class Checkpoints:
    """The one checkpoint of a training, replaced whole, in a folder of its own (None: there is none).

    The file is named by ``key`` (settings, inputs and code). So a training whose settings have changed does not meet
    the checkpoint of the old ones, which `remove_others` takes away, and a file under the right name is either this
    training's own or spoiled. It ends in a digest of itself, so one with a changed bit is refused. ``clock`` gives
    seconds that never go back.
    """

    def __init__(self, folder: Path | None, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        self.file = folder / f"last-{name}.pt" if folder is not None else None
        self.key = key
        self._clock = clock
        self._seconds = float(os.environ.get(_SECONDS_VARIABLE, _SECONDS))
        self._last = clock()

    @property
    def due(self) -> bool:
        """Whether `checkpoint_seconds` have passed since the last checkpoint, or since the training began."""
        return self.file is not None and self._clock() - self._last >= self._seconds

    def remove_others(self) -> None:
        """Remove what trainings of other settings, inputs or code have left in the folder."""
        if self.file is None:
            return
        others = [path for path in self.file.parent.glob("last*") if path.stem != self.file.stem]
        for path in others:
            path.unlink(missing_ok=True)
        if others:
            say(f"{self.file.parent}: held a checkpoint of other settings, inputs or code; it is removed")

    def save(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
        """Write all that the training goes on from."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        record = state.record
        torch.save(
            {
                "key": self.key,
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "best_weights": state.best_weights,
                "base_rates": state.base_rates,
                "sums": state.sums,
                "counts": state.counts,
                "without_gain": state.without_gain,
                "stopped": state.stopped,
                "history": record.history,
                "steps": record.steps,
                "best_step": record.best_step,
                "best_score": record.best_score,
            },
            partial,
        )
        seal(partial)
        os.replace(partial, self.file)
        # Counted from its end: a slow disk is not kept busy with nothing but checkpoints.
        self._last = self._clock()

    def load(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState | None:
        """Put module and optimizer where the checkpoint left them; None when there is no checkpoint.

        Raises UserError on a file that is damaged, cut off, no checkpoint, or of another training.
        """
        if self.file is None or not self.file.is_file():
            return None
        check_seal(self.file)
        stored = torch.load(self.file, map_location="cpu", weights_only=True)
        if stored["key"] != self.key:
            raise UserError(
                f"{self.file}: is the checkpoint of other settings, inputs or code; delete it and run again, and the "
                "training starts anew"
            )
        return self._restore(stored, module, optimizer)

    @staticmethod
    def _restore(stored: Any, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
        record = TrainingRecord(stored["history"], stored["steps"], stored["best_step"], stored["best_score"])
        device = next(module.parameters()).device
        state = TrainingState(
            record=record,
            best_weights={name: value.to(device) for name, value in stored["best_weights"].items()},
            base_rates=stored["base_rates"],
            sums={name: value.to(device) for name, value in stored["sums"].items()},
            counts=stored["counts"],
            without_gain=stored["without_gain"],
            stopped=stored["stopped"],
        )
        module.load_state_dict(stored["module"])
        optimizer.load_state_dict(stored["optimizer"])
        return state

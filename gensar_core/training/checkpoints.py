"""Store checkpoints that a killed training continues from."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gensar_core.errors import UserError
from gensar_core.runtime.progress import say
from gensar_core.runtime.sealing import check_seal, seal
from gensar_core.training.state import TrainingRecord, TrainingState

#: Environment variable that the Snakefile sets to `checkpoint_seconds` of config.yaml. No result depends on it, so it
#: is not among the settings that identify a stage; and every process of a training inherits it.
_SECONDS_VARIABLE = "GENSAR_CHECKPOINT_SECONDS"
_SECONDS = "60"


class Checkpoints:
    """Store the one checkpoint of a training, replaced whole, in a folder for it only (None: no checkpoint).

    The file is named by ``key`` (settings, inputs and code). A training whose settings have changed thus never reads
    the old checkpoint, which `remove_others` deletes, and a file under the right name is either this training's own or
    damaged. It ends in a digest of itself, so that a file with a changed bit is refused. ``clock`` returns seconds that
    never go back.
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
        """Return whether `checkpoint_seconds` have passed since the last checkpoint, or since the training began."""
        return self.file is not None and self._clock() - self._last >= self._seconds

    def remove_others(self) -> None:
        """Remove checkpoints of other settings, inputs or code from the folder."""
        if self.file is None:
            return
        others = [path for path in self.file.parent.glob("last*") if path.stem != self.file.stem]
        for path in others:
            path.unlink(missing_ok=True)
        if others:
            say(f"{self.file.parent}: held a checkpoint of other settings, inputs or code; it is removed")

    def save(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
        """Write everything that the training continues from."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        content = {
            "key": self.key,
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "state": {**vars(state), "record": vars(state.record), "bad_step": None},
        }
        torch.save(content, partial)
        seal(partial)
        os.replace(partial, self.file)
        # Timed from its end, so that a slow disk does not spend all its time on checkpoints.
        self._last = self._clock()

    def load(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState | None:
        """Restore module and optimizer from the checkpoint; return None if there is none.

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
        module.load_state_dict(stored["module"])
        optimizer.load_state_dict(stored["optimizer"])
        device = next(module.parameters()).device
        state = TrainingState(**stored["state"])
        state.record = TrainingRecord(**stored["state"]["record"])
        state.best_weights = {name: value.to(device) for name, value in stored["state"]["best_weights"].items()}
        if state.average is not None:
            state.average = [value.to(device) for value in state.average]
        state.sums = {name: value.to(device) for name, value in state.sums.items()}
        return state

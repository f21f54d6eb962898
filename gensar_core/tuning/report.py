"""Show the trials of a search of settings as a table and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from gensar_core.evaluation.figure_files import new_figure, save_figure


@dataclass(frozen=True)
class Trial:
    """Hold a finished trial; ``score`` is the NDCG@5 of its best validation, a mean over tasks."""

    number: int
    state: Literal["complete", "pruned", "diverged"]
    score: float
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    validations: int
    seconds: float


def trial_table(trials: Sequence[Trial]) -> pl.DataFrame:
    """Return one row per trial: what was drawn and how it ended."""
    return pl.DataFrame(
        [
            {
                "trial": trial.number,
                "state": trial.state,
                "valid_ndcg@5": trial.score,
                "validations": trial.validations,
                "seconds": trial.seconds,
                **trial.settings,
            }
            for trial in trials
        ],
        infer_schema_length=None,
    )


def draw_trials(trials: Sequence[Trial], path: Path) -> None:
    """Draw ``{path}.svg`` and ``.png``: the best score so far, and every score over each setting."""
    names = list(trials[0].settings)
    figure, (axes,) = new_figure(1, 1 + len(names), width=2.6)
    complete = [trial.state == "complete" for trial in trials]
    scores = np.array([trial.score for trial in trials])
    numbers = [trial.number for trial in trials]
    axes[0].step(numbers, np.maximum.accumulate(np.where(complete, scores, 0.0)), where="post", color="black")
    axes[0].set_xlabel("trial")
    axes[0].set_ylabel("valid NDCG@5")
    for axis, name in zip(axes[1:], names, strict=True):
        axis.set_xlabel(name)
        axis.sharey(axes[0])
    for axis, name in zip(axes, [None, *names], strict=True):
        for ended, style in ((True, {}), (False, {"facecolors": "none", "edgecolors": "C0", "label": "pruned"})):
            shown = [trial for trial, is_complete in zip(trials, complete, strict=True) if is_complete == ended]
            values = [trial.number if name is None else trial.settings[name] for trial in shown]
            texts = any(not isinstance(trial.settings[name], float) for trial in trials) if name else False
            axis.scatter(map(str, values) if texts else values, [trial.score for trial in shown], s=14, **style)
    save_figure(figure, path)

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
    panels: dict[str, list[Any]] = {"trial": [trial.number for trial in trials]}
    panels |= {name: [_shown(trial.settings[name]) for trial in trials] for name in trials[0].settings}
    figure, (axes,) = new_figure(1, len(panels), width=2.6)
    scores = np.array([trial.score for trial in trials])
    complete = np.array([trial.state == "complete" for trial in trials])
    best = np.maximum.accumulate(np.where(complete, scores, 0.0))
    axes[0].step(panels["trial"], best, where="post", color="black", label="best so far")
    axes[0].set_ylabel("valid NDCG@5")
    for axis, (name, values) in zip(axes, panels.items(), strict=True):
        axis.scatter(values, scores, s=14, c=["C0" if one else "none" for one in complete], edgecolors="C0")
        axis.set_xlabel(name)
    axes[0].legend(title="hollow: not complete", fontsize="small")
    save_figure(figure, path)


def _shown(value: Any) -> Any:
    """Return a number to be drawn to scale, or the text of a choice."""
    return value if isinstance(value, float) else str(value)

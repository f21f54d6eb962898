"""The learning curve of a training: losses by task, and what validation said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gensar_core.errors import UserError
from gensar_core.evaluation.figures import new_figure, save_figure
from gensar_core.runtime.stage import Stage


def curve_figure(curve: Path, figure: Path) -> None:
    """Draw ``{figure}.svg`` and ``.png`` from a training's curve.json, one entry a validation.

    Raises UserError when the file is not there or has no entry.
    """
    with Stage(
        "curve_figure", figure.parent, inputs=[curve], code=__name__, record_name=f"{figure.name}.stage.json"
    ) as stage:
        history = json.loads(curve.read_text(encoding="utf-8"))
        if not history:
            raise UserError(f"{curve}: holds no validation; train again")
        _draw(history, stage.path(figure.name))
        best = max(history, key=lambda entry: entry["score"])
        stage.record(validations=len(history), best_step=best["step"], best_score=best["score"])


def series(history: list[dict[str, Any]], prefix: str) -> dict[str, tuple[list[float], list[float]]]:
    """(steps, values) of every figure whose name begins with ``prefix``, by the rest of its name."""
    names = dict.fromkeys(name for entry in history for name in entry if name.startswith(prefix))
    found = {}
    for name in names:
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        found[name.removeprefix(prefix)] = [x for x, _ in points], [y for _, y in points]
    return found


def _draw(history: list[dict[str, Any]], path: Path) -> None:
    panel, axes = new_figure(1, 2)
    for name, (steps, values) in series(history, "train_loss_").items():
        axes[0][0].plot(steps, values, label=name, marker=".")
    axes[0][0].set_title("training loss per token")
    for task in ("rec", "search"):
        for steps, values in series(history, f"{task}_ndcg@5").values():
            axes[0][1].plot(steps, values, label=task, marker=".")
    axes[0][1].set_title("valid NDCG@5")
    for axis in axes[0]:
        axis.set_xlabel("optimizer step")
        axis.legend()
    save_figure(panel, path)

"""Training curves: losses and validation figures of every trained model of a data set, step by step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gensar_core.errors import UserError
from gensar_core.evaluation.figures import new_figure, save_figure
from gensar_core.runtime.stage import Stage, read_record


def trainings_figure(folders: Mapping[str, Path], figure: Path) -> None:
    """Draw ``{figure}.svg`` and ``.png``: a row a training, its loss at the left, its validation score at the right.

    ``folders`` are those of trained models by name. A training leaves its validations (see `runtime.training`) as
    curve.json or among the figures of its record; what is fitted without steps leaves none and is not drawn. Raises
    UserError when nothing is.
    """
    files = {label: path for label, folder in folders.items() if (path := _curve_file(folder)) is not None}
    if not files:
        raise UserError(f"{', '.join(map(str, folders.values()))}: no training has left a curve to draw")
    inputs = list(files.values())
    with Stage(
        "trainings_figure", figure.parent, inputs=inputs, code=__name__, record_name=f"{figure.name}.stage.json"
    ) as stage:
        histories = {label: _history(path) for label, path in files.items()}
        _draw(histories, stage.path(figure.name))
        stage.record(validations={label: len(history) for label, history in histories.items()})


def _curve_file(folder: Path) -> Path | None:
    if (folder / "curve.json").is_file():
        return folder / "curve.json"
    return folder / "stage.json" if "curve" in read_record(folder / "stage.json")["figures"] else None


def _history(path: Path) -> list[dict[str, float]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    history: list[dict[str, float]] = found if path.name == "curve.json" else found["figures"]["curve"]
    return history


def _draw(histories: Mapping[str, list[dict[str, float]]], path: Path) -> None:
    figure, axes = new_figure(len(histories), 2, height=2.4)
    for (label, history), panels in zip(histories.items(), axes, strict=True):
        _panel(panels[0], history, "train_loss", f"{label}\ntraining loss", "C0")
        _panel(panels[1], history, "score", f"{label}\nvalidation score", "C1")
    save_figure(figure, path)


def _panel(axis: Any, history: list[dict[str, float]], key: str, title: str, color: str) -> None:
    found = [(entry["step"], entry[key]) for entry in history if key in entry]
    axis.plot([step for step, _ in found], [value for _, value in found], marker=".", color=color)
    axis.set_title(title)
    axis.set_xlabel("optimizer step")

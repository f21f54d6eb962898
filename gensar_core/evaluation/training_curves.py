"""Draw training curves: losses and validation metrics of trained models, step by step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gensar_core.errors import UserError
from gensar_core.evaluation.figure_files import new_figure, save_figure
from gensar_core.runtime.stage import Stage, read_record

#: Validations of one training, in order: numbers by name.
History = list[dict[str, float]]


def training_curves(folders: Mapping[str, Path], figure: Path) -> None:
    """Draw ``{figure}.svg`` and ``.png``: a row per training, losses at the left, validations at the right.

    ``folders`` are those of trained models by name. A training leaves its validations (see `training.loop`) in
    curve.json or in its record; methods fitted without steps leave none and are not drawn. The figure's record holds
    the number of validations and the step of the best one. Raises UserError when there is nothing to draw.
    """
    files = {name: path for name, folder in folders.items() if (path := _curve_file(folder)) is not None}
    if not files:
        raise UserError(f"{', '.join(map(str, folders.values()))}: no training has left a curve to draw")
    inputs = list(files.values())
    with Stage.named_after(figure, "training_curves", inputs=inputs, code=__name__) as stage:
        histories = {name: _history(path) for name, path in files.items()}
        _draw(histories, stage.path(figure.name))
        best = {name: max(history, key=lambda entry: entry["score"]) for name, history in histories.items()}
        stage.record(
            validations={name: len(history) for name, history in histories.items()},
            best_step={name: entry["step"] for name, entry in best.items()},
            best_score={name: entry["score"] for name, entry in best.items()},
        )


def series(history: History, prefix: str, suffix: str = "") -> dict[str, tuple[list[float], list[float]]]:
    """Return (steps, values) of every number with this prefix and suffix, by the part of its name between them."""
    names = dict.fromkeys(name for entry in history for name in entry if name.startswith(prefix))
    lines = {}
    for name in (name for name in names if name.endswith(suffix)):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        middle = name.removeprefix(prefix).removesuffix(suffix).strip("_")
        lines[middle] = [x for x, _ in points], [y for _, y in points]
    return lines


def _curve_file(folder: Path) -> Path | None:
    if (folder / "curve.json").is_file():
        return folder / "curve.json"
    return folder / "stage.json" if "curve" in read_record(folder / "stage.json")["counts"] else None


def _history(path: Path) -> History:
    content = json.loads(path.read_text(encoding="utf-8"))
    history: History = content if path.name == "curve.json" else content["counts"]["curve"]
    if not history:
        raise UserError(f"{path}: holds no validation; train again")
    return history


def _draw(histories: Mapping[str, History], path: Path) -> None:
    figure, axes = new_figure(len(histories), 2, width=4.2, height=2.4)
    for (name, history), (losses, scores) in zip(histories.items(), axes, strict=True):
        _panel(losses, series(history, "train_loss"), f"{name}\ntraining loss")
        tasks = {task: line for task in ("rec", "search") for line in series(history, task, "ndcg@5").values()}
        _panel(scores, {**series(history, "score"), **tasks}, f"{name}\nvalidation score")
    save_figure(figure, path)


def _panel(axis: Any, lines: Mapping[str, tuple[list[float], list[float]]], title: str) -> None:
    """Plot ``lines`` by name; the line without a name is over all tasks."""
    for name, (steps, values) in lines.items():
        # The score that selects the model is drawn darker than its parts.
        axis.plot(steps, values, marker=".", label=name or "all", **({"alpha": 0.6} if name else {"color": "black"}))
    if len(lines) > 1:
        # Beside the panel, since a legend of many losses would hide them.
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    axis.set_title(title)
    axis.set_xlabel("optimizer step")

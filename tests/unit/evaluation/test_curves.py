"""Training curves: the series drawn, with equal bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gensar_core.errors import UserError
from gensar_core.evaluation.training_curves import series, training_curves

HISTORY = [
    {"step": 10.0, "train_loss": 3.0, "train_loss_nrip": 2.0, "rec_ndcg@5": 0.1, "score": 0.1},
    {"step": 20.0, "train_loss": 2.0, "train_loss_nrip": 1.5, "train_loss_nsip": 4.0, "rec_ndcg@5": 0.2, "score": 0.2},
    {"step": 30.0, "train_loss": 2.5, "train_loss_nsip": 3.0, "rec_ndcg@5": 0.15, "score": 0.15},
]


def models(folder: Path, generator: list[dict[str, float]] = HISTORY) -> dict[str, Path]:
    """Write a generator with a curve file, a method with a curve in its record, and a method without training."""
    folders = {name: folder / name for name in ("generator", "sequential", "counts")}
    for path in folders.values():
        path.mkdir(parents=True)
    (folders["generator"] / "curve.json").write_text(json.dumps(generator))
    curve = [{"step": 5.0, "train_loss": 1.0, "score": 0.4, "valid_ndcg@5": 0.4}]
    (folders["sequential"] / "stage.json").write_text(json.dumps({"counts": {"curve": curve}}))
    (folders["counts"] / "stage.json").write_text(json.dumps({"counts": {}}))
    return folders


def test_a_series_skips_validations_without_its_number() -> None:
    assert series(HISTORY, "train_loss_") == {"nrip": ([10.0, 20.0], [2.0, 1.5]), "nsip": ([20.0, 30.0], [4.0, 3.0])}
    assert series(HISTORY, "train_loss")[""] == ([10.0, 20.0, 30.0], [3.0, 2.0, 2.5])
    valid = [{"step": 1.0, "rec_valid_ndcg@5": 0.3, "rec_valid_hr@10": 0.5}]
    assert series(valid, "rec", "ndcg@5") == {"valid": ([1.0], [0.3])}


def test_all_trainings_are_drawn_with_their_tasks_and_equal_bytes(tmp_path: Path) -> None:
    folders = models(tmp_path)
    for name in ("a", "b"):
        training_curves(folders, tmp_path / name)
    drawn = (tmp_path / "a.svg").read_text()
    assert all(f">{name}<" in drawn for name in ("generator", "sequential", "nrip", "nsip", "rec"))
    assert ">counts<" not in drawn
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    training_curves({"generator": folders["generator"]}, tmp_path / "alone")
    assert ">sequential<" not in (tmp_path / "alone.svg").read_text()
    counts = json.loads((tmp_path / "a.stage.json").read_text())["counts"]
    assert counts["validations"] == {"generator": 3, "sequential": 1}
    assert counts["best_step"] == {"generator": 20.0, "sequential": 5.0}


def test_a_figure_without_any_validation_is_refused(tmp_path: Path) -> None:
    folders = models(tmp_path, generator=[])
    with pytest.raises(UserError, match=r"curve\.json: holds no validation; train again"):
        training_curves(folders, tmp_path / "c")
    with pytest.raises(UserError, match="no training has left a curve to draw"):
        training_curves({"counts": folders["counts"]}, tmp_path / "c")

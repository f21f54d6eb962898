"""Learning curves: what is drawn, and the same bytes again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gensar_core.errors import UserError
from gensar_core.evaluation.curves import curve_figure, series

HISTORY = [
    {"step": 10.0, "train_loss": 3.0, "train_loss_nrip": 2.0, "rec_ndcg@5": 0.1, "score": 0.1},
    {"step": 20.0, "train_loss": 2.0, "train_loss_nrip": 1.5, "train_loss_nsip": 4.0, "rec_ndcg@5": 0.2, "score": 0.2},
    {"step": 30.0, "train_loss": 2.5, "train_loss_nsip": 3.0, "rec_ndcg@5": 0.15, "score": 0.15},
]


def test_series_leave_out_validations_without_the_figure() -> None:
    assert series(HISTORY, "train_loss_") == {"nrip": ([10.0, 20.0], [2.0, 1.5]), "nsip": ([20.0, 30.0], [4.0, 3.0])}


def test_a_curve_names_its_tasks_and_its_best_step(tmp_path: Path) -> None:
    (tmp_path / "curve.json").write_text(json.dumps(HISTORY))
    for name in ("a", "b"):
        curve_figure(tmp_path / "curve.json", tmp_path / name)
    drawn = (tmp_path / "a.svg").read_text()
    assert all(f">{name}<" in drawn for name in ("nrip", "nsip", "rec"))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert json.loads((tmp_path / "a.stage.json").read_text())["figures"]["best_step"] == 20.0
    (tmp_path / "curve.json").write_text("[]")
    with pytest.raises(UserError, match="holds no validation"):
        curve_figure(tmp_path / "curve.json", tmp_path / "c")

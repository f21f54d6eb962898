"""Draw the collision rates of identifiers side by side: the paper's Figure 5."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from gensar_core.evaluation.figure_files import new_figure, save_figure
from gensar_core.runtime.stage import Stage

_COLORS = {"semantic": "C0", "collaborative": "C1"}


def collision_figure(names: Sequence[str], reports: Sequence[Path], figure: Path) -> None:
    """Draw ``{figure}.svg`` and ``.png``: the raw collision rate of each side of each identifier set.

    ``reports`` are the quality.json files of the entries ``names``. The rate is that of the nearest codes, before
    identifiers were made unique; the record holds the numbers drawn.
    """
    with Stage.named_after(figure, "collision_figure", inputs=reports, code=__name__) as stage:
        rates = {name: _rates(path) for name, path in zip(names, reports, strict=True)}
        _draw(rates, stage.path(figure.name))
        stage.record(raw_collision_rate=rates)


def _rates(path: Path) -> dict[str, float]:
    report = json.loads(path.read_text(encoding="utf-8"))
    return {side: report[side]["raw_collision_rate"] for side in report["sides"]}


def _draw(rates: dict[str, dict[str, float]], path: Path) -> None:
    bars = [(name, side, 100 * rate) for name, sides in rates.items() for side, rate in sides.items()]
    panel, axes = new_figure(1, 1, width=4.8, height=0.7 + 0.35 * len(bars))
    axis, places = axes[0][0], range(len(bars))
    drawn = axis.barh(places, [rate for *_, rate in bars], color=[_COLORS[side] for _, side, _ in bars])
    axis.bar_label(drawn, [f"{rate:.2f} %" for *_, rate in bars], padding=3)
    axis.set_yticks(places, [f"{name}, {side}" for name, side, _ in bars])
    axis.invert_yaxis()
    axis.set_xlabel("% of items")
    axis.set_title("collisions of nearest codes")
    axis.margins(x=0.15)
    save_figure(panel, path)

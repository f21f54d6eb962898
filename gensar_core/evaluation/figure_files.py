"""Save figures as SVG and PNG, with equal bytes for equal data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

TASK_TITLES = {"rec": "recommendation", "search": "search"}
# Text stays text in SVGs, so that they can be searched and read aloud; ids depend on the content, not on chance.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gensar",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def new_figure(rows: int, columns: int, *, width: float = 3.6, height: float = 2.8) -> tuple[Any, Any]:
    """Create a figure of ``rows`` x ``columns`` panels, each ``width`` x ``height`` inches; panels as nested lists."""
    with plt.rc_context(_STYLE):
        return plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)


def save_figure(figure: Any, path: Path) -> None:
    """Write ``{path}.svg`` and ``{path}.png`` and close the figure."""
    with plt.rc_context(_STYLE):
        figure.savefig(path.parent / f"{path.name}.svg", metadata={"Date": None})
        figure.savefig(path.parent / f"{path.name}.png", dpi=150, metadata={"Software": None})
    plt.close(figure)

"""Look up what papers report under the field's protocol (docs/field-protocol.md), to be shown beside measured rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from gensar_core.errors import UserError

PUBLISHED_COLUMNS: Final = ("method", "recall@5", "recall@10", "ndcg@5", "ndcg@10", "source")

_FILE: Final = Path(__file__).with_suffix(".yaml")


def published_cells(name: str) -> list[list[str]]:
    """Return the rows of a data set in published.yaml, cells in the order of ``PUBLISHED_COLUMNS``; "-": not reported.

    Raises UserError when the file has no such data set.
    """
    data_sets: dict[str, list[dict[str, Any]]] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    if name not in data_sets:
        raise UserError(f"published: no figures of {name!r} (there: {', '.join(data_sets)})")
    return [[_cell(row.get(column, "-")) for column in PUBLISHED_COLUMNS] for row in data_sets[name]]


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)

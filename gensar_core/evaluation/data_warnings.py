"""Repeat the warnings about a data set's raw files below its tables."""

from __future__ import annotations

import html
from pathlib import Path

from gensar_core.runtime.stage import read_record


def data_warnings(canonical: Path | None) -> dict[str, str]:
    """Return the warnings of the stage `canonical` by page format, `md` and `html`; empty without warnings.

    ``canonical`` is the stage's record. Raises UserError when it is missing or unreadable.
    """
    found = read_record(canonical)["warnings"] if canonical else []
    if not found:
        return {}
    title = "Warnings about the data:"
    lines = "".join(f"* {line}\n" for line in found)
    entries = "".join(f"<li>{html.escape(line)}</li>\n" for line in found)
    return {"md": f"\n{title}\n\n{lines}", "html": f"<p>{title}</p>\n<ul>\n{entries}</ul>\n"}

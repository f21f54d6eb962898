"""What was odd about a data set's raw files, told again below its tables."""

from __future__ import annotations

import html
from pathlib import Path

from gensar_core.runtime.stage import read_record


def data_warnings(canonical: Path | None) -> dict[str, str]:
    """The warnings of the stage `canonical` by the kind of page they go to, `md` and `html`; empty without warnings.

    ``canonical`` is the stage's record. Raises UserError when it is not there or not readable.
    """
    found = read_record(canonical)["warnings"] if canonical else []
    if not found:
        return {}
    title = "Warnings about the data:"
    lines = "".join(f"* {line}\n" for line in found)
    entries = "".join(f"<li>{html.escape(line)}</li>\n" for line in found)
    return {"md": f"\n{title}\n\n{lines}", "html": f"<p>{title}</p>\n<ul>\n{entries}</ul>\n"}

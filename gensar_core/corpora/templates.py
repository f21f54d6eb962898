"""Load the library's own templates, used to build new corpora; a corpus keeps a copy of those it was built with."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gensar_core.corpora.template_files import Template, read_templates

TEMPLATES_FILE: Final = Path(__file__).with_suffix(".yaml")


def load_templates() -> dict[str, tuple[Template, ...]]:
    """Return every task's templates, by the task's name."""
    return read_templates(TEMPLATES_FILE)

"""Settings of methods to compare with, and of tables."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from gensar_core.config.base import Name, Settings


class MethodSettings(Settings):
    """An entry of `methods`. Its own keys are checked by the method's file, which `kind` names."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    kind: str
    #: The text embedding whose vectors the method ranks with or starts from, if it takes one.
    embedding: Name | None = None

    def own(self) -> dict[str, Any]:
        """The keys that the method's own settings model defines, as written."""
        return dict(self.model_extra or {})


class TableSettings(Settings):
    """An entry of `tables`: rows are names of methods and generators, in the order shown."""

    rows: list[Name]

"""Settings of methods to compare with, and of tables and figures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from gensar_core.config.base import Name, Settings


class MethodSettings(Settings):
    """An entry of `methods`. Its own keys are checked by the method's file, which `kind` names."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    kind: str
    #: The text embedding whose vectors the method ranks with or starts from, if it takes one.
    embedding: Name | None = None

    def own(self) -> dict[str, Any]:
        """The keys that the method's own settings model defines, as written."""
        return dict(self.model_extra or {})


class TableSettings(Settings):
    """An entry of `tables`: rows are names of methods and generators, in the order shown."""

    rows: list[Name]


Metric = Literal["hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10"]


class SeriesSettings(Settings):
    """What a figure draws in one color, under one label."""

    label: str
    #: Methods, generators or fusions.
    rows: Annotated[list[Name], Field(min_length=1)]


class FigureSettings(Settings):
    """An entry of `figures`: metrics of rows, drawn side by side."""

    #: bars: a panel a task, a bar a series; tradeoff: recommendation against search, a point a row.
    kind: Literal["bars", "tradeoff"] = "bars"
    #: In the order drawn. Bars take one row a task in each series.
    series: Annotated[list[SeriesSettings], Field(min_length=1)]
    metrics: Annotated[list[Metric], Field(min_length=1)] = ["hr@5", "ndcg@5"]

    @property
    def rows(self) -> list[str]:
        """All rows, each once, in the order drawn."""
        return list(dict.fromkeys(row for series in self.series for row in series.rows))

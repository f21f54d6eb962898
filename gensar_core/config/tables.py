"""Settings of methods to compare with, and of tables and figures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from gensar_core.config.base import Count, Name, Settings


class MethodSettings(Settings):
    """An entry of `methods`. Its own keys are checked by the method's file, which `kind` names."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    kind: str
    #: The text embedding whose vectors the method ranks with or starts from, if it takes one.
    embedding: Name | None = None
    #: What is drawn at random comes from this number; null: the configuration's seed.
    seed: Count | None = None

    def own(self) -> dict[str, Any]:
        """The keys that the method's own settings model defines, as written."""
        return dict(self.model_extra or {})


class ComparisonSettings(Settings):
    """Which rows of a table are tested against each other."""

    #: The rows that the table argues for. The star and the interval then compare the best of them with the best of the
    #: others; without any, the best row with the second best.
    proposed: list[Name] = []
    #: best: that comparison alone; each: every proposed row with every other one as well.
    compare: Literal["best", "each"] = "best"

    @model_validator(mode="after")
    def _each_of_something(self) -> ComparisonSettings:
        if self.compare == "each" and not self.proposed:
            raise ValueError("compare: each needs 'proposed', the rows that are compared with each of the others")
        return self


class TableSettings(ComparisonSettings):
    """An entry of `tables`: rows are names of methods, generators and fusions, in the order shown."""

    rows: list[Name]
    #: Train every row, and what it is built on, once with each of these seeds, on the same samples and candidates: the
    #: table shows means and standard deviations. What draws nothing at random is shared. Empty: once, with the seed of
    #: all.
    seeds: list[Count] = []

    @model_validator(mode="after")
    def _rows_are_split_and_seeds_several(self) -> TableSettings:
        for name, values in (("rows", self.rows), ("proposed", self.proposed), ("seeds", self.seeds)):
            if len(set(values)) < len(values):  # type: ignore[arg-type]
                raise ValueError(f"'{name}' names one of its entries twice")
        strangers = [name for name in self.proposed if name not in self.rows]
        if strangers:
            raise ValueError(f"'proposed' names {strangers[0]!r}, which is none of 'rows'")
        if self.proposed and len(self.proposed) == len(self.rows):
            raise ValueError("'proposed' names all rows, which leaves none to compare with")
        if len(self.seeds) == 1:
            raise ValueError("'seeds' names one seed, which has no deviation; name two or more, or set 'seed' of all")
        return self

    def comparison(self) -> ComparisonSettings:
        """The part of these settings that the stages `metric_table` and `full_table` read."""
        return ComparisonSettings(proposed=self.proposed, compare=self.compare)


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

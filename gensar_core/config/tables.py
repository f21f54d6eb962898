"""Configure the methods to compare with, and the tables and figures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from gensar_core.config.base import Count, Name, Settings


class MethodSettings(Settings):
    """Configure an entry of `methods`. Its other keys are checked by the file of the method that `kind` names."""

    model_config = ConfigDict(extra="allow")

    kind: str
    embedding: Name | None = None
    """Text embedding whose vectors the method ranks with or starts from, if it takes one."""
    seed: Count | None = None
    """Seed of all random draws; null uses the configuration's seed."""

    def own(self) -> dict[str, Any]:
        """Return the keys that the method's own settings model defines, as written."""
        return dict(self.model_extra or {})


class ComparisonSettings(Settings):
    """Choose the rows of a table that are tested against each other."""

    proposed: list[Name] = []
    """Rows that the table argues for. The star and the interval then compare the best of them with the best of the
    others; without any, the best row with the second best."""
    compare: Literal["best", "each"] = "best"
    """best: only that comparison; each: also every proposed row with every other row."""

    @model_validator(mode="after")
    def _each_of_something(self) -> ComparisonSettings:
        if self.compare == "each" and not self.proposed:
            raise ValueError("compare: each needs 'proposed', the rows that are compared with each of the others")
        return self


class TableSettings(ComparisonSettings):
    """Configure an entry of `tables`: rows are names of methods, generators and fusions, in the order shown."""

    rows: list[Name]
    among: Literal["candidates", "catalogue"] = "candidates"
    """candidates: HR and NDCG among the candidates of each target; catalogue: Recall and NDCG among all items, as the
    data set's `full_ranking` says. A fusion ranks the catalogue if all its parts are methods."""
    seeds: list[Count] = []
    """Train every row, and what it is built on, once with each of these seeds, on the same samples and candidates; the
    table then shows means and standard deviations. Entries that draw nothing at random are shared. Empty: train
    once, with the configuration's seed."""

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


Metric = Literal["hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10"]


class SeriesSettings(Settings):
    """Group the rows that a figure draws in one color, under one label."""

    label: str
    rows: Annotated[list[Name], Field(min_length=1)]
    """Methods, generators or fusions."""


class FigureSettings(Settings):
    """Configure an entry of `figures`: metrics of rows, drawn side by side."""

    kind: Literal["bars", "tradeoff"] = "bars"
    """bars: a panel per task, a bar per series; tradeoff: recommendation against search, a point per row."""
    series: Annotated[list[SeriesSettings], Field(min_length=1)]
    """Series in the order drawn. Bars take one row per task in each series."""
    metrics: Annotated[list[Metric], Field(min_length=1)] = ["hr@5", "ndcg@5"]

    @property
    def rows(self) -> list[str]:
        """Return all rows, each once, in the order drawn."""
        return list(dict.fromkeys(row for series in self.series for row in series.rows))

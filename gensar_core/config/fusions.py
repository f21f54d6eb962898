"""Configure fusions: several trained rankers, with weights fitted on the validation split."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gensar_core.config.base import Name, Rate, Settings


class WeightSettings(Settings):
    """Configure the stage `fuse`; the scores are input files."""

    ridge: Rate = 1.0e-4
    """Strength of the pull of all weights towards zero (features have standard deviation 1). It keeps the weights of
    redundant parts from diverging."""
    popularity: bool = False
    """Let the logarithm of an item's training clicks raise or lower its score: candidates drawn by popularity require
    this of a ranker whose scores contain popularity. A fusion of one part is that part, calibrated."""


class FusionSettings(WeightSettings):
    """Configure an entry of `fusions`."""

    parts: Annotated[list[Name], Field(min_length=1)]
    """Entries of `methods` or `generators`. A part counts only in the tasks that it ranks."""

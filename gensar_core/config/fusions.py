"""Settings of fusions: several trained rankers, weighted by what each is worth on the validation split."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gensar_core.config.base import Name, Rate, Settings


class WeightSettings(Settings):
    """What the stage `fuse` reads; the scores arrive as files."""

    #: Strength of the pull of all weights to zero (standard deviations of the features are 1): keeps the weights of
    #: parts that tell the same from running away from each other.
    ridge: Rate = 1.0e-4
    #: Let the logarithm of an item's training clicks count for or against it: what a list of candidates drawn by
    #: popularity asks of a ranker whose scores hold popularity. With one part it is that part, calibrated.
    popularity: bool = False


class FusionSettings(WeightSettings):
    """An entry of `fusions`."""

    #: Entries of `methods` or `generators`. A part counts in the tasks that it ranks.
    parts: Annotated[list[Name], Field(min_length=1)]

    def weights(self) -> WeightSettings:
        """The part of these settings that the stage reads."""
        return WeightSettings(ridge=self.ridge, popularity=self.popularity)

"""Share training and scoring across causal encoders, whose states see no later click.

A sequence can therefore be trained at all of its places at once.
"""

from __future__ import annotations

import functools
from typing import Literal, TypeVar

from gensar_core.baselines.shared.sequence_examples import EachPrefix, EveryPlace
from gensar_core.baselines.shared.sequential_recommender import SequentialRecommender, SequentialSettings


class CausalSettings(SequentialSettings):
    """Configure the training of a causal method."""

    rows: Literal["sequences", "prefixes"] = "sequences"
    """Training rows: users' sequences with a target at every place, or all their prefixes with a target at the end.
    Prefixes of all users are shuffled, so a step sees more users and fewer targets of each. Prefixes cost a few
    times as much per epoch, learn more from it, and recommended better wherever both were tried (docs/tuning.md)."""


S = TypeVar("S", bound=CausalSettings)


class CausalRecommender(SequentialRecommender[S]):
    """Train and score a sequential method with a causal encoder."""

    @functools.cached_property
    def form(self) -> EveryPlace:
        """Return the form of the examples: sequences, or each of their prefixes."""
        form = EachPrefix if self.settings.rows == "prefixes" else EveryPlace
        return form(self.settings.max_history, self.data.n_items)

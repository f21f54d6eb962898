"""What methods share whose states see no later click, so that a sequence can be asked at all of its places at once."""

from __future__ import annotations

import functools
from typing import Literal, TypeVar

from gensar_core.baselines.shared.sequence_examples import EachPrefix, EveryPlace
from gensar_core.baselines.shared.sequential_recommender import SequentialRecommender, SequentialSettings


class CausalSettings(SequentialSettings):
    """How a causal method is trained."""

    #: What a row of training is: a user's sequence, asked at every place, or each of its prefixes, asked at the end.
    #: Prefixes of all users are shuffled, so that a step sees more users and, of each, fewer targets: they cost a few
    #: times as much an epoch, learn more from it, and recommended better wherever both were tried (docs/tuning.md).
    rows: Literal["sequences", "prefixes"] = "sequences"


S = TypeVar("S", bound=CausalSettings)


class CausalRecommender(SequentialRecommender[S]):
    """A sequential method with a causal encoder."""

    @functools.cached_property
    def form(self) -> EveryPlace:
        """Sequences, or each of their prefixes."""
        form = EachPrefix if self.settings.rows == "prefixes" else EveryPlace
        return form(self.settings.max_history, self.data.n_items)

"""Cut stored histories to the part that a prompt shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gensar_core import schema
from gensar_core.runtime.arrays import Ragged


@dataclass(frozen=True)
class ShownHistories:
    """Hold histories, oldest entry first: ``behaviors`` and ``objects`` are rows of equal lengths (Eq. 1)."""

    behaviors: Ragged
    objects: Ragged

    def __len__(self) -> int:
        return len(self.behaviors)

    def take(self, rows: np.ndarray) -> ShownHistories:
        """Return the given rows, in the given order."""
        return ShownHistories(self.behaviors.take(rows), self.objects.take(rows))

    def recent(self, max_recommendations: int | np.ndarray, max_searches: int | np.ndarray) -> ShownHistories:
        """Keep each row's last ``max_recommendations`` recommendation clicks and last ``max_searches`` search sessions.

        Entries stay in order. A limit applies to all rows, or is given for each row [rows]. A session is a query and
        the clicks that follow it up to the next query; it counts once.
        """
        codes = self.behaviors.values
        clicks = self._standing(codes == schema.RECOMMENDED_ITEM, inclusive=True)
        # An entry belongs to the session of the last query at or before it.
        sessions = 1 + self._standing(codes == schema.SEARCHED_QUERY, inclusive=False)
        most_clicks, most_sessions = self._spread(max_recommendations), self._spread(max_searches)
        keep = np.where(codes == schema.RECOMMENDED_ITEM, clicks <= most_clicks, sessions <= most_sessions)
        return ShownHistories(self.behaviors.filter(keep), self.objects.filter(keep))

    def only(self, behaviors: Sequence[int]) -> ShownHistories:
        """Keep the entries of these behaviors (codes of schema.BEHAVIORS)."""
        keep = np.isin(self.behaviors.values, list(behaviors))
        return ShownHistories(self.behaviors.filter(keep), self.objects.filter(keep))

    def _spread(self, limits: int | np.ndarray) -> int | np.ndarray:
        """Repeat limits of rows for each of their entries."""
        return np.repeat(limits, self.behaviors.lengths) if isinstance(limits, np.ndarray) else limits

    def _standing(self, marked: np.ndarray, *, inclusive: bool) -> np.ndarray:
        """Count the marked entries after each entry in its row (at or after it, if ``inclusive``)."""
        before = np.concatenate([[0], np.cumsum(marked)])
        ends = np.repeat(before[self.behaviors.offsets[1:]], self.behaviors.lengths)
        standing: np.ndarray = ends - (before[:-1] if inclusive else before[1:])
        return standing

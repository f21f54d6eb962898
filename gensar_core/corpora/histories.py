"""The part of a stored history that a prompt shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gensar_core import schema
from gensar_core.runtime.arrays import Ragged


@dataclass(frozen=True)
class Histories:
    """What users did before a target, oldest first: ``behaviors`` and ``objects`` are equally long rows (Eq. 1)."""

    behaviors: Ragged
    objects: Ragged

    def __len__(self) -> int:
        return len(self.behaviors)

    def take(self, rows: np.ndarray) -> Histories:
        """The given rows, in the given order."""
        return Histories(self.behaviors.take(rows), self.objects.take(rows))

    def recent(self, max_recommendations: int | np.ndarray, max_searches: int | np.ndarray) -> Histories:
        """The last so many recommendation clicks and the last so many search sessions of each row, in order.

        Limits are of all rows, or one a row [rows]. A session is a query and the clicks that follow it up to the next
        query; it counts once.
        """
        codes = self.behaviors.values
        clicks = self._standing(codes == schema.RECOMMENDED_ITEM, inclusive=True)
        # The session of an entry is the one whose query comes last at or before it.
        sessions = 1 + self._standing(codes == schema.SEARCHED_QUERY, inclusive=False)
        most_clicks, most_sessions = self._spread(max_recommendations), self._spread(max_searches)
        keep = np.where(codes == schema.RECOMMENDED_ITEM, clicks <= most_clicks, sessions <= most_sessions)
        return Histories(self.behaviors.filter(keep), self.objects.filter(keep))

    def _spread(self, limits: int | np.ndarray) -> int | np.ndarray:
        """Limits of rows as those of entries."""
        return np.repeat(limits, self.behaviors.lengths) if isinstance(limits, np.ndarray) else limits

    def _standing(self, marked: np.ndarray, *, inclusive: bool) -> np.ndarray:
        """How many marked entries stand after each entry in its row (at or after it, if ``inclusive``)."""
        before = np.concatenate([[0], np.cumsum(marked)])
        ends = np.repeat(before[self.behaviors.offsets[1:]], self.behaviors.lengths)
        standing: np.ndarray = ends - (before[:-1] if inclusive else before[1:])
        return standing

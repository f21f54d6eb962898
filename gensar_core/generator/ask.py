"""Define the questions that every open generator answers: recommend, and search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gensar_core.corpora.live_prompts import Entry
from gensar_core.corpora.user_words import UNKNOWN_USER
from gensar_core.errors import UserError
from gensar_core.generator.beam_search import RetrievedItems

#: Default beams of a single request, or ``top`` if that is larger: a wide search is cheap for one user.
_BEAMS: Final = 50


@dataclass(frozen=True)
class Hit:
    """Hold a retrieved item and its score: the log-probability of its tokens."""

    item: int
    score: float


class Answering(ABC):
    """Answer questions about histories that no table holds."""

    @abstractmethod
    def question(self, task: str, history: Sequence[Entry], query: str | None, user: int) -> Any:
        """Write what the model reads for a task: ``history`` (oldest first), then the ``query`` of a search."""

    @abstractmethod
    def answer(
        self,
        task: str,
        question: Any,
        *,
        top: int,
        beams: int | None,
        excluded: Collection[int],
        allowed: np.ndarray | None,
    ) -> list[Hit]:
        """Search the items of a task for one question; the options are those of `recommend`."""

    def recommend(
        self,
        history: Sequence[Entry],
        *,
        top: int = 10,
        beams: int | None = None,
        excluded: Collection[int] = (),
        allowed: np.ndarray | None = None,
        user: int = UNKNOWN_USER,
    ) -> list[Hit]:
        """Recommend ``top`` items after ``history`` (oldest first), best first.

        ``excluded`` are numbers of items not to return; ``allowed`` bool [n_items] marks the items that may be
        returned. ``beams`` None means 50, or ``top`` if that is larger. ``user`` is the number of a user of the data
        set, for prompts that name the user; logs name none. Raises UserError on an empty history, on items that are not
        in the corpus, and when its prompts do not ask for recommendations.
        """
        if not history:
            raise UserError("history: is empty; a recommendation needs at least one click or search to go by")
        question = self.question("rec", history, None, user)
        return self.answer("rec", question, top=top, beams=beams, excluded=excluded, allowed=allowed)

    def search(
        self,
        query: str,
        history: Sequence[Entry] = (),
        *,
        top: int = 10,
        beams: int | None = None,
        excluded: Collection[int] = (),
        allowed: np.ndarray | None = None,
        user: int = UNKNOWN_USER,
    ) -> list[Hit]:
        """Retrieve ``top`` items for the ``query`` of a user with this ``history``; otherwise as `recommend`."""
        question = self.question("search", history, query, user)
        return self.answer("search", question, top=top, beams=beams, excluded=excluded, allowed=allowed)


def check_request(
    n_items: int, top: int, beams: int | None, excluded: Collection[int], allowed: np.ndarray | None
) -> int:
    """Return the beams of a single request: by default 50, or ``top`` if that is larger.

    Raises UserError on too few beams, on excluded items that do not exist, and on ``allowed`` of another size.
    """
    if top < 1 or (beams is not None and beams < top):
        raise UserError(f"top: {top} items cannot be found with {beams} beams; ask for 1 or more, and as many beams")
    unknown = [item for item in excluded if not 0 <= item < n_items]
    if unknown:
        raise UserError(f"excluded: there is no item number {unknown[0]}; items are 0 to {n_items - 1}")
    if allowed is not None and allowed.shape != (n_items,):
        raise UserError(f"allowed: has {len(allowed)} entries, but there are {n_items} items")
    return max(top, _BEAMS) if beams is None else beams


def hits(retrieved: RetrievedItems) -> list[Hit]:
    """Return the items of a single request."""
    pairs = zip(retrieved.items[0].tolist(), retrieved.scores[0].tolist(), strict=True)
    return [Hit(item, score) for item, score in pairs if item >= 0]

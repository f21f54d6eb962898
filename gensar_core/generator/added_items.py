"""Ask a trained generator about the items that it was trained on and about items added since."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gensar_core.corpora.live_prompts import Entry
from gensar_core.corpora.read import ItemTokens
from gensar_core.errors import UserError
from gensar_core.generator.ask import Answering, Hit, check_request
from gensar_core.generator.beam_search import RetrievedItems
from gensar_core.generator.one_pass import OnePassGenerator
from gensar_core.generator.trained import TrainedGenerator, read_same_items


@dataclass
class ExtendedGenerator(Answering):
    """Hold one model twice: with the ``known`` items that it was trained on, and with ``everything``.

    Known items compete with known items alone, so that added ones change none of their scores by a single bit. An added
    item's tokens compete with those of all items. Both are searched, each with all beams, and merged by their scores.
    """

    known: TrainedGenerator | OnePassGenerator
    everything: TrainedGenerator | OnePassGenerator

    @classmethod
    def extend(cls, generator: TrainedGenerator | OnePassGenerator, added: Path) -> ExtendedGenerator:
        """Add the items of the folder ``added``. Raises UserError when it extends another corpus."""
        if not read_same_items(added, generator.corpus):
            raise UserError(
                f"{added}: extends another corpus than {generator.corpus}; run gensar add-items again, or delete the "
                "folder"
            )
        return cls(*generator.with_added(added))

    @property
    def items(self) -> dict[str, ItemTokens]:
        """Return the tokens of each item, by task."""
        return self.everything.items

    @property
    def precision(self) -> str:
        """Return the number type of the computation."""
        return self.known.precision

    @property
    def _n_known(self) -> int:
        return len(self.known.items["rec"])

    def asked(self) -> Any:
        """Load what is asked for valid and test samples."""
        return self.known.asked()

    def question(self, task: str, history: Sequence[Entry], query: str | None, user: int) -> Any:
        """Write what the model reads; histories may hold added items."""
        return self.everything.question(task, history, query, user)

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
        """Search known and added items, and return the best of both."""
        count, known = len(self.items[task]), self._n_known
        check_request(count, top, beams, excluded, allowed)
        allowed = np.ones(count, dtype=bool) if allowed is None else allowed
        found: list[Hit] = []
        if allowed[:known].any():
            found += self.known.answer(
                task,
                question,
                top=top,
                beams=beams,
                excluded=[item for item in excluded if item < known],
                allowed=None if allowed[:known].all() else allowed[:known],
            )
        if allowed[known:].any():
            found += self.everything.answer(
                task,
                question,
                top=top,
                beams=beams,
                excluded=[item for item in excluded if item >= known],
                allowed=allowed & self._added(task),
            )
        return sorted(found, key=lambda hit: -hit.score)[:top]

    def score(
        self,
        asked: Any,
        candidates: np.ndarray,
        task: str,
        *,
        users_per_batch: int = 64,
        beams: int | None = None,
    ) -> np.ndarray:
        """Score ``candidates`` int32 [users, width] (-1: none) of each question, float32 [users, width]."""
        added = candidates >= self._n_known

        def score(generator: TrainedGenerator | OnePassGenerator, chosen: np.ndarray) -> np.ndarray:
            part = np.where(chosen, candidates, -1)
            return generator.score(asked, part, task, users_per_batch=users_per_batch, beams=beams)

        scores = score(self.known, ~added)
        return np.where(added, score(self.everything, added), scores) if added.any() else scores

    def retrieve(
        self, asked: Any, task: str, *, beams: int, users_per_batch: int, excluded: np.ndarray | None
    ) -> RetrievedItems:
        """Search known and added items for each question, and return the best of both."""
        known = self._n_known
        # Excluded items of the other search are -1: none.
        first, second = (
            None if excluded is None else np.where((excluded >= known) == added, excluded, -1)
            for added in (False, True)
        )
        parts = [
            self.known.retrieve(asked, task, beams=beams, users_per_batch=users_per_batch, excluded=first),
            self.everything.retrieve(
                asked,
                task,
                beams=beams,
                users_per_batch=users_per_batch,
                excluded=second,
                allowed=self._added(task),
            ),
        ]
        items, scores = (np.concatenate([getattr(part, name) for part in parts], 1) for name in ("items", "scores"))
        best = np.argsort(-scores, axis=1, kind="stable")[:, :beams]
        return RetrievedItems(np.take_along_axis(items, best, 1), np.take_along_axis(scores, best, 1))

    def _added(self, task: str) -> np.ndarray:
        """Mark the added items, bool [n_items]."""
        marked: np.ndarray = np.arange(len(self.items[task])) >= self._n_known
        return marked

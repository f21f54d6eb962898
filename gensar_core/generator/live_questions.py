"""Ask a trained model what no table holds: recommendations after a history, and results of a query."""

from __future__ import annotations

import abc
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gensar_core.corpora.live_prompts import Asked, Entry
from gensar_core.corpora.user_words import UNKNOWN_USER
from gensar_core.errors import UserError
from gensar_core.generator.beam_search import RetrievedItems
from gensar_core.schema import TASKS

#: Default beams of a live question, or ``top`` if that is larger: a wide search is cheap for one user.
_BEAMS = 50
#: Maximum questions in one pass.
_PER_PASS = 64


@dataclass(frozen=True)
class Hit:
    """Hold a retrieved item and its score: the log-probability of its tokens."""

    item: int
    score: float


@dataclass(frozen=True, eq=False)
class LiveQuestion:
    """Hold one question: ``history`` (oldest first), and the ``query`` of a search; None asks for a recommendation.

    ``excluded`` are numbers of items not to return; ``allowed`` bool [n_items] marks the items that may be returned
    (None: all). ``user`` is the number of a user of the data set, for prompts that name the user.
    """

    history: Sequence[Entry] = ()
    query: str | None = None
    excluded: Collection[int] = ()
    allowed: np.ndarray | None = None
    user: int = UNKNOWN_USER

    @property
    def task(self) -> str:
        """Return `rec` or `search`."""
        return "rec" if self.query is None else "search"

    @property
    def asked(self) -> Asked:
        """Return what the model reads."""
        return Asked(self.history, self.query, self.user)

    def check(self, n_items: int) -> None:
        """Raise UserError on an empty history without a query, and on items that do not exist."""
        if not self.history and self.query is None:
            raise UserError("history: is empty; a recommendation needs at least one click or search to go by")
        unknown = [item for item in self.excluded if not 0 <= item < n_items]
        if unknown:
            raise UserError(f"excluded: there is no item number {unknown[0]}; items are 0 to {n_items - 1}")
        if self.allowed is not None and self.allowed.shape != (n_items,):
            raise UserError(f"allowed: has {len(self.allowed)} entries, but there are {n_items} items")


class Answering(abc.ABC):
    """Answer live questions by a trained generator of any backbone family."""

    @property
    @abc.abstractmethod
    def n_items(self) -> int:
        """Return the number of items of the catalogue."""

    @property
    @abc.abstractmethod
    def device(self) -> torch.device:
        """Return the model's device."""

    @abc.abstractmethod
    def write(self, task: str, asked: Sequence[Asked]) -> Any:
        """Write questions of one task as the model reads them."""

    @abc.abstractmethod
    def retrieve(self, asked: Any, task: str, *, users_per_batch: int, **options: Any) -> RetrievedItems:
        """Search the catalogue for questions of one task; ``options`` are those of `beam_search.search_beams`."""

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
        """Recommend ``top`` items after ``history`` (oldest first), best first; see `LiveQuestion`.

        ``beams`` None means 50, or ``top`` if that is larger. Raises UserError on an empty history, on items that are
        not in the corpus, and when its prompts do not ask for recommendations.
        """
        return self.answer([LiveQuestion(history, None, excluded, allowed, user)], top=top, beams=beams)[0]

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
        return self.answer([LiveQuestion(history, query, excluded, allowed, user)], top=top, beams=beams)[0]

    def answer(self, questions: Sequence[LiveQuestion], *, top: int = 10, beams: int | None = None) -> list[list[Hit]]:
        """Return ``top`` items for each of several questions, best first, by one search for each task.

        Each answer equals that of the question alone, up to the rounding of float32. ``beams`` None means 50, or
        ``top`` if that is larger. Raises UserError as `recommend` does, if any question is wrong.
        """
        if top < 1 or (beams is not None and beams < top):
            raise UserError(
                f"top: {top} items cannot be found with {beams} beams; ask for 1 or more, and as many beams"
            )
        for question in questions:
            question.check(self.n_items)
        answers: list[list[Hit]] = [[] for _ in questions]
        for task in TASKS:
            places = [place for place, question in enumerate(questions) if question.task == task]
            if not places:
                continue
            mine = [questions[place] for place in places]
            allowed, excluded = returnable(mine, self.n_items)
            per_batch, at_once = passes(len(mine), self.device)
            retrieved = self.retrieve(
                self.write(task, [question.asked for question in mine]),
                task,
                users_per_batch=per_batch,
                beams=max(top, _BEAMS) if beams is None else beams,
                top=top,
                allowed=allowed,
                excluded=excluded,
                answer_at_once=at_once,
            )
            for place, items, scores in zip(places, retrieved.items.tolist(), retrieved.scores.tolist(), strict=True):
                answers[place] = [Hit(item, score) for item, score in zip(items, scores, strict=True) if item >= 0]
        return answers


def returnable(questions: Sequence[LiveQuestion], n_items: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the options ``allowed`` and ``excluded`` of `search_beams` for these questions.

    A mask that all questions share is passed once: so many questions cost no more memory than one.
    """
    width = max(len(question.excluded) for question in questions)
    excluded = np.full((len(questions), width), -1, dtype=np.int64)
    for row, question in zip(excluded, questions, strict=True):
        row[: len(question.excluded)] = sorted(question.excluded)
    allowed = questions[0].allowed
    if any(question.allowed is not allowed for question in questions):
        everything = np.ones(n_items, dtype=bool)
        allowed = np.stack([everything if asked.allowed is None else asked.allowed for asked in questions])
    return allowed, excluded if width else None


def passes(count: int, device: torch.device) -> tuple[int, bool]:
    """Return how to divide ``count`` questions: the options ``users_per_batch`` and ``answer_at_once`` of searches.

    A CPU's cores get equally many questions each; fewer questions than cores take turns on all of them.
    """
    cores = torch.get_num_threads()
    if device.type != "cpu":
        return _PER_PASS, False
    return min(-(-count // cores), _PER_PASS), count < cores

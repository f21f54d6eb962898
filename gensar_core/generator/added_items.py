"""Ask a trained generator about the items that it was trained on and about items added since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gensar_core.corpora.live_prompts import Asked
from gensar_core.corpora.read import ItemTokens
from gensar_core.errors import UserError
from gensar_core.generator.beam_search import RetrievedItems
from gensar_core.generator.live_questions import Answering
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
    def n_items(self) -> int:
        """Return the number of known and added items."""
        return self.everything.n_items

    @property
    def device(self) -> torch.device:
        """Return the model's device."""
        return self.known.device

    @property
    def corpus(self) -> Path:
        """Return the corpus that the model was trained on."""
        return self.known.corpus

    @property
    def precision(self) -> str:
        """Return the number type of the computation."""
        return self.known.precision

    def asked(self) -> Any:
        """Load what is asked for valid and test samples."""
        return self.known.asked()

    def write(self, task: str, asked: Sequence[Asked]) -> Any:
        """Write live questions; histories may hold added items."""
        return self.everything.write(task, asked)

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
        added = candidates >= self.known.n_items

        def score(generator: TrainedGenerator | OnePassGenerator, chosen: np.ndarray) -> np.ndarray:
            part = np.where(chosen, candidates, -1)
            return generator.score(asked, part, task, users_per_batch=users_per_batch, beams=beams)

        scores = score(self.known, ~added)
        return np.where(added, score(self.everything, added), scores) if added.any() else scores

    def retrieve(self, asked: Any, task: str, *, users_per_batch: int, **options: Any) -> RetrievedItems:
        """Search known and added items for each question, and return the best of both; as in `search_beams`."""
        allowed, excluded = options.pop("allowed", None), options.pop("excluded", None)
        known = self.known.n_items
        allowed = np.ones(self.n_items, dtype=bool) if allowed is None else allowed
        old, added = allowed[..., :known], allowed & (np.arange(self.n_items) >= known)
        found = []
        for generator, mine, whole in ((self.known, old, bool(old.all())), (self.everything, added, False)):
            own = {"allowed": None if whole else mine, "excluded": excluded}
            if excluded is not None:
                # An excluded item of the other search is -1: none.
                own["excluded"] = np.where((excluded < known) == (generator is self.known), excluded, -1)
            found.append(generator.retrieve(asked, task, users_per_batch=users_per_batch, **options, **own))
        items, scores = (np.concatenate([getattr(part, name) for part in found], 1) for name in ("items", "scores"))
        best = np.argsort(-scores, axis=1, kind="stable")[:, : found[0].items.shape[1]]
        return RetrievedItems(np.take_along_axis(items, best, 1), np.take_along_axis(scores, best, 1))

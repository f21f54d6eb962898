"""A trained generator, opened to score items for prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gensar_core.errors import UserError
from gensar_core.generator.backbone import load_model, load_tokenizer
from gensar_core.generator.corpus import ItemTokens, check_tokens, load_item_tokens, vocabulary_size
from gensar_core.generator.score import score_candidates
from gensar_core.generator.t5 import T5
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import pick_device


@dataclass
class TrainedGenerator:
    """A model with its tokenizer, and the tokens that mean each item (by task)."""

    model: T5
    tokenizer: Any
    items: dict[str, ItemTokens]
    folder: Path

    @classmethod
    def load(cls, model: Path, corpus: Path, device: torch.device | None = None) -> TrainedGenerator:
        """Open the model in the folder ``model``, which was trained on the folder ``corpus``.

        Raises UserError when one is not there or they do not belong together.
        """
        if not (model / "config.json").is_file():
            raise UserError(f"{model}: holds no trained model; train the generator first")
        network = load_model(str(model))
        known, given = network.get_input_embeddings().weight.shape[0], vocabulary_size(corpus)
        if given > known:
            raise UserError(
                f"{corpus}: has {given} tokens, the model in {model} knows {known}; name the corpus it was trained on"
            )
        network.to(device or pick_device()).eval()
        end = int(network.config.eos_token_id)
        return cls(network, load_tokenizer(model), load_item_tokens(corpus, known, end), model)

    @property
    def vocabulary(self) -> int:
        """How many token ids the model has embeddings for."""
        return int(self.model.lm_head.weight.shape[0])

    def score(
        self,
        prompts: Ragged,
        candidates: np.ndarray,
        task: str,
        *,
        users_per_batch: int = 64,
        beams: int | None = None,
    ) -> np.ndarray:
        """Scores float32 [users, width] of ``candidates`` int32 [users, width] (-1: none) after each prompt.

        ``task`` (rec or search) says which tokens mean an item. See `score_candidates`. Raises UserError on items and
        tokens that the model does not know.
        """
        items = self.items[task]
        if candidates.size and candidates.max() >= len(items):
            raise UserError(
                f"{self.folder}: candidate item {int(candidates.max())} is not among the {len(items)} items of the "
                "corpus; build corpus and samples from the same data"
            )
        check_tokens(prompts, self.vocabulary, self.folder)
        return score_candidates(self.model, prompts, candidates, items, users_per_batch=users_per_batch, beams=beams)

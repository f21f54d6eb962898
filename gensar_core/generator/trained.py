"""Open a trained generator to score candidates for prompts and to retrieve items."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from gensar_core.config.generators import Precision
from gensar_core.corpora.live_prompts import Asked, LivePrompts
from gensar_core.corpora.read import (
    ItemTokens,
    Prompts,
    check_model_tokenizer,
    check_tokens,
    load_item_tokens,
    load_prompts,
    vocabulary_size,
)
from gensar_core.corpora.trie import TokenTrie, load_tries
from gensar_core.embeddings.tokenizer import load_corpus_tokenizer
from gensar_core.errors import UserError
from gensar_core.generator.backbones.t5 import Backbone
from gensar_core.generator.backbones.whole_words import load_whole_words
from gensar_core.generator.beam_search import RetrievedItems, beam_search
from gensar_core.generator.candidate_scores import score_candidates
from gensar_core.generator.likelihoods import VOCABULARY, CatalogueLikelihood, Likelihood, item_likelihoods
from gensar_core.generator.live_questions import Answering
from gensar_core.nn.t5 import load_t5
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import pick_device, supported_precision
from gensar_core.runtime.stage import digest, read_record
from gensar_core.runtime.verification import faults

#: Stage that writes a folder to take away.
EXPORT: Final = "export"


@dataclass
class TrainedGenerator(Answering):
    """Hold a model with its tokenizer and, by task, the tokens of each item."""

    model: Backbone
    tokenizer: Any
    items: dict[str, ItemTokens]
    folder: Path
    corpus: Path
    #: Number type of the computation.
    precision: Precision = "float32"
    #: Folder of the items' tokens and tries, where it is another one than that of the corpus.
    catalogue: Path | None = None

    @classmethod
    def load(
        cls,
        model: Path,
        corpus: Path | None = None,
        device: torch.device | None = None,
        precision: Precision = "float32",
    ) -> TrainedGenerator:
        """Load the model in the folder ``model``, which was trained on the folder ``corpus``.

        Without ``corpus``, ``model`` is an exported folder, which holds what it needs of the corpus. With ``precision``
        bfloat16, weights are rounded and products computed in that type: this is faster, and scores differ in the
        second decimal. A device without such products computes in float32 and logs a line. Raises UserError if a folder
        is missing or damaged, or they do not belong together.
        """
        corpus = corpus or exported_corpus(model)
        if not (model / "config.json").is_file():
            raise UserError(f"{model}: holds no trained model; train the generator first")
        network = load_t5(str(model))
        embeddings, tokens = network.get_input_embeddings().weight.shape[0], vocabulary_size(corpus)
        if tokens > embeddings:
            raise UserError(
                f"{corpus}: has {tokens} tokens, the model in {model} knows {embeddings}; "
                "name the corpus it was trained on"
            )
        # Report a broken corpus before one that merely belongs to another model.
        items = load_item_tokens(corpus, embeddings, int(network.config.eos_token_id))
        check_same_items(model, corpus)
        device = device or pick_device()
        precision = supported_precision(precision, device)
        tokenizer = load_corpus_tokenizer(model)
        check_model_tokenizer(corpus, tokenizer, model)
        load_whole_words(network, model, tokenizer, corpus)
        network.to(device, getattr(torch, precision)).eval()
        return cls(network, tokenizer, items, model, corpus, precision)

    @property
    def vocabulary(self) -> int:
        """Return the number of token ids that the model has embeddings for."""
        return int(self.model.lm_head.weight.shape[0])

    @functools.cached_property
    def tries(self) -> dict[str, TokenTrie]:
        """Load the tries of all items, by task, onto the model's device."""
        tries = load_tries(self.catalogue or self.corpus, len(self.items["rec"]))
        return {task: trie.to(self.model.lm_head.weight.device) for task, trie in tries.items()}

    @functools.cached_property
    def _likelihoods(self) -> dict[str, CatalogueLikelihood]:
        return item_likelihoods(self.model, lambda: self.tries)

    def likelihood(self, task: str) -> Likelihood:
        """Return the likelihood of a task's items, which the model was trained with."""
        return self._likelihoods.get(task, VOCABULARY)

    @functools.cached_property
    def prompts(self) -> LivePrompts:
        """Build the writer of prompts for histories that are in no table."""
        return LivePrompts(self.corpus, self.catalogue)

    @property
    def n_items(self) -> int:
        """Return the number of items of the catalogue."""
        return len(self.items["rec"])

    @property
    def device(self) -> torch.device:
        """Return the model's device."""
        device: torch.device = self.model.lm_head.weight.device
        return device

    def write(self, task: str, asked: Sequence[Asked]) -> Ragged:
        """Write live questions of one task as prompts."""
        return self.prompts.write(task, asked)

    def with_added(self, added: Path) -> tuple[TrainedGenerator, TrainedGenerator]:
        """Return generators of the items that this one knows, and of all items of the folder ``added``.

        The second one writes questions about all items; both answer them.
        """
        items = load_item_tokens(added, self.vocabulary, int(self.model.config.eos_token_id))
        return self, replace(self, items=items, catalogue=added)

    def asked(self) -> Prompts:
        """Load the prompts of valid and test samples."""
        return load_prompts(self.corpus, self.vocabulary)

    def retrieve(self, asked: Ragged, task: str, *, users_per_batch: int, **options: Any) -> RetrievedItems:
        """Search the catalogue after each prompt; ``options`` are those of `search_beams`."""
        return beam_search(
            self.model,
            asked,
            self.tries[task],
            users_per_batch=users_per_batch,
            likelihood=self.likelihood(task),
            **options,
        )

    def score(
        self,
        prompts: Ragged,
        candidates: np.ndarray,
        task: str,
        *,
        users_per_batch: int = 64,
        beams: int | None = None,
    ) -> np.ndarray:
        """Score ``candidates`` int32 [users, width] (-1: none) after each prompt, float32 [users, width].

        ``task`` (rec or search) selects the tokens that mean an item. See `score_candidates`. Raises UserError on items
        and tokens that are unknown to the model.
        """
        items = self.items[task]
        if candidates.size and candidates.max() >= len(items):
            raise UserError(
                f"{self.folder}: candidate item {int(candidates.max())} is not among the {len(items)} items of the "
                "corpus; build corpus and samples from the same data"
            )
        check_tokens(prompts, self.vocabulary, self.folder)
        likelihood = self.likelihood(task)
        if beams is not None and likelihood is not VOCABULARY:
            raise UserError(f"{self.folder}: was trained with likelihood: catalogue and ranks without ranking.beams")
        return score_candidates(
            self.model,
            prompts,
            candidates,
            items,
            users_per_batch=users_per_batch,
            beams=beams,
            likelihood=likelihood,
        )


def exported_corpus(folder: Path) -> Path:
    """Return what an exported folder holds of its corpus, once all files are as they were written.

    The README may change: its owner writes there what only they know. Raises UserError on a folder that is none, and on
    a file that is missing or damaged.
    """
    record = folder / "stage.json"
    if not record.is_file() or read_record(record).get("stage") != EXPORT:
        raise UserError(
            f"{folder}: is no whole exported folder; write one with gensar export, or name a corpus as well"
        )
    for fault in faults(record, whole=True):
        if fault.path != folder / "README.md":
            raise UserError(f"{fault.path}: {fault.problem}; export or download the folder again")
    return folder / "corpus"


def check_same_items(model: Path, corpus: Path) -> None:
    """Raise UserError if, by its record, the model was trained on other item tokens."""
    if (model / "stage.json").is_file() and not read_same_items(model, corpus):
        raise UserError(f"{corpus}: is not the corpus that the model in {model} was trained on; train it again")


def read_same_items(made: Path, corpus: Path) -> bool:
    """Tell whether, by its record, the stage in the folder ``made`` read the item tokens of ``corpus``, or none."""
    inputs = read_record(made / "stage.json")["inputs"]
    read = [value for path, value in inputs.items() if Path(path).name == "item_tokens.parquet"]
    return not read or read[0] == digest(corpus / "item_tokens.parquet")

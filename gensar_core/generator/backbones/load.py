"""Build the model that training starts from: a T5 from scratch, or a pretrained one with rows for corpus tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gensar_core.config.generators import TrainingSettings
from gensar_core.corpora import read as corpora
from gensar_core.embeddings.tokenizer import load_corpus_tokenizer
from gensar_core.errors import UserError
from gensar_core.generator.backbones.t5 import Backbone
from gensar_core.generator.backbones.token_rows import add_corpus_tokens
from gensar_core.nn.t5 import load_t5, t5_from_scratch


def build(settings: TrainingSettings, corpus: Path, seed: int, start_from: Path | None = None) -> Backbone:
    """Build the model that training starts from, float32, on the CPU.

    ``start_from`` is the folder of a trained generator, which then replaces the backbone. Raises UserError if a
    pretrained model cannot be loaded, is not a T5, or its vocabulary differs from that of the corpus' tokenizer.
    """
    vocabulary = corpora.vocabulary_size(corpus)
    tokenizer = load_corpus_tokenizer(corpus / "tokenizer")
    if start_from is None and settings.backbone == "scratch":
        model = t5_from_scratch(settings.size, vocabulary, tokenizer, seed)
    else:
        name = settings.backbone if start_from is None else str(start_from)
        model = load_t5(name)
        _check_ends(model, name, tokenizer, corpus)
        add_corpus_tokens(model, name, tokenizer, corpus, seed)
    model.config.identifier_likelihood = settings.likelihood
    return model


def _check_ends(model: Backbone, name: str, tokenizer: Any, corpus: Path) -> None:
    for token in ("pad_token_id", "eos_token_id"):
        wanted, given = getattr(model.config, token), getattr(tokenizer, token)
        if wanted != given:
            raise UserError(
                f"backbone: {name!r} has {token} {wanted}, the tokenizer of {corpus} has {given}; "
                "set the corpus' tokenizer to this model"
            )

"""Build the model that training starts from: a T5 from scratch, or a pretrained one with rows for corpus tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gensar_core.config.generators import TrainingSettings
from gensar_core.corpora import read as corpora
from gensar_core.embeddings.tokenizer import load_corpus_tokenizer
from gensar_core.errors import UserError
from gensar_core.generator.backbones.t5 import Backbone
from gensar_core.generator.backbones.token_rows import add_corpus_tokens, token_tables
from gensar_core.generator.backbones.whole_words import add_whole_words, load_whole_words
from gensar_core.nn.t5 import load_t5, scales_outputs, t5_from_scratch
from gensar_core.runtime.seeds import derive_seed


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
        load_whole_words(model, Path(name), tokenizer, corpus)
    model.config.identifier_likelihood = settings.likelihood
    if settings.untied_output and len(token_tables(model)) == 1:
        _untie(model, seed)
    if settings.whole_word_embedding and not hasattr(model, "whole_words"):
        add_whole_words(model, tokenizer, corpus, seed)
    return model


def _untie(model: Backbone, seed: int) -> None:
    """Replace the output matrix by a fresh linear layer; outputs keep their scale."""
    model.config.scale_decoder_outputs = scales_outputs(model)
    model.config.tie_word_embeddings = False
    vocabulary, width = model.shared.weight.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "output matrix"))
        model.lm_head = torch.nn.Linear(width, vocabulary, bias=False)


def _check_ends(model: Backbone, name: str, tokenizer: Any, corpus: Path) -> None:
    for token in ("pad_token_id", "eos_token_id"):
        wanted, given = getattr(model.config, token), getattr(tokenizer, token)
        if wanted != given:
            raise UserError(
                f"backbone: {name!r} has {token} {wanted}, the tokenizer of {corpus} has {given}; "
                "set the corpus' tokenizer to this model"
            )

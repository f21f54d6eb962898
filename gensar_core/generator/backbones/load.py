"""Build the model that training starts from: a T5 from scratch, or a pretrained one with rows for corpus tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from gensar_core.config.generators import ScratchSize, TrainingSettings
from gensar_core.corpora import read as corpora
from gensar_core.corpora.tokenizer import load_corpus_tokenizer
from gensar_core.errors import UserError
from gensar_core.generator.backbones.t5 import Backbone
from gensar_core.generator.backbones.token_rows import add_corpus_tokens
from gensar_core.runtime.hub import Hub
from gensar_core.runtime.seeds import derive_seed


def build(settings: TrainingSettings, corpus: Path, seed: int, start_from: Path | None = None) -> Backbone:
    """Build the model that training starts from, float32, on the CPU.

    ``start_from`` is the folder of a trained generator, which then replaces the backbone. Raises UserError if a
    pretrained model cannot be loaded, is not a T5, or its vocabulary differs from that of the corpus' tokenizer.
    """
    vocabulary = corpora.vocabulary_size(corpus)
    tokenizer = load_corpus_tokenizer(corpus / "tokenizer")
    if start_from is None and settings.backbone == "scratch":
        model = from_scratch(settings.size, vocabulary, tokenizer, seed)
    else:
        name = settings.backbone if start_from is None else str(start_from)
        model = load_model(name)
        _check_ends(model, name, tokenizer, corpus)
        add_corpus_tokens(model, name, tokenizer, corpus, seed)
    model.config.identifier_likelihood = settings.likelihood
    return model


def from_scratch(size: ScratchSize, vocabulary: int, tokenizer: Any, seed: int) -> Backbone:
    """Build a T5 (first version: ReLU, tied embeddings) with its authors' initialization, drawn from ``seed``.

    Embeddings are drawn from N(0, 1) and outputs scaled by d_model**-0.5, so the first logits have about unit variance.
    """
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    start = {"decoder_start_token_id": tokenizer.pad_token_id}
    config = T5Config(vocab_size=vocabulary, feed_forward_proj="relu", **ends, **start, **size.model_dump())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return T5ForConditionalGeneration(config)


def load_model(name: str) -> Backbone:
    """Load a T5 or mT5, float32, by hub name or local folder. Raises UserError if it is missing or of another kind."""
    hub = Hub(name)
    try:
        model_type = AutoConfig.from_pretrained(name, **hub.options).model_type
    except Exception as error:
        raise unloadable(name, hub.reason(error)) from error
    if model_type not in ("t5", "mt5"):
        raise UserError(
            f"backbone: {name!r} is a {model_type}; name a T5 or mT5 model, write 'scratch', or 'causal:{name}' for a "
            "causal language model"
        )
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32, **hub.options)
    except Exception as error:
        raise unloadable(name, hub.reason(error)) from error
    assert isinstance(model, T5ForConditionalGeneration | MT5ForConditionalGeneration)
    if model.lm_head.weight is not model.shared.weight:
        # Transformers treats every T5 as tied and keeps a separate output matrix only until the embeddings grow.
        model.config.tie_word_embeddings = False
    return model


def _check_ends(model: Backbone, name: str, tokenizer: Any, corpus: Path) -> None:
    for token in ("pad_token_id", "eos_token_id"):
        wanted, given = getattr(model.config, token), getattr(tokenizer, token)
        if wanted != given:
            raise UserError(
                f"backbone: {name!r} has {token} {wanted}, the tokenizer of {corpus} has {given}; "
                "set the corpus' tokenizer to this model"
            )


def unloadable(name: str, reason: str) -> UserError:
    """Return the error of a pretrained model that cannot be loaded."""
    return UserError(
        f"backbone: {name!r} cannot be loaded ({reason}); download it while online and name the local "
        "folder, or train from scratch"
    )

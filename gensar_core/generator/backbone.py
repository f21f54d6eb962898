"""The model before training: a T5 built from scratch, or a pretrained one with rows for the new tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from gensar_core.config.generators import ScratchSize, TrainingSettings
from gensar_core.errors import UserError
from gensar_core.generator import corpus as corpora
from gensar_core.generator.t5 import T5
from gensar_core.runtime.hub import Hub, first_line
from gensar_core.runtime.seeds import derive_seed


def build(settings: TrainingSettings, corpus: Path, seed: int) -> T5:
    """The model that training starts from, float32, on the CPU.

    Raises UserError when a pretrained model cannot be loaded, is no T5, or has another vocabulary than the tokenizer
    of the corpus.
    """
    vocabulary = corpora.vocabulary_size(corpus)
    tokenizer = load_tokenizer(corpus / "tokenizer")
    if settings.backbone == "scratch":
        model = from_scratch(settings.size, vocabulary, tokenizer, seed)
    else:
        model = load_model(settings.backbone)
        _check_tokenizer(model, settings.backbone, tokenizer, corpus)
        add_tokens(model, corpora.base_vocabulary_size(corpus), vocabulary, seed)
    model.config.identifier_likelihood = settings.likelihood
    return model


def from_scratch(size: ScratchSize, vocabulary: int, tokenizer: Any, seed: int) -> T5:
    """A T5 (first version: ReLU, tied embeddings) with the initialization of its authors, drawn from ``seed``.

    Embeddings are N(0, 1) and outputs scaled by d_model**-0.5, so first logits have about unit variance.
    """
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    start = {"decoder_start_token_id": tokenizer.pad_token_id}
    config = T5Config(vocab_size=vocabulary, feed_forward_proj="relu", **ends, **start, **size.model_dump())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return T5ForConditionalGeneration(config)


def add_tokens(model: T5, known: int, vocabulary: int, seed: int) -> None:
    """Give token ids ``known`` to ``vocabulary`` fresh rows in the embeddings (and in an output matrix of its own).

    Each dimension is drawn from the normal distribution of the known rows in this dimension: the new tokens then look
    to the trained layers like ordinary words, and no two are alike. (Rows of zero or unit scale would enter a
    pretrained network at a size it has never seen.) Rows that the model has in reserve are overwritten as well: they
    were never trained.
    """
    rows = max(vocabulary, model.get_input_embeddings().weight.shape[0])
    model.resize_token_embeddings(rows, mean_resizing=False)
    tables = [model.get_input_embeddings().weight]
    if model.lm_head.weight is not tables[0]:
        tables.append(model.lm_head.weight)
    for number, table in enumerate(tables):
        trained = table.data[:known].double()
        draw = torch.Generator().manual_seed(derive_seed(seed, "new tokens", number))
        noise = torch.randn((vocabulary - known, table.shape[1]), generator=draw, dtype=torch.float64)
        fresh = trained.mean(0) + noise * trained.std(0, correction=0)
        table.data[known:vocabulary] = fresh.to(table.dtype)


def over_catalogue(model: T5) -> bool:
    """Whether this model's identifiers are scored by the softmax over the catalogue: its config.json says so."""
    return bool(getattr(model.config, "identifier_likelihood", "vocabulary") == "catalogue")


def load_model(name: str) -> T5:
    """A T5 or mT5 by hub name or local folder, float32. Raises UserError when it is not there or another kind."""
    hub = Hub(name)
    try:
        model_type = AutoConfig.from_pretrained(name, **hub.options).model_type
    except Exception as error:
        raise _unloadable(name, hub.reason(error)) from error
    if model_type not in ("t5", "mt5"):
        raise UserError(f"backbone: {name!r} is a {model_type}; name a T5 or mT5 model, or write 'scratch'")
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32, **hub.options)
    except Exception as error:
        raise _unloadable(name, hub.reason(error)) from error
    assert isinstance(model, T5ForConditionalGeneration | MT5ForConditionalGeneration)
    return model


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a corpus or a trained model. Raises UserError when the folder holds none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; build the corpus first")
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise UserError(f"{folder}: holds no tokenizer that opens ({first_line(error)}); build it again") from error


def _check_tokenizer(model: T5, name: str, tokenizer: Any, corpus: Path) -> None:
    known, have = corpora.base_vocabulary_size(corpus), model.get_input_embeddings().weight.shape[0]
    if known > have:
        raise UserError(
            f"backbone: {name!r} has {have} embeddings, but the tokenizer of {corpus} has {known} tokens of its own; "
            "set the corpus' tokenizer to this model"
        )
    for token in ("pad_token_id", "eos_token_id"):
        wanted, given = getattr(model.config, token), getattr(tokenizer, token)
        if wanted != given:
            raise UserError(
                f"backbone: {name!r} has {token} {wanted}, the tokenizer of {corpus} has {given}; "
                "set the corpus' tokenizer to this model"
            )


def _unloadable(name: str, reason: str) -> UserError:
    return UserError(
        f"backbone: {name!r} cannot be loaded ({reason}); download it while online and name the local "
        "folder, or write 'scratch'"
    )

"""Build a T5 from scratch, or load a pretrained one."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from gensar_core.config.generators import ScratchSize
from gensar_core.errors import UserError
from gensar_core.runtime.hub import Hub
from gensar_core.runtime.seeds import derive_seed


def t5_from_scratch(size: ScratchSize, vocabulary: int, tokenizer: Any, seed: int) -> Any:
    """Build a T5 (first version: ReLU, tied embeddings) with its authors' initialization, drawn from ``seed``.

    Embeddings are drawn from N(0, 1) and outputs scaled by d_model**-0.5, so the first logits have about unit variance.
    """
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    start = {"decoder_start_token_id": tokenizer.pad_token_id}
    config = transformers.T5Config(
        vocab_size=vocabulary, feed_forward_proj="relu", **ends, **start, **size.model_dump()
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return transformers.T5ForConditionalGeneration(config)


def load_t5(name: str) -> Any:
    """Load a T5 or mT5, float32, by hub name or local folder. Raises UserError if it is missing or of another kind."""
    hub = Hub(name)
    try:
        model_type = transformers.AutoConfig.from_pretrained(name, **hub.options).model_type
    except Exception as error:
        raise unloadable(name, hub.reason(error)) from error
    if model_type not in ("t5", "mt5"):
        raise UserError(
            f"backbone: {name!r} is a {model_type}; name a T5 or mT5 model, write 'scratch', or 'causal:{name}' for a "
            "causal language model"
        )
    try:
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32, **hub.options)
    except Exception as error:
        raise unloadable(name, hub.reason(error)) from error
    assert isinstance(model, transformers.T5ForConditionalGeneration | transformers.MT5ForConditionalGeneration)
    if model.lm_head.weight is not model.shared.weight:
        # Transformers treats every T5 as tied and keeps a separate output matrix only until the embeddings grow.
        model.config.tie_word_embeddings = False
    return model


def t5_of_tokenizer(backbone: str, size: ScratchSize, tokenizer: Any, tokenizer_name: str, seed: int) -> Any:
    """Build the T5 that ``backbone`` names, `scratch` for a new one; it reads the tokens of ``tokenizer``.

    Raises UserError if a pretrained T5 cannot be loaded, or numbers its tokens otherwise.
    """
    if backbone == "scratch":
        return t5_from_scratch(size, len(tokenizer), tokenizer, seed)
    model = load_t5(backbone)
    embeddings = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embeddings or model.config.eos_token_id != tokenizer.eos_token_id:
        raise UserError(
            f"backbone: {backbone!r} has {embeddings} embeddings and ends by token {model.config.eos_token_id}, the "
            f"tokenizer {tokenizer_name!r} has {len(tokenizer)} tokens and ends by {tokenizer.eos_token_id}; name the "
            "tokenizer of this model"
        )
    return model


def scales_outputs(model: Any) -> bool:
    """Return whether decoder outputs are scaled by d_model**-0.5: true for the first T5, false for T5 1.1 and mT5."""
    config = model.config
    if config.model_type == "mt5":
        return False
    # Later versions of Transformers separate this switch from weight tying.
    return bool(getattr(config, "scale_decoder_outputs", config.tie_word_embeddings))


def unloadable(name: str, reason: str) -> UserError:
    """Return the error of a pretrained model that cannot be loaded."""
    return UserError(
        f"backbone: {name!r} cannot be loaded ({reason}); download it while online and name the local "
        "folder, or train from scratch"
    )

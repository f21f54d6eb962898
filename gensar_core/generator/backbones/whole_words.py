"""Add P5's whole-word embedding to a T5 (Geng et al., RecSys 2022): tokens learn which word of the prompt they are of.

A vector for the number of the word is added to the token embeddings of the encoder. The library knows no such layer, so
its vectors lie in `whole_words.safetensors` beside the Hugging Face folder, which opens without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional

from gensar_core.config.prompts import BLANK
from gensar_core.corpora.instructions import load_prompt_file
from gensar_core.corpora.read import new_tokens
from gensar_core.corpora.tasks import BEHAVIOR_TOKENS
from gensar_core.corpora.user_words import user_tokens
from gensar_core.errors import UserError
from gensar_core.runtime.seeds import derive_seed

_FILE: Final = "whole_words.safetensors"
#: Number of vectors, as in P5; words past the last share it. The first is for the end of sequence.
_WORDS: Final = 512
#: What a token does: it continues a word, begins one, is a code of an identifier, or ends the sequence.
_CONTINUES, _BEGINS, _CODE, _END = range(4)


class WholeWords(torch.nn.Module):
    """Hold a vector for each word number, and what each token of the vocabulary does to the count of words."""

    role: torch.Tensor

    def __init__(self, vectors: torch.Tensor, role: torch.Tensor) -> None:
        super().__init__()
        self.vectors = torch.nn.Parameter(vectors)
        self.register_buffer("role", role, persistent=False)

    def numbers(self, tokens: torch.Tensor) -> torch.Tensor:
        """Count the words in ``tokens`` [B, L], from 1; padding (negative) and the end of sequence are 0.

        A word begins with a blank. The codes of an identifier are one word, a behavior or user token is another.
        """
        role = self.role[tokens.clamp_min(0)]
        code = role == _CODE
        after_code = functional.pad(code[:, :-1], (1, 0))
        begins = (role == _BEGINS) | (code & ~after_code)
        numbers = begins.cumsum(1).clamp(1, len(self.vectors) - 1)
        return numbers.masked_fill((role == _END) | (tokens < 0), 0)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the vectors [B, L, d] to add to the embeddings of ``tokens`` [B, L]."""
        return functional.embedding(self.numbers(tokens), self.vectors)


def add_whole_words(model: Any, tokenizer: Any, corpus: Path, seed: int) -> None:
    """Give a T5 fresh vectors for whole words, of unit variance."""
    draw = torch.Generator().manual_seed(derive_seed(seed, "whole words"))
    vectors = torch.randn((_WORDS, model.shared.weight.shape[1]), generator=draw)
    model.whole_words = WholeWords(vectors, _roles(tokenizer, corpus))


def load_whole_words(model: Any, folder: Path, tokenizer: Any, corpus: Path) -> None:
    """Give a T5 the vectors in the ``folder`` that it came from, if any. Raises UserError on a broken file."""
    if not (folder / _FILE).is_file():
        return
    try:
        vectors = load_file(folder / _FILE)["vectors"]
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{folder / _FILE}: is not readable ({error}); train the generator again") from error
    if vectors.shape[1:] != model.shared.weight.shape[1:]:
        raise UserError(f"{folder / _FILE}: is of another model; train the generator again")
    model.whole_words = WholeWords(vectors, _roles(tokenizer, corpus))


def save_model(model: Any, folder: Path) -> None:
    """Write the Hugging Face folder, and the vectors of whole words beside it."""
    whole_words = model._modules.pop("whole_words", None)
    model.save_pretrained(folder)
    if whole_words is not None:
        model.whole_words = whole_words
        save_file({"vectors": whole_words.vectors.detach().contiguous()}, folder / _FILE)


def _roles(tokenizer: Any, corpus: Path) -> torch.Tensor:
    """Return what each token does, uint8 [vocabulary]."""
    words = {*BEHAVIOR_TOKENS, *user_tokens(load_prompt_file(corpus).user_tokens)}
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    role = torch.tensor([_BEGINS if piece.startswith(BLANK) else _CONTINUES for piece in pieces], dtype=torch.uint8)
    for token, number in new_tokens(corpus).items():
        role[number] = _BEGINS if token in words else _CODE
    role[tokenizer.eos_token_id] = _END
    return role

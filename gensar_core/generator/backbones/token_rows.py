"""Give a pretrained model rows for the tokens that a corpus adds to its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import transformers

from gensar_core.corpora import read as corpora
from gensar_core.embeddings.tokenizer import load_corpus_tokenizer
from gensar_core.errors import UserError
from gensar_core.runtime.hub import Hub
from gensar_core.runtime.progress import say
from gensar_core.runtime.seeds import derive_seed

#: Files that a folder with a tokenizer holds at least one of.
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer_config.json", "spiece.model")


def token_tables(model: Any) -> list[torch.nn.Parameter]:
    """Return the embeddings [vocabulary, d] of a Hugging Face model, and its output matrix if it is a separate one."""
    embeddings, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return [embeddings] if output is embeddings else [embeddings, output]


def add_corpus_tokens(model: Any, name: str, tokenizer: Any, corpus: Path, seed: int) -> None:
    """Give the tokens of a corpus rows in a model; those that the model was trained with keep theirs, by name.

    Raises UserError if the model's own tokenizer is not that of the corpus.
    """
    words, embeddings = corpora.base_vocabulary_size(corpus), model.get_input_embeddings().weight.shape[0]
    if words > embeddings:
        raise UserError(
            f"backbone: {name!r} has {embeddings} embeddings, but the tokenizer of {corpus} has {words} tokens of its "
            "own; set the corpus' tokenizer to this model"
        )
    trained_rows = _trained_rows(model, name, tokenizer, corpus)
    add_token_rows(model, words, corpora.vocabulary_size(corpus), seed, trained_rows)


def add_token_rows(model: Any, words: int, vocabulary: int, seed: int, trained_rows: Mapping[int, int]) -> None:
    """Add rows for token ids ``words`` to ``vocabulary`` to the embeddings (and to a separate output matrix).

    ``trained_rows`` maps the ids of tokens that the model was trained with to their rows in the model. Every other
    token gets a fresh row, each dimension drawn from the normal distribution of the words' rows in that dimension. To
    the trained layers such rows look like ordinary words, and no two are alike. (Rows of zero or unit scale would enter
    a pretrained network at a size it has never seen.) A token's draw does not depend on which others were trained. The
    model's spare rows are overwritten as well, because they were never trained.
    """
    trained = [table.data[list(trained_rows.values())].clone() for table in token_tables(model)]
    # A row past the vocabulary may belong to a token that now has another id, and would compete with it.
    rows = vocabulary if trained_rows else max(vocabulary, model.get_input_embeddings().weight.shape[0])
    model.resize_token_embeddings(rows, mean_resizing=False)
    for number, table in enumerate(token_tables(model)):
        word_rows = table.data[:words].double()
        draw = torch.Generator().manual_seed(derive_seed(seed, "new tokens", number))
        noise = torch.randn((vocabulary - words, table.shape[1]), generator=draw, dtype=torch.float64)
        fresh = word_rows.mean(0) + noise * word_rows.std(0, correction=0)
        table.data[words:vocabulary] = fresh.to(table.dtype)
        table.data[list(trained_rows)] = trained[number]


def _trained_rows(model: Any, name: str, tokenizer: Any, corpus: Path) -> dict[int, int]:
    """Map the ids of identifier and behavior tokens that the model has, by name, to its rows for them.

    Raises UserError if the two tokenizers number their words differently.
    """
    model_ids, rows, new_ids = _tokens_of(name), len(model.get_input_embeddings().weight), corpora.new_tokens(corpus)
    if model_ids:
        words = tokenizer.convert_ids_to_tokens(list(range(corpora.base_vocabulary_size(corpus))))
        for number, word in enumerate(words):
            if model_ids.get(word) != number:
                has = f"has it as {model_ids[word]}" if word in model_ids else "does not have it"
                raise UserError(
                    f"backbone: token {word!r} is {number} in the tokenizer of {corpus}, that of {name!r} {has}; give "
                    "the corpus the tokenizer that this model was trained with"
                )
    trained_rows = {number: model_ids[token] for token, number in new_ids.items() if model_ids.get(token, rows) < rows}
    say(
        f"backbone: of {len(new_ids):,} identifier and behavior tokens, {len(trained_rows):,} are known to {name} "
        "and keep their rows; the others begin at random"
    )
    return trained_rows


def _tokens_of(name: str) -> dict[str, int]:
    """Return the ids of all tokens in a backbone's tokenizer; empty if it comes without one."""
    folder = Path(name)
    if folder.is_dir():
        has = any((folder / file).is_file() for file in _TOKENIZERS)
        return dict(load_corpus_tokenizer(folder).get_vocab()) if has else {}
    try:
        return dict(transformers.AutoTokenizer.from_pretrained(name, **Hub(name).options).get_vocab())
    except Exception:
        # The hub's client has no common exception for missing and unreachable files.
        return {}

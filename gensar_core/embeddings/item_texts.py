"""Prepare item texts and queries for prompts: one blank between words, no reserved tokens, length capped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
import polars as pl
import transformers

from gensar_core.embeddings.tokenizer import TRAINED, load_tokenizer, train_tokenizer, word_lead
from gensar_core.runtime.arrays import Ragged

# Texts tokenized in one call; bounds the memory of the tokenizer's results.
_BATCH: Final = 8192

# Characters treated as blanks: white space, control characters, the zero-width space, the byte order mark, and U+2581,
# which tokenizers write for a blank.
_BLANKS: Final = r"[\s\p{Cc}\u{200B}\u{FEFF}\u{2581}]+"


def clean(texts: pl.Series, reserved: Sequence[str]) -> tuple[list[str], int]:
    """Reduce blanks to single ones and remove the tokenizer's tokens; count the texts that held such a token.

    An outside text that spells a token (`</s>`, `<R_I>`) would otherwise be read as that token.
    """
    spelling = texts.str.contains_any(list(reserved)) if reserved else pl.Series([False]).head(0)
    cleaned = texts.str.replace_many(list(reserved), [" "] * len(reserved)) if spelling.any() else texts
    cleaned = cleaned.str.replace_all(_BLANKS, " ").str.strip_chars(" ")
    return cleaned.to_list(), int(spelling.sum())


class Encoder:
    """Encode texts as token ids, many at a time, without an end of sequence."""

    def __init__(self, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._lead = word_lead(tokenizer) or ""
        self.unknown_id: int | None = tokenizer.unk_token_id

    def encode(self, texts: Sequence[str]) -> Ragged:
        """Return the token ids of each text, int32."""
        lengths = np.zeros(len(texts), dtype=np.int64)
        values = []
        for start in range(0, len(texts), _BATCH):
            batch = self._backend.encode_batch_fast(self._led(texts[start : start + _BATCH]), add_special_tokens=False)
            rows = [encoding.ids for encoding in batch]
            lengths[start : start + len(rows)] = [len(row) for row in rows]
            values.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32))
        return Ragged.from_lengths(lengths, np.concatenate(values) if values else np.zeros(0, dtype=np.int32))

    def after_token(self, text: str, token: str) -> np.ndarray:
        """Return the token ids of a text that directly follows the added ``token``, int32."""
        ids = self._backend.encode(token + text, add_special_tokens=False).ids
        return np.asarray(ids[1:], dtype=np.int32)

    def after_word(self, text: str) -> np.ndarray:
        """Return the token ids of a text, such as punctuation, that directly follows a word, int32."""
        rows = self.encode(["a", "a" + text])
        return rows.values[rows.offsets[1] + rows.lengths[0] :]

    def cut(self, texts: Sequence[str], limit: int) -> list[str]:
        """Cut each text to its longest beginning that ends with a word and has at most ``limit`` tokens.

        If the first word alone has more, it is cut inside.
        """
        cut = []
        for start in range(0, len(texts), _BATCH):
            batch = self._led(texts[start : start + _BATCH])
            encodings = self._backend.encode_batch(batch, add_special_tokens=False)
            cut += [
                self._beginning(text, encoding.offsets, limit).removeprefix(self._lead)
                for text, encoding in zip(batch, encodings, strict=True)
            ]
        return cut

    def _led(self, texts: Sequence[str]) -> list[str]:
        """Put the lead before every text that is not empty."""
        return [self._lead + text if text else text for text in texts]

    def _beginning(self, text: str, spans: list[tuple[int, int]], limit: int) -> str:
        if len(spans) <= limit:
            return text
        for count in range(limit, 0, -1):
            # A token's span may or may not include the blank before it.
            if " " in text[spans[count - 1][1] : spans[count][0] + 1]:
                return text[: spans[count - 1][1]].rstrip()
        for count in range(limit, 0, -1):
            beginning = text[: spans[count - 1][1]]
            if len(self._backend.encode(beginning, add_special_tokens=False).ids) <= limit:
                return beginning
        return ""


@dataclass(frozen=True)
class Texts:
    """Hold the texts of all items or all queries, in the order of their ids, and their tokens.

    ``cut`` counts shortened texts, ``reserved`` texts that spelled a token, ``unknown`` tokens for characters outside
    the vocabulary.
    """

    texts: list[str]
    tokens: Ragged
    cut: int
    reserved: int
    unknown: int

    @classmethod
    def prepare(cls, column: pl.Series, encoder: Encoder, limit: int, reserved: Sequence[str]) -> Texts:
        """Clean, tokenize and cap a column of texts."""
        texts, with_reserved = clean(column, reserved)
        tokens = encoder.encode(texts)
        long = np.flatnonzero(tokens.lengths > limit)
        if len(long):
            shorter = encoder.cut([texts[row] for row in long.tolist()], limit)
            for row, text in zip(long.tolist(), shorter, strict=True):
                texts[row] = text
            tokens = _replace(tokens, long, encoder.encode(shorter))
        unknown = int((tokens.values == encoder.unknown_id).sum())
        return cls(texts, tokens, len(long), with_reserved, unknown)

    def counts(self) -> dict[str, int]:
        """Return counts for the stage's record."""
        return {
            "texts": len(self.texts),
            "empty": int(self.empty.sum()),
            "cut": self.cut,
            "reserved_words": self.reserved,
            "unknown_tokens": self.unknown,
        }

    @property
    def empty(self) -> np.ndarray:
        """Mark the texts without tokens, bool [texts]."""
        empty: np.ndarray = self.tokens.lengths == 0
        return empty


def tokenize_catalogue(
    items: pl.Series, queries: pl.Series, tokenizer: str, vocabulary_size: int, limits: tuple[int, int]
) -> tuple[transformers.PreTrainedTokenizerBase, Texts, Texts]:
    """Load the ``tokenizer``, or train one, and prepare the texts of items and of queries with it.

    ``limits`` caps the tokens of an item's text and of a query. Raises UserError when the tokenizer cannot be loaded.
    """
    if tokenizer == TRAINED:
        loaded = train_tokenizer(chain(clean(items, [])[0], clean(queries, [])[0]), vocabulary_size)
    else:
        loaded = load_tokenizer(tokenizer)
    encoder, reserved = Encoder(loaded), sorted(loaded.get_added_vocab())
    item_texts, query_texts = (
        Texts.prepare(column, encoder, limit, reserved) for column, limit in zip((items, queries), limits, strict=True)
    )
    return loaded, item_texts, query_texts


def _replace(rows: Ragged, places: np.ndarray, by: Ragged) -> Ragged:
    """Replace the rows at ``places`` with those of ``by``."""
    both = Ragged(
        np.concatenate([rows.offsets, rows.offsets[-1] + by.offsets[1:]]), np.concatenate([rows.values, by.values])
    )
    order = np.arange(len(rows))
    order[places] = len(rows) + np.arange(len(places))
    return both.take(order)

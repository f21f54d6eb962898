"""Tokenize and number the token pieces of prompts and targets, each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gensar_core.corpora.tasks import BEHAVIOR_TOKENS, Kind, Value
from gensar_core.embeddings.item_texts import Encoder, Texts
from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.schema import Side


class Pieces:
    """Hold a numbered collection of token pieces, grown on demand.

    A piece is the end of sequence or a value (an identifier, a query, a description) with its behavior token before it
    and the punctuation that follows it without a blank. Every piece ends where a blank or an added token follows, so
    adjacent pieces equal the whole text tokenized at once.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokens: Mapping[str, int],
        identifiers: Mapping[Side, Ragged],
        queries: Texts,
        descriptions: Texts,
        pseudo: Texts | None = None,
        *,
        titles: Texts | None = None,
        others: Mapping[Kind, Ragged] | None = None,
        behavior_tokens: bool,
        eos_id: int,
    ) -> None:
        """Take the ids of the added tokens, ``tokens``, and the token ids of every item, ``identifiers``.

        An identifier is made of added tokens, or of the tokens of a text. ``others`` holds the token ids of what no
        punctuation follows: users, passages, key terms. It and the texts may be left out where no prompt shows them.
        """
        self._encoder = encoder
        self._tokens = tokens
        self._identifiers = identifiers
        self._texts = {"query": queries, "description": descriptions}
        if pseudo is not None:
            self._texts["pseudo"] = pseudo
        if titles is not None:
            self._texts["title"] = titles
        self._others = others or {}
        self._behavior_tokens = behavior_tokens
        self._numbers: dict[object, int] = {}
        self._blocks: list[Ragged] = []
        self._table: Ragged | None = None
        self._size = 0
        self.eos = self._number("eos", lambda: _token_rows(eos_id, 1))

    @property
    def table(self) -> Ragged:
        """Return the token ids of all pieces so far, by piece number."""
        if self._table is None:
            self._table = stack(self._blocks)
            self._blocks = [self._table]
        return self._table

    def values(self, value: Value, tail: str = "") -> int:
        """Return the piece number of object 0 as ``value`` with ``tail`` after it; add i for object i."""
        return self._number((value, tail), lambda: self._value_rows(value, tail))

    def _value_rows(self, value: Value, tail: str) -> Ragged:
        rows = self._tailed(value.kind, tail)
        if value.behavior is None or not self._behavior_tokens:
            return rows
        token = self._tokens[BEHAVIOR_TOKENS[value.behavior]]
        return beside(_token_rows(token, len(rows)), rows)

    def _tailed(self, kind: Kind, tail: str) -> Ragged:
        if kind == "semantic" or kind == "collaborative":
            rows = self._identifiers[kind]
            if not tail or not len(rows):
                return rows
            return beside(rows, repeated(self._after(tail, rows), len(rows)))
        if kind in self._others:
            return self._others[kind]
        texts = self._texts[kind]
        return self._encoder.encode([text + tail for text in texts.texts]) if tail else texts.tokens

    def _after(self, tail: str, rows: Ragged) -> np.ndarray:
        """Return the tokens of a text right after identifiers, which keep their own tokens."""
        last = rows.values[rows.offsets[1] - 1]
        if last not in self._tokens.values():
            return self._encoder.after_word(tail)
        # Any added token may replace the identifier's last one: text after it is tokenized alike.
        return self._encoder.after_token(tail, next(iter(self._tokens)))

    def _number(self, key: object, make: Callable[[], Ragged]) -> int:
        if key not in self._numbers:
            block = make()
            self._numbers[key] = self._size
            self._blocks.append(block)
            self._size += len(block)
            self._table = None
        return self._numbers[key]


def stack(parts: Sequence[Ragged]) -> Ragged:
    """Stack the rows of all parts, one part after the other."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged.from_lengths(lengths, np.concatenate([part.values for part in parts]))


def beside(*parts: Ragged) -> Ragged:
    """Join row i of every part, one after the other; all parts have equally many rows."""
    lengths = sum((part.lengths for part in parts), start=np.zeros(len(parts[0]), dtype=np.int64))
    joined = Ragged.from_lengths(lengths, np.empty(int(lengths.sum()), dtype=parts[0].values.dtype))
    starts = joined.offsets[:-1].copy()
    for part in parts:
        joined.values[ranges(starts, part.lengths)] = part.values
        starts += part.lengths
    return joined


def repeated(row: np.ndarray, count: int) -> Ragged:
    """Repeat a row ``count`` times."""
    return Ragged.from_lengths(np.full(count, len(row)), np.tile(row, count))


def _token_rows(token: int, count: int) -> Ragged:
    return repeated(np.asarray([token], dtype=np.int32), count)

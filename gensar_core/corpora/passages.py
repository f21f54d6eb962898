"""Cut item texts into passages, and choose their key terms: what WebUltron learns an item by (Zhou et al., TKDE 2023).

Sizes are those of the authors' training data: up to ten passages an item, each its title and some sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
import polars as pl

from gensar_core.embeddings.item_texts import Encoder, Texts, clean
from gensar_core.runtime.arrays import Ragged, ranges

_PASSAGES: Final = 10
#: Between two sentences; after the full-width marks of scripts without blanks, there is none.
_BETWEEN: Final = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*")


@dataclass(frozen=True)
class Passages:
    """Hold passages of all items and the number of each one's item, ``owner`` [passages], ascending."""

    owner: np.ndarray
    texts: Texts

    @classmethod
    def cut(
        cls, titles: pl.Series, descriptions: pl.Series, encoder: Encoder, limit: int, reserved: Sequence[str]
    ) -> Passages:
        """Cut the items' descriptions into passages.

        A passage is the title and the next sentences of the description, up to the one with which it has ``limit``
        tokens; what is beyond them is cut off. Without a description the title is the only passage.
        """
        heads, bodies = (clean(texts, reserved)[0] for texts in (titles, descriptions))
        room = (limit - encoder.encode(heads).lengths).tolist()
        sentences = [_BETWEEN.split(body) for body in bodies]
        sizes = iter(encoder.encode(list(chain.from_iterable(sentences))).lengths.tolist())
        owner: list[int] = []
        texts: list[str] = []
        for item, (head, body) in enumerate(zip(heads, sentences, strict=True)):
            passages: list[list[str]] = []
            size = room[item]
            for sentence, length in zip(body, sizes, strict=False):
                if size >= room[item]:
                    passages.append([head])
                    size = 0
                passages[-1].append(sentence)
                size += length
            # A title without room beside it is the same passage every time.
            kept = passages[: _PASSAGES if room[item] > 0 else 1]
            owner += [item] * len(kept)
            texts += map(" ".join, kept)
        return cls(
            np.array(owner, dtype=np.int64),
            Texts.prepare(pl.Series(texts, dtype=pl.String), encoder, limit, reserved),
        )


def key_terms(texts: pl.Series, encoder: Encoder, limit: int, reserved: Sequence[str]) -> Ragged:
    """Return the tokens of largest TF-IDF of each text, in their order, at most ``limit``.

    The weight of a token is the number of times that the text holds it, times log(n / (1 + d)) where d of the n texts
    hold it. The threshold is the weight of the text's token that is number ``limit`` by weight; a short text keeps all.
    """
    tokens = encoder.encode(clean(texts, reserved)[0])
    if not len(tokens.values):
        return tokens
    width = int(tokens.values.max()) + 1
    pairs, pair, count = np.unique(tokens.rows * width + tokens.values, return_inverse=True, return_counts=True)
    held = np.bincount(pairs % width, minlength=width)
    weight = (count * np.log(len(tokens) / (1 + held[pairs % width])))[pair]
    ordered = weight[np.lexsort((-weight, tokens.rows))]
    threshold = ordered[tokens.offsets[:-1] + np.minimum(tokens.lengths, limit) - 1]
    kept = tokens.filter(weight >= threshold[tokens.rows])
    lengths = np.minimum(kept.lengths, limit)
    return Ragged.from_lengths(lengths, kept.values[ranges(kept.offsets[:-1], lengths)])

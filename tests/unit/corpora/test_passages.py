"""Passages and key terms of item texts, by hand and by plain loops."""

from __future__ import annotations

import math
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensar_core.corpora.passages import Passages, key_terms
from gensar_core.embeddings.item_texts import Encoder
from gensar_core.embeddings.tokenizer import train_tokenizer

LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """Each word of one letter is a token, and each full stop one more."""
    return Encoder(train_tokenizer([" ".join(f"{letter}." for letter in LETTERS), " ".join(LETTERS)] * 40, 300))


def cut(encoder: Encoder, titles: list[str], descriptions: list[str], limit: int) -> list[tuple[int, str]]:
    passages = Passages.cut(pl.Series(titles), pl.Series(descriptions), encoder, limit, [])
    return list(zip(passages.owner.tolist(), passages.texts.texts, strict=True))


def test_a_passage_is_the_title_and_sentences_until_it_is_full(encoder: Encoder) -> None:
    assert encoder.encode(["a b.", "h"]).lengths.tolist() == [3, 1]
    # Of six tokens: the title and "a b." are four, "c." makes six; "d e f g." is six with the title, "h" is left.
    assert cut(encoder, ["h"], ["a b. c. d e f g. h"], 6) == [(0, "h a b. c."), (0, "h d e f g."), (0, "h h")]
    # Of five: the sentence that fills a passage is cut at its last word, and the next passage begins after it.
    assert cut(encoder, ["h"], ["a b. c. d e f g. h"], 5) == [(0, "h a b."), (0, "h d e f"), (0, "h h")]


def test_a_passage_is_kept_of_an_item_without_a_description_or_with_a_long_title(encoder: Encoder) -> None:
    assert cut(encoder, ["a b", "c d e"], ["", "f. g. h."], 3) == [(0, "a b"), (1, "c d e")]
    assert cut(encoder, [""], [""], 3) == [(0, "")]


def test_an_item_has_ten_passages_at_most(encoder: Encoder) -> None:
    passages = cut(encoder, ["a", "b"], ["c. " * 25, "d. " * 3], 3)
    assert passages == [(0, "a c.")] * 10 + [(1, "b d.")] * 3


def test_other_scripts_end_sentences_without_a_blank(encoder: Encoder) -> None:
    stop = "\N{IDEOGRAPHIC FULL STOP}"
    limit = int(encoder.encode([f"a b{stop}"]).lengths[0])
    assert cut(encoder, ["a"], [f"b{stop}c d"], limit) == [(0, f"a b{stop}"), (0, "a c d")]


@given(st.lists(st.text(LETTERS + " ", max_size=30), min_size=1, max_size=6), st.integers(1, 12))
def test_key_terms_are_those_of_a_plain_loop(encoder: Encoder, texts: list[str], limit: int) -> None:
    tokens = [encoder.encode([" ".join(text.split())]).values.tolist() for text in texts]
    held = Counter(token for text in tokens for token in set(text))
    found = key_terms(pl.Series(texts, dtype=pl.String), encoder, limit, [])
    for row, text in enumerate(tokens):
        weights = [text.count(token) * math.log(len(texts) / (1 + held[token])) for token in text]
        threshold = sorted(weights, reverse=True)[min(limit, len(text)) - 1] if text else 0.0
        terms = [token for token, weight in zip(text, weights, strict=True) if weight >= threshold - 1e-12]
        assert found.values[found.offsets[row] : found.offsets[row + 1]].tolist() == terms[:limit]


def test_what_all_texts_hold_is_no_key_term(encoder: Encoder) -> None:
    texts = ["a b a c d", "a e", "a f", "a g"]
    terms = key_terms(pl.Series(texts), encoder, 3, [])
    assert terms.values[: terms.offsets[1]].tolist() == encoder.encode(["b c d"]).values.tolist()

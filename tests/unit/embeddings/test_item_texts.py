"""Texts from outside: cleaned of blanks and of words that spell a token, and cut at the end of a word."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gensar_core.embeddings.item_texts import Encoder, Texts, clean
from gensar_core.embeddings.tokenizer import train_tokenizer
from tests.support.prompts_by_hand import blanks_kept, t5_like
from tests.support.shop import TEXTS


@pytest.fixture(scope="module", params=["trained", "t5", "blanks"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    made_by = {"trained": lambda: train_tokenizer(TEXTS * 3, 400), "t5": lambda: t5_like(TEXTS), "blanks": blanks_kept}
    return made_by[request.param]()


def test_blanks_are_single_and_none_begins_or_ends_a_text() -> None:
    texts, reserved = clean(pl.Series(["  a \t b\n", "a\u00a0\u3000b", "\u200bx▁y\ufeff", "\x00", ""]), ["<s>"])
    assert texts == ["a b", "a b", "x y", "", ""]
    assert reserved == 0


def test_words_that_spell_a_token_are_removed_and_counted(tokenizer: Any) -> None:
    """A catalogue must not be able to end a prompt or to name an item."""
    encoder = Encoder(tokenizer)
    column = pl.Series(["keys </s> piano", "a</s>b", "<p</s>ad>", "piano keys", "</s>"])
    texts = Texts.prepare(column, encoder, 99, ["</s>", "<pad>"])
    assert texts.texts == ["keys piano", "a b", "<p ad>", "piano keys", ""]
    assert texts.reserved == 4
    assert not {0, 1} & set(texts.tokens.values.tolist())
    assert texts.empty.tolist() == [False, False, False, False, True]


@hypothesis_settings(max_examples=40)
@given(data=st.data(), limit=st.integers(1, 12))
def test_texts_are_cut_at_the_last_word_that_fits(tokenizer: Any, data: st.DataObject, limit: int) -> None:
    word = st.sampled_from(["piano", "keys,", "é", "(2", "m)", "x" * 30, "钢琴"])
    rows = data.draw(st.lists(st.lists(word, max_size=8), min_size=1, max_size=5))
    texts = Texts.prepare(pl.Series([" ".join(row) for row in rows]), Encoder(tokenizer), limit, [])
    cut = 0
    for number, words in enumerate(rows):
        counts = range(len(words) + 1)
        ids = [tokenizer(" ".join(words[:count]), add_special_tokens=False).input_ids for count in counts]
        fitting = max(count for count in counts if len(ids[count]) <= limit)
        cut += fitting < len(words)
        tokens = texts.tokens.values[texts.tokens.offsets[number] : texts.tokens.offsets[number + 1]].tolist()
        if fitting:
            assert texts.texts[number] == " ".join(words[:fitting])
            assert tokens == ids[fitting]
        elif words:
            # Not even the first word fits: its beginning is taken, as much as has room.
            assert words[0].startswith(texts.texts[number])
            assert tokens == tokenizer(texts.texts[number], add_special_tokens=False).input_ids
            assert len(tokens) <= limit
    assert texts.cut == cut


def test_characters_outside_the_vocabulary_are_counted() -> None:
    column = pl.Series(["piano", "piano é", "é ü"])
    assert Texts.prepare(column, Encoder(blanks_kept()), 99, []).unknown == 3
    assert Texts.prepare(column, Encoder(train_tokenizer(TEXTS, 300)), 99, []).unknown == 0


def test_many_texts_are_encoded_as_one_by_one(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gensar_core.embeddings.item_texts._BATCH", 2)
    encoder = Encoder(tokenizer)
    rows = encoder.encode(TEXTS)
    assert rows.values.dtype == np.int32
    for number, text in enumerate(TEXTS):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert rows.values[rows.offsets[number] : rows.offsets[number + 1]].tolist() == ids
    assert encoder.cut([*TEXTS, "piano " * 50], 1000) == [*TEXTS, "piano " * 50]

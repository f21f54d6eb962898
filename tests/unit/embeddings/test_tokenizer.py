"""The tokenizer: trained or loaded, extended, and refused when prompts could not be put together from pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Config

from gensar_core.embeddings.tokenizer import add_tokens, check_tokenizer, load_tokenizer, train_tokenizer
from gensar_core.errors import UserError
from gensar_core.runtime.stage import digest
from tests.support.prompts_by_hand import t5_like
from tests.support.shop import TEXTS

WORDS = ["upright piano with 88 keys", "digital piano", "music stand; black", "piano keys, piano stool"] * 10
TOKENS = ["<M1_0>", "<M1_1>", "<R_I>"]


TRAINED = train_tokenizer(WORDS, 400)


def test_a_trained_tokenizer_begins_like_t5_and_separates_words_from_punctuation() -> None:
    assert TRAINED.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    assert (TRAINED.pad_token_id, TRAINED.eos_token_id, TRAINED.unk_token_id) == (0, 1, 2)
    assert len(TRAINED) <= 400
    assert TRAINED.tokenize("piano; piano") == ["▁piano", ";", "▁piano"]


@hypothesis_settings(max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="▁"), min_size=1))
def test_every_text_comes_back_from_its_tokens(text: str) -> None:
    """Byte tokens write what the vocabulary lacks: no unknown token, nothing lost but Unicode composition."""
    ids = TRAINED(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert TRAINED.unk_token_id not in ids
    assert TRAINED.decode(ids) == TRAINED.backend_tokenizer.normalizer.normalize_str(text)


def test_no_token_spans_two_scripts_of_a_text_without_blanks() -> None:
    phrase = "お茶の急須カップUSBケーブル 新しい"
    tokens = train_tokenizer([phrase] * 50, 1000).tokenize(phrase)
    assert tokens == ["▁お", "茶", "の", "急須", "カップ", "USB", "ケーブル", "▁新", "しい"]


def test_training_is_repeatable(tmp_path: Path) -> None:
    for name, tokenizer in (("one", TRAINED), ("two", train_tokenizer(iter(WORDS), 400))):
        tokenizer.save_pretrained(tmp_path / name)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@pytest.mark.parametrize("kind", ["trained", "t5"])
def test_a_saved_tokenizer_opens_as_it_was_also_beside_a_t5(tmp_path: Path, kind: str) -> None:
    tokenizer = train_tokenizer(WORDS, 400) if kind == "trained" else t5_like(TEXTS)
    new = add_tokens(tokenizer, TOKENS, kind)
    tokenizer.save_pretrained(tmp_path)
    texts = ["piano; <R_I><M1_0><M1_1>; Keys, (new) <M1_1>. x", "<M1_0>"]
    before = [tokenizer(text).input_ids for text in texts]
    for beside in (False, True):
        if beside:
            # A trained generator's folder holds both.
            T5Config().save_pretrained(tmp_path)
        again = AutoTokenizer.from_pretrained(tmp_path)
        assert again.is_fast
        assert len(again) == new.vocabulary_size
        assert [again(text).input_ids for text in texts] == before


def test_new_tokens_follow_the_vocabulary_in_their_order() -> None:
    tokenizer = t5_like(TEXTS)
    size = len(tokenizer)
    new = add_tokens(tokenizer, TOKENS, "t5")
    assert (new.base_vocabulary_size, new.vocabulary_size) == (size, size + 3)
    assert new.tokens == {token: size + place for place, token in enumerate(TOKENS)}
    # The sentinels of T5 stay what they were.
    assert max(tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(100)])) < size


def test_a_tokenizer_that_holds_the_tokens_already_is_refused() -> None:
    tokenizer = train_tokenizer(WORDS, 400)
    add_tokens(tokenizer, TOKENS, "mine")
    with pytest.raises(UserError, match=r"'mine' holds the token <M1_1> already"):
        add_tokens(tokenizer, ["<M1_1>"], "mine")


def test_a_local_folder_is_loaded(tmp_path: Path) -> None:
    t5_like(TEXTS).save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).eos_token == "</s>"


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert "`tokenizer: trained`" in str(caught.value)
    with pytest.raises(UserError, match="no such folder"):
        load_tokenizer(str(tmp_path / "t5"))


def wrapped(pre_tokenizer: Any) -> PreTrainedTokenizerFast:
    letters = [(letter, -1.0) for letter in "abcdefghijklmnopqrstuvwxyz▁ "]
    tokenizer = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def test_tokenizers_whose_tokens_depend_on_the_whole_text_are_refused() -> None:
    check_tokenizer(wrapped(pre_tokenizers.Metaspace()), "fits")
    # The first word of a text is unlike all others: texts then begin with a blank.
    check_tokenizer(wrapped(pre_tokenizers.Metaspace(prepend_scheme="never")), "fits")
    across = Tokenizer(models.Unigram([("<unk>", 0.0), ("o k", -1.0), *((c, -9.0) for c in "piano keys")], unk_id=0))
    without_end = wrapped(pre_tokenizers.Metaspace())
    without_end.eos_token = None
    for tokenizer, message in (
        (PreTrainedTokenizerFast(tokenizer_object=across, eos_token="<unk>"), "split text at blanks"),
        (without_end, "end-of-sequence"),
    ):
        with pytest.raises(UserError, match=message):
            check_tokenizer(tokenizer, "x")

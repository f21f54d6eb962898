"""Texts come out as one plain line, whatever a scraped page held."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensar_core.sources.shared.cleaning import LONGEST_TEXT, clean_text


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Plain text", "Plain text"),
        ("", ""),
        ("Salt &amp; Pepper &#39;n&#39; More", "Salt & Pepper 'n' More"),
        ("caf&eacute; &nbsp; bar", "café bar"),
        ("a <b>very</b> nice <a href='x>y'>one</a>", "a very nice y'>one"),
        ("first<br>second<br />third<p class=x>fourth</p>", "first second third fourth"),
        ("&lt;i&gt;italic&lt;/i&gt;", "italic"),
        ("one <!-- two <b>three</b> --> four", "one four"),
        ("width < 5 and height > 3", "width < 5 and height > 3"),
        ("i <3 this", "i <3 this"),
        ('a 5" pipe, “quoted” «twice»', "a 5 pipe, quoted twice"),
        ("it's mine", "it's mine"),
        ("line one\nline two\r\n\tline three", "line one line two line three"),
        ("bell\x07 and \x00null and\u200b zero width\ufeff", "bell and null and zero width"),
        ("  many    blanks  ", "many blanks"),
        ("The end...", "The end."),
        ("The end. . .  ", "The end."),
        ("The end.", "The end."),
        ("v1.2...3", "v1.2...3"),
        ("Really?!", "Really?!"),
        ("...", "."),
        ("\ud83d\ude00 smile \ud800 broken", "\U0001f600 smile broken"),
    ],
)  # fmt: skip
def test_known_texts(raw, clean):
    assert clean_text(raw) == clean


def test_cleaned_text_of_two_thousand_characters_is_emptied():
    assert clean_text("x" * (LONGEST_TEXT - 1)) == "x" * 1999
    assert clean_text("x" * LONGEST_TEXT) == ""
    assert clean_text("<b>" + "x" * 1999 + "</b>") == "x" * 1999
    assert clean_text("x" * 1998 + "....") == "x" * 1998 + "."


@pytest.mark.parametrize("piece", ["<", "<a ", "<!--", "</", ". ", "&", "&#", '"', " .", "<p ", "\x00", "."])
def test_hundred_thousand_characters_are_cleaned_in_linear_time(piece):
    # No step may search the rest of the text at every place; the last dot follows many others.
    assert clean_text("x" + piece * (100_000 // len(piece)) + "x.") in ("", "xx.")


@given(st.text(alphabet=st.sampled_from("ab &;<>/!-.\"'\n\t\x00\u200b\ud800é#39pbr"), max_size=60))
def test_every_text_is_one_clean_line(raw):
    text = clean_text(raw)
    assert not re.search(r"[\x00-\x1f\x7f\"\ud800-\udfff\u200b]|\s\s|^\s|\s$|\.\s*\.$", text)
    text.encode("utf-8")

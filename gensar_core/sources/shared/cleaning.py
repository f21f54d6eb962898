"""Texts of raw metadata, made fit for encoders and prompts (data preparation of the paper's experiments)."""

from __future__ import annotations

import html
import re

#: A text of so many characters or more says more about its page than about its item, and is emptied.
LONGEST_TEXT = 2000

# Tags that separate words; all others stand inside a line of text.
_BREAKING = re.compile(
    r"</?(?:br|p|div|li|ul|ol|dl|dt|dd|tr|td|th|table|tbody|thead|h[1-6]|hr|blockquote|section)(?:\s[^<>]*|\s*/)?>",
    re.IGNORECASE,
)
# "<" opens a tag only where a name, "/" or "!" follows: "width < 5" is text.
_TAG = re.compile(r"<[a-zA-Z/!][^<>]*>")
_QUOTES = re.compile('["\u201c\u201d\u201e\u201f\u00ab\u00bb]')
_SPACE = re.compile(r"\s+")
# What is left of control characters once white space is gone, and marks of no width.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean_text(raw: str) -> str:
    """One line of plain text: no HTML, double quotes or control characters, single blanks, one dot at most at the end.

    Empty when ``LONGEST_TEXT`` characters or more remain.
    """
    text = html.unescape(raw)
    if _SURROGATE.search(text):
        # Literals may spell one character as a pair of surrogates; lone ones have no meaning.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    if "<" in text:
        text = _TAG.sub("", _BREAKING.sub(" ", _without_comments(text)))
    text = _SPACE.sub(" ", _QUOTES.sub("", text))
    text = _SPACE.sub(" ", _CONTROL.sub("", text)).strip()
    if text.endswith("."):
        text = text.rstrip(". ") + "."
    return text if len(text) < LONGEST_TEXT else ""


def _without_comments(text: str) -> str:
    # A regular expression would search to the end of the text for each comment that is never closed.
    head, *parts = text.split("<!--")
    for part in parts:
        comment, end, after = part.partition("-->")
        head += after if end else f"<!--{comment}"
    return head

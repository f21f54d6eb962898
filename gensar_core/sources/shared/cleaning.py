"""Clean texts of raw metadata for encoders and prompts (data preparation of the paper's experiments)."""

from __future__ import annotations

import html
import re

#: A text of this many characters or more describes its page rather than its item, and is emptied.
LONGEST_TEXT = 2000

# Tags that separate words; all others occur inside a line of text.
_BREAKING = re.compile(
    r"</?(?:br|p|div|li|ul|ol|dl|dt|dd|tr|td|th|table|tbody|thead|h[1-6]|hr|blockquote|section)(?:\s[^<>]*|\s*/)?>",
    re.IGNORECASE,
)
# "<" opens a tag only before a name, "/" or "!": "width < 5" is text.
_TAG = re.compile(r"<[a-zA-Z/!][^<>]*>")
_QUOTES = re.compile('["\u201c\u201d\u201e\u201f\u00ab\u00bb]')
_SPACE = re.compile(r"\s+")
# Control characters that remain once white space is gone, and zero-width marks.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean_text(raw: str) -> str:
    """Reduce a text to one plain line.

    Removes HTML, double quotes and control characters, collapses white space to single blanks, and leaves one dot at
    most at the end. Returns an empty text when ``LONGEST_TEXT`` characters or more remain.
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
    # A regular expression would scan to the end of the text for each unclosed comment.
    head, *parts = text.split("<!--")
    for part in parts:
        comment, end, after = part.partition("-->")
        head += after if end else f"<!--{comment}"
    return head

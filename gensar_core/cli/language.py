"""Tell which languages and scripts texts are in."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Final

import simplemma

#: Languages of Latin script that are told apart. Each further one takes a second to load its dictionary.
_LATIN: Final = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "nl": "Dutch",
    "pt": "Portuguese",
}
#: Scripts by the first word of the Unicode names of their letters. Others are named by that word.
_SCRIPTS: Final = {
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "KATAKANA-HIRAGANA": "Japanese",
    "CJK": "Chinese",
    "HANGUL": "Korean",
}
#: Share of a text's words that its language must know.
_KNOWN_SHARE: Final = 0.6


def languages(texts: Sequence[str]) -> dict[str, float]:
    """Return the share of the texts in each language, the most frequent first; shares sum to 1, or there are none.

    A text in Latin script has the language whose dictionary knows most of its words, at least ``_KNOWN_SHARE``; names
    and numbers, which none or several know, do not count. Any other text has the language or the name of its most
    frequent script; one with any kana is Japanese.
    """
    found = Counter(filter(None, map(_language, texts)))
    return {name: count / found.total() for name, count in found.most_common()}


def _language(text: str) -> str | None:
    letters = Counter(unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha())
    scripts = Counter(_SCRIPTS.get(script, script.capitalize()) for script in letters.elements())
    if not scripts:
        return None
    most = "Japanese" if "Japanese" in scripts else max(scripts, key=scripts.__getitem__)
    if most != "Latin":
        return most
    (first, share), (_, next_share), *_ = simplemma.langdetect(text, lang=tuple(_LATIN))
    return _LATIN[first] if first in _LATIN and share >= _KNOWN_SHARE and share > next_share else None

"""Turn words of category names into words of queries, in the style of the published product-search queries.

Those queries were made with a dictionary-based stemmer, which undoes inflections where that yields a word (accessories
-> accessory) but keeps words that are themselves in the dictionary (electronics, supplies). Here simplemma's dictionary
undoes inflections; query_words.yaml lists the words to keep and the few to replace by another.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from pathlib import Path

import simplemma
import yaml

_LISTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
STOP_WORDS = frozenset(_LISTS["stop_words"].split())
KEPT = frozenset(_LISTS["kept"].split())
FORMS: dict[str, str] = _LISTS["forms"]

# Shorter words are mostly abbreviations (LED, UPS, TVs), which a dictionary mistakes for other words.
_SHORTEST = 4


def query_words(name: str) -> list[str]:
    """Return the query words of a category name, in order and with repetitions.

    The name is lower-cased and its accents folded; digits and punctuation are dropped without a gap (MP3 -> mp,
    No-Contract -> nocontract); single letters and stop words are removed; the other words take their dictionary form.
    """
    folded = unicodedata.normalize("NFKD", name.lower())
    words = ("".join(filter(str.isalpha, word)) for word in re.split(r"\s+", folded))
    return [dictionary_form(word) for word in words if len(word) > 1 and word not in STOP_WORDS]


@functools.lru_cache(maxsize=1 << 16)
def dictionary_form(word: str) -> str:
    """Return the form that a lower-case word takes in a query."""
    if len(word) < _SHORTEST or word in KEPT:
        return word
    lemma = simplemma.lemmatize(word, lang="en").lower()
    if lemma == word:
        lemma = _singular(word)
    return FORMS.get(lemma, lemma)


def _singular(word: str) -> str:
    """Strip the plural ending from a word that is not in the dictionary."""
    if not word.endswith("s") or word.endswith(("ss", "us", "is", "ics")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("xes", "ches", "shes", "sses", "zes")):
        return word[:-2]
    return word[:-1]

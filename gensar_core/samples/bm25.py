"""Rank item texts by BM25, for the hard negatives of search.

Scores are those of Lucene's BM25 (Kamphuis et al., 2020; Lù, 2024, for bm25s). Texts are lower-cased, split into words
of two characters or more, stripped of Lucene's English stop words, and reduced to dictionary forms by simplemma, like
the synthesized queries; Lucene's own analyzer would apply Porter's stemmer instead. Chinese, Japanese and Korean
characters become overlapping pairs, as in Lucene's CJKAnalyzer, since most of these texts have no blanks between words.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Final

import bm25s
import numpy as np
import simplemma

from gensar_core.runtime.progress import progress
from gensar_core.samples.bm25_search import Postings

#: Ideographs, kana and Hangul, as a character class.
_CJK: Final = (
    "[\u1100-\u11ff\u3005-\u3007\u3040-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_RUN: Final = re.compile(f"{_CJK}+")
# Of other scripts, a single character is no word.
_TOKEN: Final = rf"(?u)\b\w\w+\b|{_CJK}"


class BM25Index:
    """Index texts to score them for queries."""

    def __init__(self, texts: Sequence[str], *, k1: float, b: float) -> None:
        self.n_texts = len(texts)
        documents = bm25s.tokenize(
            list(map(spaced, texts)),
            token_pattern=_TOKEN,
            stopwords="en",
            stemmer=_dictionary_forms,
            show_progress=False,
        )
        self._index: bm25s.BM25 | None = None
        if documents.vocab:
            # Sum in 64 bits: rounding to 32 bits below then makes scores equal that are equal in exact arithmetic.
            self._index = bm25s.BM25(k1=k1, b=b, method="lucene", dtype="float64")
            self._index.index(documents, show_progress=False)
            parts = self._index.scores
            self._postings = Postings.build(self.n_texts, parts["indptr"], parts["indices"], parts["data"])

    def scores(self, words: list[str]) -> np.ndarray:
        """Return the scores of all texts for one query of `query_words`, float32 [texts]; 0 where no word matches."""
        if self._index is None or not words:
            return np.zeros(self.n_texts, dtype=np.float32)
        scores: np.ndarray = self._index.get_scores(words).astype(np.float32)
        return scores

    def hits(self, queries: Sequence[str], count: int) -> np.ndarray:
        """Return the numbers of the best texts for each query, int32 [queries, count]; -1 where fewer match any word.

        The best text comes first; texts with equal scores come in the order of their numbers. Most texts are never
        scored (`Postings.best`).
        """
        hits = np.full((len(queries), count), -1, dtype=np.int32)
        if self._index is None:
            return hits
        words = [self._index.get_tokens_ids(query) for query in bm25_words(queries)]
        best = progress(self._postings.best(words, count), "BM25", total=len(words), unit="query")
        for row, texts in enumerate(best):
            hits[row] = texts
        return hits


def bm25_words(queries: Sequence[str]) -> list[list[str]]:
    """Split each query into words, as `BM25Index.scores` takes them."""
    words: list[list[str]] = bm25s.tokenize(
        list(map(spaced, queries)),
        token_pattern=_TOKEN,
        stopwords="en",
        stemmer=_dictionary_forms,
        return_ids=False,
        show_progress=False,
    )
    return words


def spaced(text: str) -> str:
    """Write each run of Chinese, Japanese or Korean characters as its overlapping pairs, with blanks around each.

    A run of one character stays as it is. Texts of other scripts do not change.
    """
    return _RUN.sub(_pairs, text)


def _pairs(run: re.Match[str]) -> str:
    letters = run.group()
    return f" {' '.join(map(''.join, itertools.pairwise(letters))) or letters} "


def lexical_negatives(hits: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """Return the first ``count`` hits other than the target, int32 [rows, count], -1 at the end of short rows.

    ``hits`` int32 [rows, more than count], -1 at the end; ``targets`` [rows].
    """
    out = (hits == targets[:, None]) | (hits < 0)
    order = np.argsort(out, axis=1, kind="stable")[:, :count]
    negatives: np.ndarray = np.where(
        np.take_along_axis(out, order, axis=1), np.int32(-1), np.take_along_axis(hits, order, axis=1)
    )
    return negatives


def _dictionary_forms(words: Sequence[str]) -> list[str]:
    return [simplemma.lemmatize(word, lang="en") for word in words]

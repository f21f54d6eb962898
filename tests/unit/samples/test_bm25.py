"""BM25 against the formula by plain loops, and the rules for ties and short lists."""

import math
import re

import numpy as np
import pytest
import simplemma
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.samples.bm25 import bm25_hits, lexical_negatives

STOP_WORDS = {"the", "of", "and"}


def words_of(text):
    found = re.findall(r"\w\w+", text.lower())
    return [simplemma.lemmatize(word, lang="en") for word in found if word not in STOP_WORDS]


def plain_scores(texts, query, k1, b):
    """Lucene's BM25 of every document for one query."""
    documents = [words_of(text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = [0.0] * len(documents)
    for word in words_of(query):
        frequency = sum(word in document for document in documents)
        idf = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
        for i, document in enumerate(documents):
            count = document.count(word)
            if count:
                scores[i] += idf * count / (count + k1 * (1 - b + b * len(document) / mean))
    return scores


vocabulary = ["lamp", "lamps", "Chair", "chairs", "table", "the", "oak", "red", "of", "x"]
texts_of = st.lists(st.lists(st.sampled_from(vocabulary), max_size=8).map(" ".join), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(texts_of, texts_of, st.sampled_from([(0.9, 0.4), (1.2, 0.75), (2.0, 0.0), (0.5, 1.0)]), st.integers(1, 15))
def test_hits_are_those_of_the_formula(texts, queries, parameters, count):
    k1, b = parameters
    hits = bm25_hits(texts, queries, count, k1=k1, b=b)
    assert hits.shape == (len(queries), count)
    for query, row in zip(queries, hits.tolist(), strict=True):
        scores = plain_scores(texts, query, k1, b) if any(map(words_of, texts)) else [0.0] * len(texts)
        # Single precision decides what is equal, as in the code.
        order = sorted((i for i, score in enumerate(scores) if score > 0), key=lambda i: (-round(scores[i], 6), i))
        expected = order[:count] + [-1] * (count - len(order))
        assert row == expected


def test_a_text_of_a_hundred_documents_by_hand():
    texts = ["oak table"] * 3 + ["red lamp", "lamp lamp", "chair"]
    (row,) = bm25_hits(texts, ["lamps"], 4, k1=0.9, b=0.4).tolist()
    # Two occurrences beat one at equal length: 2 / (2 + .9 * l) > 1 / (1 + .9 * l).
    assert row == [4, 3, -1, -1]


def test_ties_stand_in_item_order_also_at_the_cut():
    texts = ["chair", *["lamp"] * 9, "lamp lamp"]
    assert bm25_hits(texts, ["lamp"], 4, k1=0.9, b=0.0).tolist() == [[10, 1, 2, 3]]


@pytest.mark.parametrize("texts", [[], ["", ""], ["the of", "x"]])
def test_nothing_to_find(texts):
    assert bm25_hits(texts, ["lamp", ""], 2, k1=0.9, b=0.4).tolist() == [[-1, -1], [-1, -1]]


def test_queries_without_words_find_nothing():
    assert bm25_hits(["lamp"], ["the", "", "?!", "unknown"], 1, k1=0.9, b=0.4).tolist() == [[-1]] * 4
    assert bm25_hits(["lamp"], [], 3, k1=0.9, b=0.4).shape == (0, 3)


def test_lexical_negatives_leave_the_target_out_and_keep_the_order():
    hits = np.array([[5, 3, 8, 1], [5, 3, 8, 1], [5, 3, -1, -1], [-1, -1, -1, -1]], dtype=np.int32)
    assert lexical_negatives(hits, np.array([3, 7, 5, 2]), 3).tolist() == [
        [5, 8, 1],
        [5, 3, 8],
        [3, -1, -1],
        [-1, -1, -1],
    ]


def test_scores_equal_in_exact_arithmetic_are_ties():
    # Two documents of one word of each frequency 2, 3 and 5, asked for in mirrored order: the sums of doubles differ.
    a, b, c = (math.log(1 + (40 - n + 0.5) / (n + 0.5)) / 1.9 for n in (2, 3, 5))
    assert (a + b) + c < (c + b) + a
    words = {"oak": 2, "red": 3, "lamp": 5, "chair": 5, "table": 3, "desk": 2}
    texts = ["oak red lamp", "chair table desk"]
    texts += [word for word, frequency in words.items() for _ in range(frequency - 1)]
    texts += ["other"] * (40 - len(texts))
    assert bm25_hits(texts, [" ".join(words)], 2, k1=0.9, b=0.0).tolist() == [[0, 1]]

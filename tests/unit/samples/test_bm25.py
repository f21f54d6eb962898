"""BM25 against the formula by plain loops, and the rules for ties and short lists."""

import math
import re

import numpy as np
import pytest
import simplemma
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.samples.bm25 import BM25Index, bm25_words, lexical_negatives
from gensar_core.sources.shared.normalization import spaced

STOP_WORDS = {"the", "of", "and"}


def words_of(text):
    words = re.findall(r"\w\w+", text.lower())
    return [simplemma.lemmatize(word, lang="en") for word in words if word not in STOP_WORDS]


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


@settings(max_examples=150)
@given(texts_of, texts_of, st.sampled_from([(0.9, 0.4), (1.2, 0.75), (2.0, 0.0), (0.5, 1.0)]), st.integers(1, 15))
def test_hits_are_those_of_the_formula(texts, queries, parameters, count):
    k1, b = parameters
    hits = BM25Index(texts, k1=k1, b=b).hits(queries, count)
    assert hits.shape == (len(queries), count)
    for query, row in zip(queries, hits.tolist(), strict=True):
        scores = plain_scores(texts, query, k1, b) if any(map(words_of, texts)) else [0.0] * len(texts)
        # Single precision decides what is equal, as in the code.
        order = sorted((i for i, score in enumerate(scores) if score > 0), key=lambda i: (-round(scores[i], 6), i))
        expected = order[:count] + [-1] * (count - len(order))
        assert row == expected


@pytest.mark.parametrize(
    ("texts", "queries", "b", "expected"),
    [
        # Two occurrences beat one at equal length: 2 / (2 + .9 * l) > 1 / (1 + .9 * l).
        (["oak table"] * 3 + ["red lamp", "lamp lamp", "chair"], ["lamps"], 0.4, [[4, 3, -1, -1]]),
        # Ties come in the order of texts, also at the cut.
        (["chair", *["lamp"] * 9, "lamp lamp"], ["lamp"], 0.0, [[10, 1, 2, 3]]),
        ([], ["lamp", ""], 0.4, [[-1, -1]] * 2),
        (["", ""], ["lamp", ""], 0.4, [[-1, -1]] * 2),
        (["the of", "x"], ["lamp", ""], 0.4, [[-1, -1]] * 2),
        (["lamp"], ["the", "", "?!", "unknown"], 0.4, [[-1]] * 4),
        (["lamp"], [], 0.4, []),
    ],
)
def test_hits_by_hand(texts, queries, b, expected):
    count = len(expected[0]) if expected else 3
    hits = BM25Index(texts, k1=0.9, b=b).hits(queries, count)
    assert hits.shape == (len(queries), count)
    assert hits.tolist() == expected


def test_texts_without_blanks_become_pairs_of_characters():
    words = bm25_words(["緑茶の急須", "USBケーブル 2m", "茶", "茶、壺", "의자를 산다", "Grüner Tee", "𠮷野家"])
    assert words == [
        ["緑茶", "茶の", "の急", "急須"],
        ["usb", "ケー", "ーブ", "ブル", "2m"],
        ["茶"],
        ["茶", "壺"],
        ["의자", "자를", "산다"],
        ["grüner", "tee"],
        ["𠮷野", "野家"],
    ]
    # The second text holds the query's pairs, the third one of them, the first none.
    texts = ["赤い電気ケトル", "白い陶器の急須", "黒い陶器のマグカップ"]
    assert BM25Index(texts, k1=0.9, b=0.4).hits(["陶器の急須"], 3).tolist() == [[1, 2, -1]]


@given(st.text(st.sampled_from("aé 1.・" + "茶壺のーケ의\U00020bb7")))
def test_pairs_are_those_of_neighbors(text):
    written, i = [], 0
    while i < len(text):
        run = re.match("[茶壺のーケ의\U00020bb7]*", text[i:]).group()
        written += [run] if len(run) == 1 else [run[k : k + 2] for k in range(len(run) - 1)]
        other = re.match("[^茶壺のーケ의\U00020bb7]*", text[i + len(run) :]).group()
        written += other.split()
        i += len(run) + len(other)
    assert spaced(text).split() == written


def test_scores_equal_in_exact_arithmetic_are_ties():
    # Two documents of one word of each frequency 2, 3 and 5, in mirrored order: the sums of doubles differ.
    a, b, c = (math.log(1 + (40 - n + 0.5) / (n + 0.5)) / 1.9 for n in (2, 3, 5))
    assert (a + b) + c < (c + b) + a
    words = {"oak": 2, "red": 3, "lamp": 5, "chair": 5, "table": 3, "desk": 2}
    texts = ["oak red lamp", "chair table desk"]
    texts += [word for word, frequency in words.items() for _ in range(frequency - 1)]
    texts += ["other"] * (40 - len(texts))
    assert BM25Index(texts, k1=0.9, b=0.0).hits([" ".join(words)], 2).tolist() == [[0, 1]]


def test_lexical_negatives_leave_the_target_out_and_keep_the_order():
    hits = np.array([[5, 3, 8, 1], [5, 3, 8, 1], [5, 3, -1, -1], [-1, -1, -1, -1]], dtype=np.int32)
    expected = [[5, 8, 1], [5, 3, 8], [3, -1, -1], [-1, -1, -1]]
    assert lexical_negatives(hits, np.array([3, 7, 5, 2]), 3).tolist() == expected

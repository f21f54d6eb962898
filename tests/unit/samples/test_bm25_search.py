"""The best texts against plain sums over all texts, in catalogues of several windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.samples.bm25_search import Postings


def postings_of(rows, n_texts):
    """Build postings from one dictionary a term: text -> part."""
    texts = np.array([text for row in rows for text in sorted(row)], dtype=np.int32)
    parts = np.array([row[text] for row in rows for text in sorted(row)], dtype=np.float64)
    return Postings.build(n_texts, np.cumsum([0, *map(len, rows)]), texts, parts)


def plain_best(rows, n_texts, query, count):
    scores = np.zeros(n_texts)
    for term in query:
        for text, part in rows[term].items():
            scores[text] += part
    rounded = scores.astype(np.float32)
    best = [text for text in np.lexsort((np.arange(n_texts), -rounded)).tolist() if rounded[text] > 0][:count]
    return best + [-1] * (count - len(best))


@settings(max_examples=60)
@given(st.data())
def test_best_texts_are_those_of_plain_sums(data):
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n_texts = data.draw(st.sampled_from([1, 63, 1024, 1025, 5000]))
    count = data.draw(st.sampled_from([1, 5, 109]))
    # Few different parts make many ties; 0.1 + 0.2 + 0.3 depends on the order of its terms.
    values = data.draw(st.sampled_from([[0.1, 0.2, 0.3], [1.0], [1e-3, 1.0, 50.0], draw.random(1000) + 1e-3]))
    rows = []
    for share in data.draw(st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.3, 1.0]), min_size=1, max_size=6)):
        texts = np.flatnonzero(draw.random(n_texts) < share)
        # A term may be rare in most windows and strong in one.
        parts = draw.choice(values, len(texts)) * np.where(texts // 1024 == draw.integers(5), 3.0, 1.0)
        rows.append(dict(zip(texts.tolist(), parts.tolist(), strict=True)))
    queries = data.draw(st.lists(st.lists(st.integers(0, len(rows) - 1), max_size=8), max_size=5))
    best = list(postings_of(rows, n_texts).best(queries, count))
    assert len(best) == len(queries)
    for query, found in zip(queries, best, strict=True):
        assert found.dtype == np.int32
        assert found.tolist() == plain_best(rows, n_texts, query, count)


@pytest.mark.parametrize("many", [1, 64, 65, 300])
def test_every_query_gets_its_own_row(many):
    # Term t occurs in text t alone.
    rows = [{term: 1.0} for term in range(many)]
    best = list(postings_of(rows, many).best([[term] for term in range(many)], 2))
    assert [found.tolist() for found in best] == [[term, -1] for term in range(many)]


def test_most_postings_of_common_terms_are_not_read():
    """A text must contain the rare term to be among the best, so a part of the common term elsewhere changes nothing."""
    rare = dict.fromkeys(range(0, 3000, 100), 10.0)
    common = dict.fromkeys(range(3000), 1.0)
    rows = [rare, common]
    postings = postings_of(rows, 3000)
    expected = plain_best(rows, 3000, [0, 1], 5)
    # Behind the first window, where nothing bounds the scores yet, and not beside the rare term.
    skipped = len(rare) + np.array([text for text in range(1024, 3000) if text not in rare])
    postings.parts[skipped] = np.nan
    (found,) = postings.best([[1, 0]], 5)
    assert found.tolist() == expected

"""Measure the search for hard negatives by BM25, against bm25s on the same index.

`python benchmarks/bm25.py` draws 1,000,000 texts of 33 words on average and 10,000 queries of one to seven words that
some text contains, so common words are common in queries too. It indexes the texts, finds the 109 best for each query
as the stage `samples` does, and asks bm25s (`retrieve`, compiled by numba) for the best of some of the queries. There
is no claim unless every text found for those queries, and its place, is the one that sorting the scores of all texts
gives.

    --quick            2,000 texts and 100 queries, to test the benchmark itself
    --texts 1000000    texts
    --queries 10000    queries
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from _measure import claim, fastest, report

from gensar_core.samples.bm25 import BM25Index, bm25_words

#: 99 negatives and a few spare ones, as in the stage.
HITS = 109
WORDS = 200_000
#: Queries that the peer answers, and those whose hits are compared with a sort of all scores.
PEER_QUERIES, COMPARED = 200, 50


def main() -> None:
    """Run the benchmark and print its claims."""
    parser = argparse.ArgumentParser(description="the best texts for queries by BM25: seconds, memory, and bm25s")
    parser.add_argument("--quick", action="store_true", help="a smoke size")
    parser.add_argument("--texts", type=int, default=1_000_000, help="texts")
    parser.add_argument("--queries", type=int, default=10_000, help="queries")
    arguments = parser.parse_args()
    n_texts, n_queries = (2_000, 100) if arguments.quick else (arguments.texts, arguments.queries)
    texts, queries = draw(n_texts, n_queries)
    index, indexing = timed(lambda: BM25Index(texts, k1=0.9, b=0.4))
    before = peak_gb()
    # Compile, or load what is compiled, before the clock starts.
    index.hits(queries[:1], HITS)
    hits, search = timed(lambda: index.hits(queries, HITS))
    searched = peak_gb()
    peer = timed_peer(index, queries[:PEER_QUERIES])
    for query, found in zip(bm25_words(queries[:COMPARED]), hits, strict=False):
        scores = index.scores(query)
        order = np.argsort(-scores, kind="stable")[:HITS]
        if not np.array_equal(found, np.where(scores[order] > 0, order, -1)):
            raise SystemExit(f"{' '.join(query)}: other hits than a sort of all scores gives")
    rates = n_queries / search["seconds"], min(PEER_QUERIES, n_queries) / peer["seconds"]
    how = f"{n_texts:,} texts, {numba.get_num_threads()} threads"
    report(
        "bm25",
        [
            claim("seconds_bm25", indexing["seconds"] + search["seconds"], "s",
                  f"index and {n_queries:,} queries; {how}"),
            claim("search_seconds", search["seconds"], "s", f"{n_queries:,} queries, {search['cpu']:.3g} CPU s; {how}"),
            claim("cpu_ms_a_query", 1000 * search["cpu"] / n_queries, "ms", how),
            claim("index_us_a_text", 1e6 * indexing["cpu"] / n_texts, "us", "CPU, by bm25s and simplemma"),
            claim("peak_gb", searched, "GB", f"texts, index ({before:.2f} GB in all) and the search"),
            claim("speedup_bm25s", rates[0] / rates[1], "x",
                  f"{rates[0]:.4g} queries/s against {rates[1]:.4g} of bm25s compiled by numba; {how}"),
            claim("speedup_bm25s_cpu", peer["cpu"] / min(PEER_QUERIES, n_queries) / (search["cpu"] / n_queries), "x",
                  "the same in CPU seconds"),
        ],
    )  # fmt: skip


def draw(n_texts: int, n_queries: int) -> tuple[list[str], list[str]]:
    """Draw texts whose words follow Zipf's law, and queries of distinct words of one text each, from a fixed seed."""
    rng = np.random.default_rng(0)
    # The most common word is in a third of the texts: more common ones would be stop words.
    chances = np.cumsum(1.0 / (np.arange(WORDS) + 10.0))
    words = np.array([f"w{number}" for number in range(WORDS)])
    lengths = np.clip(rng.lognormal(3.3, 0.6, n_texts), 3, 300).astype(int)
    texts = []
    for length in lengths.tolist():
        texts.append(" ".join(words[np.searchsorted(chances, rng.random(length) * chances[-1])].tolist()))
    queries = []
    for text in rng.integers(0, n_texts, n_queries).tolist():
        own = np.unique(texts[text].split())
        queries.append(" ".join(rng.choice(own, min(len(own), int(rng.integers(1, 8))), replace=False).tolist()))
    return texts, queries


def timed_peer(index: BM25Index, queries: list[str]) -> dict[str, float]:
    """Time bm25s's own retrieval over the same index."""
    peer = index._index
    assert peer is not None
    peer.backend = "numba"
    peer.activate_numba_scorer()

    def retrieve(some: list[str]) -> Any:
        ids = [peer.get_tokens_ids(words) for words in bm25_words(some)]
        return peer.retrieve(ids, k=HITS, show_progress=False, n_threads=numba.get_num_threads())

    retrieve(queries[:2])
    return timed(lambda: retrieve(queries))[1]


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Run once; return the result, and the wall and CPU seconds."""
    seconds, cpu, results = fastest({"": run}, 1)
    return results[""], {"seconds": seconds[""], "cpu": cpu[""]}


def peak_gb() -> float:
    """Return the peak resident memory of this process in GB (Linux counts kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


if __name__ == "__main__":
    main()

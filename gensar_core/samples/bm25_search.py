"""Find the best texts of queries without scoring every text, and still exactly.

The score of a text is a sum over the query's terms. Texts are visited in windows. In each, the terms with the lowest
maxima are set aside as long as they cannot lift a text above the worst of the best texts so far; only texts that
contain one of the other terms are looked at, and windows without any are skipped (MaxScore: Turtle and Flood, 1995;
maxima of blocks: Ding and Suel, 2011).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np

#: Texts of a window, whose sums stay in the processor's first cache; postings that share a maximum.
_WINDOW, _BLOCK = 1024, 64
#: Queries that a thread answers before it takes more.
_QUERIES = 64
#: Sums in another order differ by rounding alone; a bound this much higher covers that.
_ROUNDING = 1.0 + 1e-12


@dataclass(frozen=True)
class Postings:
    """Hold the texts that contain each term, and what the term adds to their scores.

    Term ``t`` owns the slice ``offsets[t]:offsets[t + 1]`` of ``texts`` (int32, ascending) and ``parts`` (float64,
    positive). ``maxima`` holds the largest part of each block of 64 postings of a term; the blocks of term ``t`` begin
    at ``blocks[t]``.
    """

    n_texts: int
    offsets: np.ndarray
    texts: np.ndarray
    parts: np.ndarray
    blocks: np.ndarray
    maxima: np.ndarray

    @classmethod
    def build(cls, n_texts: int, offsets: np.ndarray, texts: np.ndarray, parts: np.ndarray) -> Postings:
        """Compute the blocks' maxima."""
        offsets = offsets.astype(np.int64)
        counts = -(-np.diff(offsets) // _BLOCK)
        blocks = np.concatenate([[0], np.cumsum(counts)])
        begins = np.repeat(offsets[:-1] - _BLOCK * blocks[:-1], counts) + _BLOCK * np.arange(blocks[-1])
        maxima = np.maximum.reduceat(parts, begins) if len(begins) else parts[:0]
        return cls(n_texts, offsets, texts, parts, blocks, maxima)

    def best(self, queries: Sequence[Sequence[int]], count: int) -> Iterator[np.ndarray]:
        """Yield the numbers of the ``count`` best texts of each query of terms, best first, int32 [count].

        A score is the sum of the parts of a query's terms in their order, in 64 bits, rounded to 32 bits. A text
        counts if it contains a term; -1 fills the end. Texts with equal scores come in the order of their numbers. As
        many threads as numba has answer queries side by side; beside the postings, each holds the sums of 1,024 texts.
        """

        def answer(start: int) -> np.ndarray:
            part = queries[start : start + _QUERIES]
            found = np.full((len(part), count), -1, dtype=np.int32)
            for row, terms in zip(found, part, strict=True):
                _search(
                    np.array(terms, np.int64), self.n_texts, self.offsets, self.texts, self.parts, self.blocks,
                    self.maxima, row,
                )  # fmt: skip
            return found

        with ThreadPoolExecutor(numba.get_num_threads()) as pool:
            for found in pool.map(answer, range(0, len(queries), _QUERIES)):
                yield from found


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _search(
    terms: np.ndarray,
    n_texts: int,
    offsets: np.ndarray,
    texts: np.ndarray,
    parts: np.ndarray,
    blocks: np.ndarray,
    maxima: np.ndarray,
    best: np.ndarray,
) -> None:
    """Write the best texts of one query's ``terms`` into ``best`` [count]."""
    n_terms, count = len(terms), len(best)
    begin, end = offsets[terms], offsets[terms + 1]
    # The postings of each term in the current window, and the most that they add to a score.
    low, high, bound = begin.copy(), begin.copy(), np.zeros(n_terms)
    order = np.arange(n_terms)
    sums = np.zeros(_WINDOW)
    scores, found, worst = np.zeros(count, np.float32), 0, np.float32(0.0)
    for first in range(0, n_texts, _WINDOW):
        for t in range(n_terms):
            low[t] = high[t]
            high[t] = _first_at(texts, low[t], end[t], first + _WINDOW)
            bound[t] = 0.0
            if high[t] > low[t]:
                block = blocks[terms[t]] + (low[t] - begin[t]) // _BLOCK
                last = blocks[terms[t]] + (high[t] - 1 - begin[t]) // _BLOCK
                bound[t] = maxima[block : last + 1].max()
        # Terms by ascending bound; the first ones together cannot lift a text above the worst of the best.
        for place in range(1, n_terms):
            t = order[place]
            while place > 0 and bound[order[place - 1]] > bound[t]:
                order[place] = order[place - 1]
                place -= 1
            order[place] = t
        set_aside, rest = 0, 0.0
        while set_aside < n_terms and _at_most(rest + bound[order[set_aside]], worst):
            rest += bound[order[set_aside]]
            set_aside += 1
        if set_aside == n_terms:
            continue
        for t in order[set_aside:]:
            for posting in range(low[t], high[t]):
                sums[texts[posting] - first] += parts[posting]
        for place in range(_WINDOW):
            total = sums[place]
            if total == 0.0:
                continue
            sums[place] = 0.0
            # Add the terms set aside, the largest bound first, while the text may still be among the best.
            missing, remaining = rest, set_aside
            while remaining > 0 and not _at_most(total + missing, worst):
                remaining -= 1
                t = order[remaining]
                missing -= bound[t]
                total += _part(texts, parts, low[t], high[t], first + place)
            if _at_most(total + missing, worst):
                continue
            exact = 0.0
            for t in range(n_terms):
                exact += _part(texts, parts, low[t], high[t], first + place)
            score = np.float32(exact)
            if score > worst:
                rank = min(found, count - 1)
                while rank > 0 and scores[rank - 1] < score:
                    scores[rank], best[rank] = scores[rank - 1], best[rank - 1]
                    rank -= 1
                scores[rank], best[rank] = score, first + place
                found = min(found + 1, count)
                worst = scores[count - 1]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _at_most(bound: float, worst: np.float32) -> bool:
    """Check whether a text that scores at most ``bound`` loses against ``worst``; texts before it win ties."""
    return bool(np.float32(bound * _ROUNDING) <= worst)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _first_at(texts: np.ndarray, low: int, high: int, text: int) -> int:
    """Return the first posting in ``low:high`` of ``text`` or a later one, by steps that double and then halve."""
    step = 1
    while low + step < high and texts[low + step] < text:
        step *= 2
    low, high = low + step // 2, min(low + step, high)
    while low < high:
        middle = (low + high) // 2
        if texts[middle] < text:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _part(texts: np.ndarray, parts: np.ndarray, low: int, high: int, text: int) -> float:
    """Return what a term with the postings ``low:high`` adds to the score of ``text``; 0 if it does not contain it."""
    posting = _first_at(texts, low, high, text)
    return parts[posting] if posting < high and texts[posting] == text else 0.0

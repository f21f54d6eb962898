"""Write raw files with broken lines among the sound ones, to show that preparation counts and skips them."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

# The files are read once or twice: a higher level costs more time than it saves.
_COMPRESSION = 1

#: File -> one line of each kind of damage. "\udcff" is written as the byte FF, which no UTF-8 text contains.
KINDS: Final = {
    "reviews": (
        '{"reviewerID": "A-CUT", "asin": "B-CUT", "unixRev',
        '{"reviewerID": "A-NO-ITEM", "unixReviewTime": 1300000000}',
        '{"reviewerID": "A-TIME", "asin": "B-TIME", "unixReviewTime": "yesterday"}',
        '{"reviewerID": "A-\udcff", "asin": "B-BYTE", "unixReviewTime": 1300000000}',
        '{"reviewerID": "A-FUTURE", "asin": "B-FUTURE", "unixReviewTime": 99999999999}',
        '["reviewerID", "asin", "unixReviewTime"]',
    ),
    "metadata": (
        "{'asin': 'B-CUT', 'title': 'A title that never en",
        "{'asin': 'B-CALL', 'title': open('executed-by-metadata', 'w').name}",
        "{'title': 'A page of nothing', 'categories': [['Home Office', 'Paper & Notebooks']]}",
        "{'asin': 'B-BYTE', 'title': '\udcff'}",
        "['asin', 'title']",
        "{'asin': 'B-PATHS', 'title': 'A page', 'categories': 'Home Office'}",
    ),
    "queries": ("home office \udcff",),
    "qrels": (
        "A-NO-QUERY 0 B000000001 1",
        "A-SHORT_3 0",
        "A-WORD_three 0 B000000001 1",
        "A-\udcff_3 0 B000000001 1",
    ),
}
KINDS_OF_FILE: Final = {**KINDS, "qrels_train": KINDS["qrels"], "qrels_test": KINDS["qrels"]}


def broken_lines(file: str, count: int) -> list[str]:
    """Return ``count`` broken lines for a kind of file, cycling through all kinds of damage."""
    kinds = KINDS_OF_FILE[file]
    return [kinds[place % len(kinds)] for place in range(count)]


def write_lines(path: Path, chunks: Iterable[pl.Series], broken: Sequence[str], places: np.ndarray) -> None:
    """Write lines to a gzip file whose bytes depend on them alone, streaming chunk by chunk.

    ``broken[i]`` precedes sound line ``places[i]`` (from 0, ascending); broken lines placed past the end come last.
    """
    with path.open("wb") as file, gzip.GzipFile("", "wb", _COMPRESSION, file, mtime=0) as stream:
        start = 0
        for chunk in chunks:
            first, last = np.searchsorted(places, [start, start + len(chunk)]).tolist()
            lines = np.array(chunk.to_list(), dtype=object)
            lines = np.insert(lines, places[first:last] - start, np.array(broken[first:last], dtype=object))
            stream.write(_encoded(lines.tolist()))
            start += len(chunk)
        stream.write(_encoded(broken[int(np.searchsorted(places, start)) :]))


def _encoded(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")

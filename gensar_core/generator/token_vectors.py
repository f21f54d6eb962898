"""Build a vector of each token's meaning in the space of the items' embeddings (stage `token_vectors`).

A word represents the items whose texts contain it and those clicked after queries that contain it; a code represents
the items that have it. A token's vector is the mean over its items. Codes average what the codes before them have left
over, so that the vectors of an identifier's tokens add up to an approximation of the item's. A generator may start from
them (`warm_start`) instead of random embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from scipy.sparse import csr_matrix

from gensar_core import schema
from gensar_core.corpora.read import new_tokens, vocabulary_size
from gensar_core.embeddings.item_texts import Encoder, clean
from gensar_core.embeddings.tokenizer import load_corpus_tokenizer
from gensar_core.errors import UserError
from gensar_core.identifiers.table import IdentifierTable, read_vocabulary
from gensar_core.runtime.arrays import Ragged, stretches
from gensar_core.runtime.stage import Stage
from gensar_core.runtime.tensors import load_vectors, save_vectors
from gensar_core.samples.search_clicks import SearchClicks

#: Maximum number of principal components kept per side.
_MAX_COMPONENTS: Final = 256
#: Items that a word must be seen with before its vector has half of its length: rare words say little.
_SHRINKAGE: Final = 3.0
#: Pairs of a clicked item and its query counted at once; limits memory, does not affect results.
_PAIRS: Final = 1 << 19
#: Name of the stage's output file.
FILE: Final = "token_vectors.safetensors"


def build_token_vectors(
    canonical: Path,
    samples: Path,
    identifiers: Path,
    corpus: Path,
    embeddings: Mapping[str, Path],
    output: Path,
) -> None:
    """Write token_vectors.safetensors into the folder ``output``.

    ``embeddings`` are the files of item vectors that the identifiers were made from, by side. The file holds one matrix
    [vocabulary, <= 256] per side, its columns by falling variance over the items; the items' own in the same columns,
    `semantic_items` and `collaborative_items` [n_items, <= 256]; and `groups` [vocabulary, 1]: 0 for a known word, 1,
    2, ... for the codes of a level, -1 for a token without any item. Only training clicks are read. Raises UserError
    if the inputs do not belong together.
    """
    inputs = [canonical / "items.parquet", canonical / "queries.parquet", samples / "training_events.parquet"]
    inputs += [identifiers / "identifiers.parquet", identifiers / "vocabulary.json"]
    inputs += [corpus / "tokenizer", corpus / "new_tokens.json", *embeddings.values()]
    with Stage("token_vectors", output, settings={}, inputs=inputs, code=__name__) as stage:
        items = {side: principal(load_vectors(path)) for side, path in embeddings.items()}
        vocabulary, tokens = vocabulary_size(corpus), new_tokens(corpus)
        seen_with = _words(canonical, samples, corpus, vocabulary)
        table = IdentifierTable.load(identifiers)
        for side, matrix in items.items():
            if len(matrix) != len(table):
                raise UserError(
                    f"{embeddings[side]}: has {len(matrix)} items, {identifiers} has {len(table)}; build both again"
                )
        groups = np.where(np.asarray(seen_with.sum(axis=1)).ravel() > 0, 0, -1)
        vectors = {side: word_vectors(seen_with, matrix) for side, matrix in items.items()}
        of_items = {f"{side}_items": matrix for side, matrix in items.items()}
        levels = _levels(identifiers)
        for number, (level, sides) in enumerate(levels.items(), start=1):
            codes = _codes(table, level, sides[0])
            rows = np.array([tokens[token] for token in table.tokens if _level_of(token) == level])
            groups[rows] = number
            for side in set(sides) & items.keys():
                vectors[side][rows], items[side] = code_vectors(codes, len(rows), items[side])
        save_vectors({**vectors, **of_items, "groups": groups[:, None]}, stage.path(FILE))
        stage.record(words=int((groups == 0).sum()), unknown=int((groups < 0).sum()), levels=list(levels))


def principal(vectors: np.ndarray) -> np.ndarray:
    """Center vectors [n, D], rotate them to principal axes by falling variance, and scale to a mean squared norm of 1.

    At most 256 axes are kept. The sign of each makes the largest entry of its direction positive.
    """
    centered = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centered.T @ centered)
    axes = axes[:, ::-1][:, :_MAX_COMPONENTS]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    turned = centered @ axes
    power = np.mean((turned**2).sum(axis=1))
    scaled: np.ndarray = turned / np.sqrt(power) if power > 0 else turned
    return scaled


def word_vectors(seen_with: csr_matrix, items: np.ndarray) -> np.ndarray:
    """Average the items [n, D] that each token is seen with, shrunk to zero where they are few, [vocabulary, D].

    ``seen_with`` [vocabulary, n] holds counts.
    """
    count = np.asarray(seen_with.sum(axis=1)).reshape(-1, 1)
    mean: np.ndarray = (seen_with @ items) / (count + _SHRINKAGE)
    return mean


def code_vectors(codes: np.ndarray, size: int, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of ``rest`` [n, D] by code [size, D], and what it leaves over of each item [n, D].

    ``codes`` [n] are below ``size``; -1 marks an item without a code, which keeps its whole ``rest``.
    """
    coded = np.flatnonzero(codes >= 0)
    has_code = csr_matrix((np.ones(len(coded)), (codes[coded], coded)), shape=(size, len(codes)))
    count = np.asarray(has_code.sum(axis=1)).reshape(-1, 1)
    means = (has_code @ rest) / np.maximum(count, 1.0)
    residual = rest.copy()
    residual[coded] -= means[codes[coded]]
    return means, residual


def _words(canonical: Path, samples: Path, corpus: Path, vocabulary: int) -> csr_matrix:
    """Count how often each token is seen with each item, [vocabulary, n_items]: once by text, once by query click."""
    tokenizer = load_corpus_tokenizer(corpus / "tokenizer")
    encoder, reserved = Encoder(tokenizer), sorted(tokenizer.get_added_vocab())
    texts = schema.ITEMS.read(canonical / "items.parquet").sort("item_id").get_column("text")
    queries = schema.QUERIES.read(canonical / "queries.parquet").sort("query_id").get_column("text")
    clicks = SearchClicks.read(samples / "training_events.parquet")
    text_tokens, query_tokens = (encoder.encode(clean(column, reserved)[0]) for column in (texts, queries))
    pairs, shape = np.stack([text_tokens.values.astype(np.int64), text_tokens.rows]), (vocabulary, len(texts))
    in_texts = np.unique(pairs, axis=1)
    seen_with = csr_matrix((np.ones(in_texts.shape[1]), (in_texts[0], in_texts[1])), shape=shape)
    for places in stretches(len(clicks), _PAIRS):
        tokens = query_tokens.take(clicks.queries[places])
        counts = clicks.clicks[places].astype(np.float64)[tokens.rows]
        cells = (tokens.values, clicks.items[places][tokens.rows])
        seen_with = seen_with + csr_matrix((counts, cells), shape=shape)
    return seen_with


def _levels(identifiers: Path) -> dict[str, list[str]]:
    """Map each level's name to the sides that have it, in the order in which an identifier names the levels."""
    vocabulary = read_vocabulary(identifiers / "vocabulary.json")
    levels: dict[str, list[str]] = {}
    for side in schema.SIDES:
        for level in vocabulary.scheme(side).levels:
            levels.setdefault(level, []).append(side)
    return dict(sorted(levels.items(), key=lambda entry: -len(entry[1])))


def _codes(table: IdentifierTable, level: str, side: str) -> np.ndarray:
    """Return each item's code at a level [n_items], -1 for none."""
    of_level = [number for number, token in enumerate(table.tokens) if _level_of(token) == level]
    rows: Ragged = table.sides[side]
    codes = np.full(len(rows), -1)
    at_level = (rows.values >= of_level[0]) & (rows.values <= of_level[-1])
    codes[rows.rows[at_level]] = rows.values[at_level] - of_level[0]
    return codes


def _level_of(token: str) -> str:
    return token[1 : token.rindex("_")]

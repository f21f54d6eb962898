"""Represent queries by their words: a vocabulary from the training queries, and query vectors from word vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.reading import table_parts
from gensar_core.schema import EVENTS, QUERIES
from gensar_core.sources.shared.normalization import spaced

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Split a text into lower-cased runs of letters and digits, in order.

    Chinese, Japanese and Korean runs become overlapping pairs of characters, as `spaced` writes them.
    """
    return _WORD.findall(spaced(text.lower()))


def query_word_numbers(data: MethodData, max_words: int) -> tuple[Ragged, int]:
    """Return the word numbers of each query [n_queries], at most ``max_words`` each, and the vocabulary size.

    Words are numbered from 0 in alphabetical order. A word that no training query contains is left out, since nothing
    could be learned for it; a query of only such words has no words.
    """
    texts = QUERIES.read(data.canonical / "queries.parquet").sort("query_id")["text"].to_list()
    trained = np.zeros(len(texts), dtype=bool)
    for part in table_parts(data.events_file, EVENTS, columns=["query_id"]):
        trained[part.get_column("query_id").drop_nulls().to_numpy()] = True
    words = {word for query in np.flatnonzero(trained).tolist() for word in words_of(texts[query])}
    vocabulary = {word: number for number, word in enumerate(sorted(words))}
    return numbered(texts, vocabulary, max_words), len(vocabulary)


def numbered(texts: Sequence[str], vocabulary: dict[str, int], max_words: int) -> Ragged:
    """Return the numbers of each text's words in the vocabulary, the first ``max_words`` of each text."""
    lists = [[vocabulary[word] for word in words_of(text) if word in vocabulary][:max_words] for text in texts]
    values = np.array([number for numbers in lists for number in numbers], dtype=np.int64)
    return Ragged.from_lengths(np.array([len(numbers) for numbers in lists], dtype=np.int64), values)


class QueryWords(torch.nn.Module):
    """Average the vectors of each query's words; a query without words is zero.

    With ``weighted``, the average uses a learned weight per word, by a softmax over the words of a query. Only the
    learned vectors and weights are saved with the model; the words of each query are data.
    """

    offsets: torch.Tensor
    words: torch.Tensor

    def __init__(self, queries: Ragged, n_words: int, dimensions: int, *, weighted: bool = False) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(max(1, n_words), dimensions)
        self.weights = torch.nn.Embedding(max(1, n_words), 1) if weighted else None
        self.register_buffer("offsets", torch.from_numpy(queries.offsets), persistent=False)
        self.register_buffer("words", torch.from_numpy(queries.values), persistent=False)

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """Compute vectors [queries, dimensions] of query numbers int64 [queries]."""
        starts = self.offsets[queries]
        lengths = self.offsets[queries + 1] - starts
        ends = lengths.cumsum(0)
        first = ends - lengths
        places = torch.arange(int(lengths.sum()), device=starts.device) + torch.repeat_interleave(
            starts - first, lengths
        )
        words = self.words[places]
        if self.weights is None:
            return functional.embedding_bag(words, self.table.weight, first, mode="mean")
        query = torch.repeat_interleave(torch.arange(len(queries), device=starts.device), lengths)
        weights = self.weights(words).squeeze(1).exp()
        totals = torch.zeros(len(queries), device=weights.device).index_add(0, query, weights)
        return functional.embedding_bag(
            words, self.table.weight, first, mode="sum", per_sample_weights=weights / totals[query]
        )

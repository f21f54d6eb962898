"""Queries as words: a vocabulary learned from the queries of training, and vectors of queries made of their words'."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.runtime.arrays import Ragged
from gensar_core.schema import QUERIES

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Lower-cased runs of letters and digits, in order."""
    return _WORD.findall(text.lower())


def query_words(data: MethodData, max_words: int) -> tuple[Ragged, int]:
    """Word numbers of each query of a data set [n_queries], the first ``max_words`` of each, and how many words exist.

    Words are numbered from 0 in alphabetical order. A word that no training query has is left out: nothing could be
    learned for it, so a query of none but such words has no words at all.
    """
    texts = QUERIES.read(data.canonical / "queries.parquet").sort("query_id")["text"].to_list()
    trained = data.training_events.get_column("query_id").drop_nulls().unique().to_list()
    vocabulary = {word: number for number, word in enumerate(sorted({w for q in trained for w in words_of(texts[q])}))}
    return numbered(texts, vocabulary, max_words), len(vocabulary)


def numbered(texts: Sequence[str], vocabulary: dict[str, int], max_words: int) -> Ragged:
    """The numbers of the words of each text that the vocabulary has, the first ``max_words`` of each."""
    lists = [[vocabulary[word] for word in words_of(text) if word in vocabulary][:max_words] for text in texts]
    values = np.array([number for numbers in lists for number in numbers], dtype=np.int64)
    return Ragged.from_lengths(np.array([len(numbers) for numbers in lists], dtype=np.int64), values)


class QueryWords(torch.nn.Module):
    """Mean of the vectors of each query's words; zero for a query without words.

    ``weighted`` learns a weight of each word, and takes a softmax of them over the words of a query. Words are learned;
    which query has which words is data, and is not saved with the weights.
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
        """Vectors [queries, dimensions] of query numbers int64 [queries]."""
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

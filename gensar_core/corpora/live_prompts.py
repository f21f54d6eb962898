"""Write prompts for histories that no table holds, with the code that writes the corpus' own prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeGuard

import numpy as np
import polars as pl
from transformers import AutoTokenizer

from gensar_core import schema
from gensar_core.config.base import validate
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.corpora.assemble import ExampleRows, shown
from gensar_core.corpora.histories import ShownHistories
from gensar_core.corpora.instructions import Instructions
from gensar_core.corpora.item_texts import Encoder, Texts
from gensar_core.corpora.read import new_tokens
from gensar_core.corpora.tasks import RANKING_TASKS, Kind
from gensar_core.corpora.token_pieces import Pieces
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.stage import read_record


@dataclass(frozen=True)
class Entry:
    """Hold one user action: a code of schema.BEHAVIORS, and the item's number or the query's words."""

    behavior: int
    object: int | str

    @classmethod
    def clicked(cls, item: int) -> Entry:
        """Return a click on a recommended item."""
        return cls(schema.RECOMMENDED_ITEM, item)

    @classmethod
    def searched(cls, query: str) -> Entry:
        """Return a query; the `found` entries after it are its clicks."""
        return cls(schema.SEARCHED_QUERY, query)

    @classmethod
    def found(cls, item: int) -> Entry:
        """Return a click on a result of the last query."""
        return cls(schema.SEARCHED_ITEM, item)


#: What a question tells the model: the history, oldest first, and the query of a search.
Asked: TypeAlias = tuple[Sequence[Entry], str | None]


class LivePrompts:
    """Write prompts for new histories as a corpus writes its own."""

    def __init__(self, corpus: Path) -> None:
        """Load the corpus' settings, tokenizer and templates. Raises UserError when ``corpus`` is no corpus folder."""
        record = read_record(corpus / "stage.json")
        self.settings = validate(MaterializationSettings, record["settings"], str(corpus / "stage.json"), "settings")
        tokenizer = AutoTokenizer.from_pretrained(corpus / "tokenizer")
        self._tokens = new_tokens(corpus)
        self._encoder = Encoder(tokenizer)
        self._eos = int(tokenizer.eos_token_id)
        self._reserved = sorted(tokenizer.get_added_vocab())
        # The templates that the model was trained on; the library's may have changed since.
        self._instructions = Instructions.load(corpus, [task.name for task in RANKING_TASKS.values()])
        self._identifiers = _identifiers(corpus / "item_tokens.parquet", self.settings.behavior_tokens)

    def write(self, task: str, asked: Sequence[Asked]) -> Ragged:
        """Write encoder inputs of one task, a row for each question.

        A history may be longer than prompts show. Raises UserError on an item that the corpus does not have and on a
        query without a word.
        """
        entries = [entry for history, _ in asked for entry in history]
        queries = [query for _, query in asked]
        items = sorted({entry.object for entry in entries if isinstance(entry.object, int)})
        words = list(dict.fromkeys(text for text in [*(entry.object for entry in entries), *queries] if _is_text(text)))
        self._check(items, words)
        number: dict[int | str, int] = {item: place for place, item in enumerate(items)}
        number |= {text: place for place, text in enumerate(words)}
        pieces = Pieces(
            self._encoder,
            self._tokens,
            {side: rows.take(np.array(items, dtype=np.int64)) for side, rows in self._identifiers.items()},
            self._texts(words),
            self._texts([]),
            behavior_tokens=self.settings.behavior_tokens,
            eos_id=self._eos,
        )
        lengths = np.array([len(history) for history, _ in asked])
        behaviors = Ragged.from_lengths(lengths, np.array([entry.behavior for entry in entries], dtype=np.uint8))
        objects = Ragged.from_lengths(lengths, np.array([number[entry.object] for entry in entries], dtype=np.int32))
        shown_queries = np.array([0 if query is None else number[query] for query in queries])
        objects_shown: dict[Kind, np.ndarray] = {"query": shown_queries}
        rows = ExampleRows(np.zeros(len(asked), dtype=np.int64), objects_shown, ShownHistories(behaviors, objects))
        rows = rows.recent(self.settings.max_recommendations, self.settings.max_searches)
        first = self._instructions.first[list(RANKING_TASKS).index(task)]
        return self._instructions.write(shown(pieces, RANKING_TASKS[task], rows), np.full(len(asked), first))

    def _texts(self, texts: list[str]) -> Texts:
        column = pl.Series(texts, dtype=pl.String)
        return Texts.prepare(column, self._encoder, self.settings.max_query_tokens, self._reserved)

    def _check(self, items: Sequence[int], words: Sequence[str]) -> None:
        count = len(self._identifiers["semantic"])
        wrong = [item for item in items if not 0 <= item < count]
        if wrong:
            raise UserError(f"history: there is no item number {wrong[0]}; items are numbered from 0 to {count - 1}")
        if not all(text.strip() for text in words):
            raise UserError("query: holds no word; give at least one")


def _is_text(thing: int | str | None) -> TypeGuard[str]:
    return isinstance(thing, str)


def _identifiers(path: Path, behavior_tokens: bool) -> dict[schema.Side, Ragged]:
    """Read the identifier tokens of every item, between the behavior token and the end of sequence."""
    table = schema.ITEM_TOKENS.read(path).sort("task", "item_id")
    identifiers = {}
    for task, side in schema.SIDE_OF_TASK.items():
        rows = Ragged.from_series(table.filter(pl.col("task") == task).get_column("target_ids"))
        inner = np.ones(len(rows.values), dtype=bool)
        inner[rows.offsets[1:] - 1] = False
        if behavior_tokens:
            inner[rows.offsets[:-1]] = False
        identifiers[side] = rows.filter(inner)
    return identifiers

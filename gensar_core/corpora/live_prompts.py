"""Write prompts for histories that no table holds, with the code that writes the corpus' own prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np
import polars as pl
import transformers

from gensar_core import schema
from gensar_core.config.base import validate
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.corpora.assemble import ExampleRows, history_limits, shown
from gensar_core.corpora.histories import ShownHistories
from gensar_core.corpora.instructions import Instructions, load_prompt_file
from gensar_core.corpora.read import has_behavior_tokens, new_tokens
from gensar_core.corpora.tasks import Kind, ranking_tasks
from gensar_core.corpora.token_pieces import Pieces
from gensar_core.corpora.user_words import UNKNOWN_USER, user_rows, user_tokens
from gensar_core.embeddings.item_texts import Encoder, Texts
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


class Asked(NamedTuple):
    """Hold what a question tells the model: ``history`` (oldest first), ``query`` of a search, number of the user."""

    history: Sequence[Entry]
    query: str | None = None
    user: int = UNKNOWN_USER


class LivePrompts:
    """Write prompts for new histories as a corpus writes its own."""

    def __init__(self, corpus: Path, catalogue: Path | None = None) -> None:
        """Load the corpus' settings, tokenizer and prompt file, and the items' tokens from ``catalogue`` (None: there).

        Raises UserError if ``corpus`` is no corpus folder.
        """
        record = read_record(corpus / "stage.json")
        self.settings = validate(MaterializationSettings, record["settings"], str(corpus / "stage.json"), "settings")
        tokenizer = transformers.AutoTokenizer.from_pretrained(corpus / "tokenizer")
        self._tokens = new_tokens(corpus)
        self._encoder = Encoder(tokenizer)
        self._eos = int(tokenizer.eos_token_id)
        self._reserved = sorted(tokenizer.get_added_vocab())
        # The prompt file that the model was trained on; the library's may have changed since.
        prompts = load_prompt_file(corpus)
        self._corpus, self._tasks = corpus, ranking_tasks(prompts)
        self._instructions = Instructions.load(corpus, [task.name for task in self._tasks.values()])
        self._behavior_tokens = has_behavior_tokens(corpus)
        self._user_tokens = [self._tokens[token] for token in user_tokens(prompts.user_tokens)]
        self._identifiers = _identifiers((catalogue or corpus) / "item_tokens.parquet", self._behavior_tokens)

    def write(self, task: str, asked: Sequence[Asked]) -> Ragged:
        """Write encoder inputs of one task, a row for each question.

        A history may be longer than prompts show. Raises UserError on a task that the corpus has no prompts for, on an
        item that it does not have and on a query without a word.
        """
        if task not in self._tasks:
            named = " and ".join(self._tasks)
            raise UserError(f"{self._corpus}: its prompt file ranks {named} alone; ask another model for {task}")
        form = self._tasks[task]
        entries = [entry for question in asked for entry in question.history]
        queries = [question.query for question in asked]
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
            others={"user": user_rows(np.array([each.user for each in asked]), self._user_tokens, self._encoder)},
            behavior_tokens=self._behavior_tokens,
            eos_id=self._eos,
        )
        lengths = np.array([len(question.history) for question in asked])
        behaviors = Ragged.from_lengths(lengths, np.array([entry.behavior for entry in entries], dtype=np.uint8))
        objects = Ragged.from_lengths(lengths, np.array([number[entry.object] for entry in entries], dtype=np.int32))
        objects_shown: dict[Kind, np.ndarray] = {
            "query": np.array([0 if query is None else number[query] for query in queries]),
            "user": np.arange(len(asked)),
        }
        rows = ExampleRows(np.zeros(len(asked), dtype=np.int64), objects_shown, ShownHistories(behaviors, objects))
        rows = rows.recent(form, *history_limits(form, self.settings))
        first = self._instructions.first[list(self._tasks).index(task)]
        return self._instructions.write(shown(pieces, form, rows), np.full(len(asked), first))

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

"""Read a corpus folder as arrays for training and ranking."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.corpora.instructions import PROMPTS_COPY, Instructions, Shown
from gensar_core.corpora.tasks import BEHAVIOR_TOKENS
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged, stretches
from gensar_core.runtime.mapped_arrays import MappedArray, MappedRows
from gensar_core.runtime.reading import table_parts

Value = TypeVar("Value")

#: Limit of rows that an error names.
_DESCRIBED = 10


@dataclass(frozen=True)
class PromptInputs:
    """Hold encoder inputs, written on demand: the content of each prompt, in an instruction of its task.

    ``task`` int [prompts] is the number of each prompt's task in ``instructions``.
    """

    shown: Shown
    task: np.ndarray
    instructions: Instructions

    @classmethod
    def whole(cls, rows: Ragged) -> PromptInputs:
        """Return inputs that are the given token rows, unchanged."""
        nothing = Ragged.from_lengths(np.zeros(len(rows), dtype=np.int64), rows.values[:0])
        return cls(Shown(rows, nothing), np.zeros(len(rows), dtype=np.int64), Instructions.none())

    def __len__(self) -> int:
        return len(self.task)

    def longest(self, prompts: np.ndarray) -> np.ndarray:
        """Count the tokens of ``prompts`` in the longest instruction that each may take, int64 [prompts]."""
        longest: np.ndarray = self._shown_lengths(prompts) + self.instructions.longest[self.task[prompts]]
        return longest

    def draw(self, seed: int, visit: int, prompts: np.ndarray) -> np.ndarray:
        """Draw the instructions that ``prompts`` take at this visit; see `Instructions.draw`."""
        return self.instructions.draw(seed, visit, prompts, self.task[prompts])

    def lengths(self, prompts: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Count the tokens of ``prompts`` in the instructions ``chosen``, int64 [prompts]."""
        lengths: np.ndarray = self._shown_lengths(prompts) + self.instructions.lengths[chosen]
        return lengths

    def _shown_lengths(self, prompts: np.ndarray) -> np.ndarray:
        lengths: np.ndarray = self.shown.history.lengths_of(prompts) + self.shown.value.lengths_of(prompts)
        return lengths

    def write(self, prompts: np.ndarray, chosen: np.ndarray) -> Ragged:
        """Return the token ids of ``prompts`` in the instructions ``chosen``."""
        return self.instructions.write(self.shown.take(prompts), chosen)


@dataclass(frozen=True)
class Examples:
    """Hold training examples: prompts and their targets.

    ``inputs`` are the prompts, ``targets`` [rows] token rows; ``prompt`` int64 [rows] is the input of each row,
    ascending without gaps, so that rows of one prompt are adjacent; ``task`` [rows] indexes ``task_names``; ``path`` is
    the file that holds them, row by row.
    """

    inputs: PromptInputs
    targets: Ragged
    prompt: np.ndarray
    task: np.ndarray
    task_names: list[str]
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.task)

    def first_rows(self, prompts: np.ndarray) -> np.ndarray:
        """Return the first row of each of ``prompts``, int64 [prompts]; of one more than the last, the end."""
        return np.searchsorted(self.prompt, prompts)

    def describe(self, rows: np.ndarray) -> str:
        """Describe some of the given rows in one line of an error: task, sample and place in the file."""
        shown = rows[:_DESCRIBED]
        names = [f"{self.task_names[self.task[row]]} row {row}" for row in shown]
        if self.path is not None:
            column = pl.scan_parquet(self.path).select("sample_id")
            samples = [column.slice(row, 1).collect().item() for row in shown.tolist()]
            names = [f"{name}, sample {sample}" for name, sample in zip(names, samples, strict=True)]
        more = f" and {len(rows) - len(shown):,} more" if len(rows) > len(shown) else ""
        return "; ".join(names) + more + (f" of {self.path}" if self.path is not None else "")


@dataclass(frozen=True)
class Prompts:
    """Hold the encoder inputs of valid and test samples, mapped from the disk: ``sample_id`` [rows] ascends."""

    sample_id: np.ndarray
    inputs: Ragged
    path: Path

    def of(self, sample_ids: np.ndarray) -> Ragged:
        """Return the prompts of the given samples. Raises UserError when a sample has none."""
        rows = np.searchsorted(self.sample_id, sample_ids)
        if rows.max(initial=-1) >= len(self.sample_id) or (self.sample_id[rows] != sample_ids).any():
            raise UserError(f"{self.path}: holds no prompt for some samples; build the corpus of these samples again")
        return self.inputs.take(rows)


@dataclass(frozen=True)
class ItemTokens:
    """Hold the decoder tokens of every item, for one task.

    ``tokens`` int32 [n_items, longest] is padded with -1 after each row's end, ``lengths`` [n_items] include the end of
    sequence, ``order`` [n_items] is each item's place when all token rows are sorted.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    order: np.ndarray

    @classmethod
    def from_rows(cls, rows: Ragged) -> ItemTokens:
        """Build the tokens of items 0, 1, ... from rows in this order."""
        lengths = rows.lengths
        tokens = rows.padded(int(lengths.max(initial=1)), -1).astype(np.int32)
        order = np.empty(len(rows), dtype=np.int64)
        # `lexsort` takes its primary key last.
        order[np.lexsort(tokens.T[::-1])] = np.arange(len(rows))
        return cls(tokens, lengths, order)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def fixed_length(self) -> bool:
        """Tell whether all items have the same number of tokens."""
        return bool((self.lengths == self.tokens.shape[1]).all())


def vocabulary_size(corpus: Path) -> int:
    """Return the number of the tokenizer's token ids. Raises UserError when new_tokens.json does not record it."""
    return _of_tokenizer(corpus, "vocabulary_size", int)


def base_vocabulary_size(corpus: Path) -> int:
    """Return the number of the tokenizer's token ids before identifier and behavior tokens were added."""
    return _of_tokenizer(corpus, "base_vocabulary_size", int)


def new_tokens(corpus: Path) -> dict[str, int]:
    """Return the ids of identifier and behavior tokens. Raises UserError when new_tokens.json does not record them."""
    return _of_tokenizer(corpus, "tokens", dict)


def has_behavior_tokens(corpus: Path) -> bool:
    """Tell whether a corpus writes behavior tokens: its prompt file says so, and its settings do not take them out."""
    return not set(BEHAVIOR_TOKENS).isdisjoint(new_tokens(corpus))


def _of_tokenizer(corpus: Path, name: str, kind: Callable[[Any], Value]) -> Value:
    path = corpus / "new_tokens.json"
    try:
        return kind(json.loads(path.read_text(encoding="utf-8"))[name])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; build the corpus first") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: does not name a {name}; build the corpus again") from None


def check_model_tokenizer(corpus: Path, tokenizer: Any, model: Path) -> None:
    """Raise UserError unless the model's tokenizer numbers identifier and behavior tokens as the corpus does."""
    vocabulary = tokenizer.get_vocab()
    for token, number in new_tokens(corpus).items():
        if vocabulary.get(token) != number:
            has = f"has it as {vocabulary[token]}" if token in vocabulary else "does not have it"
            raise UserError(
                f"{corpus / 'new_tokens.json'}: token {token} is {number}, the tokenizer in {model} {has}; name the "
                "corpus that the model was trained on, or train on this one"
            )


def check_lengths(inputs: PromptInputs, positions: int | None, where: Path) -> None:
    """Raise UserError on an input longer than the ``positions`` of the backbone's pretraining (None: no limit)."""
    longest = max((int(inputs.longest(prompts).max()) for prompts in stretches(len(inputs))), default=0)
    if positions is not None and longest > positions:
        raise UserError(
            f"{where}: an input has {longest} tokens, the backbone was pretrained on {positions} at most; lower the "
            "corpus' max_item_tokens, max_query_tokens, max_recommendations or max_searches"
        )


def load_examples(corpus: Path, vocabulary: int) -> Examples:
    """Map the rows of train.parquet; consecutive rows of a task with the same content become one prompt.

    Raises UserError on an empty corpus and on tokens outside the vocabulary.
    """
    path = corpus / "train.parquet"
    task_names = _task_names(path)
    histories, values, targets = (MappedRows(corpus, np.int32) for _ in range(3))
    prompts, tasks, prompt_tasks = (MappedArray(corpus, dtype) for dtype in (np.int64, np.uint8, np.uint8))
    n_prompts = n_rows = 0
    for frame in table_parts(path, schema.CORPUS):
        shown = Shown(*(Ragged.from_series(frame.get_column(name)) for name in ("history_ids", "value_ids")))
        asked = Ragged.from_series(frame.get_column("target_ids"))
        check_known(shown.history, vocabulary, path)
        check_known(shown.value, vocabulary, path)
        check_tokens(asked, vocabulary, path, n_rows)
        first = begins_prompt(frame.get_column("task"), shown)
        distinct = shown.take(np.flatnonzero(first))
        task = _codes(frame.get_column("task"), task_names)
        histories.append(distinct.history)
        values.append(distinct.value)
        targets.append(asked)
        prompts.append(n_prompts - 1 + np.cumsum(first))
        tasks.append(task)
        prompt_tasks.append(task[first])
        n_prompts += len(distinct)
        n_rows += len(frame)
    instructions = Instructions.load(corpus, task_names)
    check_known(instructions.texts, vocabulary, corpus / PROMPTS_COPY)
    inputs = PromptInputs(Shown(histories.read_only(), values.read_only()), prompt_tasks.read_only(), instructions)
    return Examples(inputs, targets.read_only(), prompts.read_only(), tasks.read_only(), task_names, path)


def _task_names(path: Path) -> list[str]:
    rows, count = schema.CORPUS.open(path)
    if not count:
        raise UserError(f"{path}: holds no training examples; give the corpus another task or more data")
    names: list[str] = rows.select(pl.col("task").unique().sort()).collect(engine="streaming").to_series().to_list()
    return names


def begins_prompt(task: pl.Series, shown: Shown) -> np.ndarray:
    """Mark the rows whose task or shown content differs from the row before, bool [rows]."""
    begins = (task != task.shift(1)).fill_null(True).to_numpy().copy()
    for part in (shown.history, shown.value):
        lengths = part.lengths
        begins[1:] |= lengths[1:] != lengths[:-1]
        alike = np.flatnonzero(~begins)
        one, other = part.take(alike), part.take(alike - 1)
        begins[alike[one.rows[one.values != other.values]]] = True
    return begins


def _codes(task: pl.Series, names: list[str]) -> np.ndarray:
    return task.replace_strict(names, list(range(len(names))), return_dtype=pl.UInt8).to_numpy()


def load_prompts(corpus: Path, vocabulary: int) -> Prompts:
    """Map the rows of prompts.parquet. Raises UserError on tokens outside the vocabulary, and on unordered rows."""
    path = corpus / "prompts.parquet"
    inputs, sample_id = MappedRows(corpus, np.int32), MappedArray(corpus, np.int64)
    count, last = 0, -1
    for frame in table_parts(path, schema.PROMPTS):
        rows, numbers = Ragged.from_series(frame.get_column("input_ids")), frame.get_column("sample_id").to_numpy()
        check_tokens(rows, vocabulary, path, count)
        if (np.diff(numbers, prepend=last) <= 0).any():
            raise UserError(f"{path}: rows are not in the order of sample_id, each once; build the corpus again")
        inputs.append(rows)
        sample_id.append(numbers)
        count, last = count + len(numbers), int(numbers.max(initial=last))
    return Prompts(sample_id.read_only(), inputs.read_only(), path)


def load_item_tokens(corpus: Path, vocabulary: int, end: int) -> dict[str, ItemTokens]:
    """Read item_tokens.parquet: the tokens of every item by task.

    Raises UserError unless items are numbered from 0 and each row ends with ``end``, its only end of sequence: then no
    item's tokens are a prefix of another's.
    """
    path = corpus / "item_tokens.parquet"
    frame = schema.ITEM_TOKENS.read(path).sort("task", "item_id")
    items = {}
    for task in schema.TASKS:
        of_task = frame.filter(pl.col("task") == task)
        rows = Ragged.from_series(of_task.get_column("target_ids"))
        check_tokens(rows, vocabulary, path)
        if (of_task.get_column("item_id").to_numpy() != np.arange(len(rows))).any() or not len(rows):
            raise UserError(f"{path}: items of task {task!r} are not numbered from 0; build the corpus again")
        ends = rows.values == end
        if not ends[rows.offsets[1:] - 1].all() or ends.sum() != len(rows):
            raise UserError(f"{path}: some item of task {task!r} does not end with the end of sequence, token {end}")
        items[task] = ItemTokens.from_rows(rows)
    return items


def check_tokens(rows: Ragged, vocabulary: int, where: Path, first_row: int = 0) -> None:
    """Raise UserError on an empty row and on token ids outside the model's vocabulary.

    ``first_row`` is the number of the first of ``rows`` in the file.
    """
    if len(rows) and rows.lengths.min() == 0:
        raise UserError(f"{where}: row {first_row + int(rows.lengths.argmin())} has no tokens; build the corpus again")
    check_known(rows, vocabulary, where)


def check_known(rows: Ragged, vocabulary: int, where: Path) -> None:
    """Raise UserError on token ids outside the model's vocabulary."""
    if len(rows.values) and (rows.values.min() < 0 or rows.values.max() >= vocabulary):
        raise UserError(
            f"{where}: token {int(rows.values.max())} is outside the model's vocabulary of {vocabulary}; "
            "train a model on this corpus, or name the corpus it was trained on"
        )

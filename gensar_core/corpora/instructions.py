"""Write prompts as token ids: put shown content into one of the task's instructions.

Instructions and shown content are tokenized separately and joined when a prompt is written, so that training may draw
another instruction at each visit. Placeholders have blanks on both sides, so the tokens are those of the whole text.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import transformers

from gensar_core import schema
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.prompts import PromptFile, Slot, read_prompts
from gensar_core.corpora.tasks import BEHAVIOR_TOKENS, Task, tasks_of
from gensar_core.corpora.token_pieces import stack
from gensar_core.embeddings.item_texts import Encoder
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.hashing import row_keys
from gensar_core.runtime.seeds import derive_seed

#: File name of the corpus' copy of the prompt file that it was built with.
PROMPTS_COPY: Final = "prompts.yaml"

#: Content of a place in an instruction: the history, the other value shown, or text number `place - _TEXTS`.
_HISTORY, _VALUE, _TEXTS = 0, 1, 2


@dataclass(frozen=True)
class Shown:
    """Hold what prompts show: ``history`` and ``value`` (a query, a text, an identifier, a user) as rows of token ids.

    A row is empty where the task does not show it.
    """

    history: Ragged
    value: Ragged

    def __len__(self) -> int:
        return len(self.history)

    @property
    def lengths(self) -> np.ndarray:
        """Count the tokens of each row, int64 [rows]."""
        lengths: np.ndarray = self.history.lengths + self.value.lengths
        return lengths

    def take(self, rows: np.ndarray) -> Shown:
        """Return the given rows, in the given order."""
        return Shown(self.history.take(rows), self.value.take(rows))


@dataclass(frozen=True)
class Instructions:
    """Hold the instructions of some tasks as token ids, with the end of each prompt (behavior token, end of sequence).

    ``texts`` are the rows of fixed tokens; ``places`` int64 [instructions, places] is the content of each place; the
    instructions of task number t are ``first[t]`` to ``first[t + 1] - 1``, beginning with the one that evaluation uses.
    """

    texts: Ragged
    places: np.ndarray
    first: np.ndarray

    @classmethod
    def none(cls) -> Instructions:
        """Return a bare instruction of one task: its prompts are the shown `history` and nothing else."""
        no_text = Ragged.from_lengths(np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32))
        return cls(no_text, np.array([[_HISTORY]]), np.array([0, 1]))

    @classmethod
    def tokenize(cls, tasks: Sequence[Task], encoder: Encoder, tokens: Mapping[str, int], end: int) -> Instructions:
        """Tokenize the tasks' instructions; ``tokens`` maps added tokens to ids, ``end`` ends a sequence."""
        texts = [np.zeros(0, dtype=np.int32)]
        rows = []
        for task in tasks:
            for template in task.templates:
                row = []
                for part in template.parts:
                    if isinstance(part, Slot):
                        row.append(_HISTORY if part.name == "history" else _VALUE)
                    else:
                        row.append(_TEXTS + len(texts))
                        texts.append(encoder.encode([part]).values)
                row.append(_TEXTS + len(texts))
                texts.append(np.array([*_behavior_token(task, tokens), end], dtype=np.int32))
                rows.append(row)
        # Text 0 is empty and fills places that an instruction lacks.
        places = np.full((len(rows), max(map(len, rows))), _TEXTS, dtype=np.int64)
        for number, row in enumerate(rows):
            places[number, : len(row)] = row
        flat = Ragged.from_lengths(np.array([len(text) for text in texts]), np.concatenate(texts))
        return cls(flat, places, np.cumsum([0, *(len(task.templates) for task in tasks)]))

    @classmethod
    def load(cls, corpus: Path, names: Sequence[str]) -> Instructions:
        """Load the named tasks' instructions from the folder ``corpus``. Raises UserError if it lacks prompts.yaml."""
        tasks = tasks_of(load_prompt_file(corpus))
        tokenizer = transformers.AutoTokenizer.from_pretrained(corpus / "tokenizer")
        tokens = json.loads((corpus / "new_tokens.json").read_text(encoding="utf-8"))["tokens"]
        return cls.tokenize([tasks[name] for name in names], Encoder(tokenizer), tokens, int(tokenizer.eos_token_id))

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Count the instructions of each task, int64 [tasks]."""
        return np.diff(self.first)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Count the tokens of each instruction without its shown content, int64 [instructions]."""
        fixed = self.places >= _TEXTS
        lengths: np.ndarray = np.where(fixed, self.texts.lengths[np.where(fixed, self.places - _TEXTS, 0)], 0).sum(1)
        return lengths

    @functools.cached_property
    def longest(self) -> np.ndarray:
        """Return the token count of each task's longest instruction, int64 [tasks]."""
        longest: np.ndarray = np.maximum.reduceat(self.lengths, self.first[:-1])
        return longest

    def draw(self, seed: int, visit: int, numbers: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Draw the instructions that prompts take at one visit, int64 [prompts].

        ``numbers`` [prompts] identify the prompts, ``task`` [prompts] are their tasks. The draw depends on both, on the
        seed and on the visit, not on the other prompts of the call.
        """
        keys = row_keys(derive_seed(seed, "template", visit), numbers)
        drawn: np.ndarray = self.first[task] + (keys % self.counts[task].astype(np.uint64)).astype(np.int64)
        return drawn

    def write(self, shown: Shown, chosen: np.ndarray) -> Ragged:
        """Write prompts as token ids: row i of ``shown`` in instruction ``chosen[i]``."""
        count = len(shown)
        source = stack([shown.history, shown.value, self.texts])
        places = self.places[chosen]
        shown_rows = np.arange(count)[:, None] + count * places
        rows = np.where(places < _TEXTS, shown_rows, 2 * count + places - _TEXTS)
        flat = source.take(rows.ravel())
        return Ragged(flat.offsets[:: places.shape[1]], flat.values)


def load_prompt_file(corpus: Path) -> PromptFile:
    """Read the prompt file that a corpus was built with. Raises UserError when it has none."""
    if not (corpus / PROMPTS_COPY).is_file():
        raise UserError(f"{corpus / PROMPTS_COPY}: no such file; build the corpus again")
    return read_prompts(corpus / PROMPTS_COPY)


def prompted_tasks(corpus: Path) -> list[str]:
    """Name the tasks, of `rec` and `search`, whose valid and test samples have prompts in a corpus."""
    return list(load_prompt_file(corpus).ranking)


def trained_behaviors(corpus: Path, settings: MaterializationSettings) -> list[int]:
    """Return the codes of the behaviors whose entries some training task of a corpus on users' samples asks for."""
    file = load_prompt_file(corpus)
    tasks = (Task.of(name, file.tasks[name]) for name in file.active(settings.tasks, settings.drop, f"{corpus}: "))
    asked = {task.target.behavior for task in tasks if task.source in schema.TASKS}
    return sorted(behavior for behavior in asked if behavior is not None)


def _behavior_token(task: Task, tokens: Mapping[str, int]) -> list[int]:
    """Return the behavior token that ends the prompts of a task, if it has one and the corpus uses behavior tokens."""
    asks = task.asks
    return [tokens[BEHAVIOR_TOKENS[asks]]] if asks is not None and BEHAVIOR_TOKENS[asks] in tokens else []

"""Examples as token ids: pieces gathered into prompts and targets, all rows of a chunk at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from gensar_core.corpora.histories import Histories
from gensar_core.corpora.pieces import Pieces, beside, repeated, stack
from gensar_core.corpora.tasks import BEHAVIOR_KINDS, Kind, Task, Value
from gensar_core.corpora.templates import Slot, Template
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.hashing import draws, row_keys
from gensar_core.runtime.seeds import derive_seed

#: What joins the entries of a history; a blank follows it.
SEPARATOR: Final = ";"


@dataclass(frozen=True)
class Rows:
    """What a chunk of examples is made of.

    ``ids`` [rows] are sample ids, or item ids for tasks without a sample; ``objects`` [rows] the item or query that
    each kind of value is to show. ``copies`` [rows] number the rows of one id, where it has several.
    """

    ids: np.ndarray
    objects: Mapping[Kind, np.ndarray]
    histories: Histories | None = None
    copies: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def key_columns(self) -> list[np.ndarray]:
        """What tells a row from all others, for random choices."""
        return [self.ids] if self.copies is None else [self.ids, self.copies]

    def take(self, places: np.ndarray) -> Rows:
        """The given rows, in the given order."""
        return Rows(
            self.ids[places],
            {kind: objects[places] for kind, objects in self.objects.items()},
            None if self.histories is None else self.histories.take(places),
            None if self.copies is None else self.copies[places],
        )

    def copied(self, count: int) -> Rows:
        """Each row ``count`` times, one after the other."""
        rows = self.take(np.repeat(np.arange(len(self)), count))
        return replace(rows, copies=np.tile(np.arange(count), len(self)))

    def recent(self, max_recommendations: int | np.ndarray, max_searches: int | np.ndarray) -> Rows:
        """The same rows with histories cut to their last part."""
        if self.histories is None:
            return self
        return replace(self, histories=self.histories.recent(max_recommendations, max_searches))


def draw_templates(seed: int, task: str, rows: Rows, count: int) -> np.ndarray:
    """Which of ``count`` templates each row takes, by seed, task, id and copy: the row's place does not matter."""
    keys = row_keys(derive_seed(seed, "template", task), *rows.key_columns)
    drawn: np.ndarray = (keys % np.uint64(count)).astype(np.int64)
    return drawn


def shortened(rows: Rows, seed: int, task: str, max_recommendations: int, max_searches: int) -> Rows:
    """Histories of copies 1, 2, ... cut to a random number of last clicks and sessions; copy 0 shows all it may."""
    assert rows.copies is not None
    numbers = draws(row_keys(derive_seed(seed, "shorter", task), *rows.key_columns), 2)
    clicks = (numbers[:, 0] % np.uint64(max_recommendations + 1)).astype(np.int64)
    sessions = (numbers[:, 1] % np.uint64(max_searches + 1)).astype(np.int64)
    # Of a history that would be empty, the last click and session stay.
    none = (clicks == 0) & (sessions == 0)
    clicks[none] = sessions[none] = 1
    whole = rows.copies == 0
    return rows.recent(np.where(whole, max_recommendations, clicks), np.where(whole, max_searches, sessions))


def inputs(pieces: Pieces, task: Task, templates: Sequence[Template], drawn: np.ndarray, rows: Rows) -> Ragged:
    """The encoder input of each row, end of sequence included; row i takes template ``drawn[i]``."""
    order = np.argsort(drawn, kind="stable")
    bounds = np.searchsorted(drawn[order], np.arange(len(templates) + 1))
    prompts = [
        _prompt(pieces, task, template, rows, order[bounds[number] : bounds[number + 1]])
        for number, template in enumerate(templates)
    ]
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return _gather(pieces, stack(prompts).take(back))


def targets(pieces: Pieces, task: Task, rows: Rows) -> Ragged:
    """The decoder target of each row, end of sequence included."""
    return value_tokens(pieces, task.target, rows.objects[task.target.kind])


def value_tokens(pieces: Pieces, value: Value, objects: np.ndarray) -> Ragged:
    """Each object written as ``value``, with the end of sequence."""
    numbers = np.column_stack([pieces.values(value) + objects, np.full(len(objects), pieces.eos)])
    return _gather(pieces, Ragged.from_lengths(np.full(len(objects), 2), numbers.ravel()))


def _prompt(pieces: Pieces, task: Task, template: Template, rows: Rows, chosen: np.ndarray) -> Ragged:
    """Piece numbers of the prompts of the ``chosen`` rows."""
    parts = []
    for part in template.parts:
        if isinstance(part, str):
            parts.append(_every(pieces.text(part), len(chosen)))
        elif part.name == "history":
            assert rows.histories is not None
            parts.append(_history(pieces, part, rows.histories.take(chosen)))
        else:
            value = task.values[part.name]
            numbers = pieces.values(value, part.tail) + rows.objects[value.kind][chosen]
            parts.append(Ragged.from_lengths(np.ones(len(chosen), dtype=np.int64), numbers))
    for last in (pieces.behavior(task.asks), pieces.eos):
        if last is not None:
            parts.append(_every(last, len(chosen)))
    return beside(*parts)


def _history(pieces: Pieces, slot: Slot, histories: Histories) -> Ragged:
    """Piece numbers of histories: entries with the separator after each but the last, which has the slot's tail."""
    behaviors, lengths = histories.behaviors, histories.behaviors.lengths
    first = {tail: _entries(pieces, tail) for tail in (SEPARATOR, slot.tail)}
    numbers = first[SEPARATOR][behaviors.values] + histories.objects.values
    last = behaviors.offsets[1:][lengths > 0] - 1
    numbers[last] = first[slot.tail][behaviors.values[last]] + histories.objects.values[last]
    entries = Ragged(behaviors.offsets, numbers)
    if not slot.tail or lengths.all():
        return entries
    # Without any entry the tail stands alone.
    alone = Ragged.from_lengths((lengths == 0).astype(np.int64), np.full((lengths == 0).sum(), pieces.text(slot.tail)))
    return beside(entries, alone)


def _entries(pieces: Pieces, tail: str) -> np.ndarray:
    """By behavior, the number of object 0's entry (Eq. 11) with ``tail`` after it."""
    return np.asarray([pieces.values(Value(kind, code), tail) for code, kind in enumerate(BEHAVIOR_KINDS)])


def _every(piece: int, rows: int) -> Ragged:
    return repeated(np.asarray([piece], dtype=np.int64), rows)


def _gather(pieces: Pieces, numbers: Ragged) -> Ragged:
    """Rows of piece numbers -> rows of token ids."""
    flat = pieces.table.take(numbers.values)
    return Ragged(flat.offsets[numbers.offsets], flat.values)

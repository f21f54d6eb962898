"""Assemble examples as token ids: gather pieces into shown content and targets, all rows of a chunk at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gensar_core import schema
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.prompts import HistoryForm
from gensar_core.corpora.histories import ShownHistories
from gensar_core.corpora.instructions import Shown
from gensar_core.corpora.tasks import BEHAVIOR_VALUES, Kind, Task, Value
from gensar_core.corpora.token_pieces import Pieces
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.hashing import draws, row_keys
from gensar_core.runtime.seeds import derive_seed


@dataclass(frozen=True)
class ExampleRows:
    """Hold the ids, objects and histories from which a chunk of examples is assembled.

    ``ids`` [rows] are sample ids, or item ids for tasks without a sample; ``objects`` maps each kind of value to the
    items or queries to show [rows]. ``copies`` [rows] number the rows of one id, where it has several.
    """

    ids: np.ndarray
    objects: Mapping[Kind, np.ndarray]
    histories: ShownHistories | None = None
    copies: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def key_columns(self) -> list[np.ndarray]:
        """Return the columns that together identify a row, as keys for random choices."""
        return [self.ids] if self.copies is None else [self.ids, self.copies]

    def take(self, places: np.ndarray) -> ExampleRows:
        """Return the given rows, in the given order."""
        return ExampleRows(
            self.ids[places],
            {kind: objects[places] for kind, objects in self.objects.items()},
            None if self.histories is None else self.histories.take(places),
            None if self.copies is None else self.copies[places],
        )

    def copied(self, count: int) -> ExampleRows:
        """Repeat each row ``count`` times, its copies next to each other."""
        rows = self.take(np.repeat(np.arange(len(self)), count))
        return replace(rows, copies=np.tile(np.arange(count), len(self)))

    def recent(self, task: Task, max_recommendations: int | np.ndarray, max_searches: int | np.ndarray) -> ExampleRows:
        """Return the same rows with histories cut to the last part of what a task shows of them."""
        if self.histories is None:
            return self
        histories = self.histories.recent(max_recommendations, max_searches).only(task.shown_behaviors)
        return replace(self, histories=histories)


def shortened(rows: ExampleRows, seed: int, task: Task, max_recommendations: int, max_searches: int) -> ExampleRows:
    """Cut histories of copies 1, 2, ... to random numbers of last clicks and sessions; copy 0 keeps the maximum."""
    assert rows.copies is not None
    numbers = draws(row_keys(derive_seed(seed, "shorter", task.name), *rows.key_columns), 2)
    clicks = (numbers[:, 0] % np.uint64(max_recommendations + 1)).astype(np.int64)
    sessions = (numbers[:, 1] % np.uint64(max_searches + 1)).astype(np.int64)
    whole = rows.copies == 0
    clicks, sessions = np.where(whole, max_recommendations, clicks), np.where(whole, max_searches, sessions)
    # A history would become empty if both limits are 0 or the only nonzero one is for a kind that it lacks; it then
    # keeps its last click and session.
    cut = rows.recent(task, clicks, sessions)
    assert cut.histories is not None
    none = cut.histories.behaviors.lengths == 0
    return rows.recent(task, np.where(none, 1, clicks), np.where(none, 1, sessions)) if none.any() else cut


def history_limits(task: Task, settings: MaterializationSettings) -> tuple[int, int]:
    """Return the maximum numbers of clicks and sessions that a task's prompts show."""
    if task.history is not None and task.history.latest is not None:
        return task.history.latest, task.history.latest
    return settings.max_recommendations, settings.max_searches


def shown(pieces: Pieces, task: Task, rows: ExampleRows) -> Shown:
    """Gather the content that each row's prompt shows besides its instruction."""
    nothing = Ragged.from_lengths(np.zeros(len(rows), dtype=np.int64), np.zeros(0, dtype=np.int64))
    history = value = nothing
    if rows.histories is not None and task.history is not None:
        history = _history(pieces, task.history, rows.histories)
    if task.value is not None:
        numbers = pieces.values(task.value) + rows.objects[task.value.kind]
        value = Ragged.from_lengths(np.ones(len(rows), dtype=np.int64), numbers)
    return Shown(_gather(pieces, history), _gather(pieces, value))


def targets(pieces: Pieces, task: Task, rows: ExampleRows) -> Ragged:
    """Gather the decoder target of each row, end of sequence included."""
    return value_tokens(pieces, task.target, rows.objects[task.target.kind])


def value_tokens(pieces: Pieces, value: Value, objects: np.ndarray) -> Ragged:
    """Write each object as ``value``, followed by the end of sequence."""
    numbers = np.column_stack([pieces.values(value) + objects, np.full(len(objects), pieces.eos)])
    return _gather(pieces, Ragged.from_lengths(np.full(len(objects), 2), numbers.ravel()))


def _history(pieces: Pieces, form: HistoryForm, histories: ShownHistories) -> Ragged:
    """Convert histories to piece numbers: entries with the separator after each but the last."""
    behaviors, lengths = histories.behaviors, histories.behaviors.lengths
    numbers = _entries(pieces, form, form.separator.rstrip())[behaviors.values] + histories.objects.values
    last = behaviors.offsets[1:][lengths > 0] - 1
    numbers[last] = _entries(pieces, form, "")[behaviors.values[last]] + histories.objects.values[last]
    return Ragged(behaviors.offsets, numbers)


def _entries(pieces: Pieces, form: HistoryForm, tail: str) -> np.ndarray:
    """Return, by behavior, the piece number of object 0's entry (Eq. 11) with ``tail`` after it; 0 if not shown."""
    numbers = [0] * len(BEHAVIOR_VALUES)
    for code in (schema.BEHAVIORS.index(name) for name in form.behaviors):
        value = BEHAVIOR_VALUES[code]
        if form.items == "title" and code != schema.SEARCHED_QUERY:
            value = Value("title", code)
        numbers[code] = pieces.values(value, tail)
    return np.asarray(numbers)


def _gather(pieces: Pieces, numbers: Ragged) -> Ragged:
    """Convert rows of piece numbers to rows of token ids."""
    flat = pieces.table.take(numbers.values)
    return Ragged(flat.offsets[numbers.offsets], flat.values)

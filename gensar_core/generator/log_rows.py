"""Read users' logs and turn rows of them into padded tensors, attention masks and targets of one pass."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import torch

from gensar_core import schema
from gensar_core.corpora.alignment_logs import NO_USER
from gensar_core.corpora.read import check_known
from gensar_core.corpora.token_pieces import stack
from gensar_core.corpora.user_logs import NO_TARGET
from gensar_core.errors import UserError
from gensar_core.generator.click_evidence import Questions
from gensar_core.generator.item_nodes import NO_NODE, ItemNodes
from gensar_core.nn.dropout import chosen
from gensar_core.runtime.arrays import Ragged, ranges, stretches
from gensar_core.runtime.device import send
from gensar_core.runtime.mapped_arrays import MappedArray, MappedRows, mapped_zeros
from gensar_core.runtime.reading import table_parts

#: Task of the item of each behavior; queries have none.
_TASK_OF = {schema.RECOMMENDED_ITEM: "rec", schema.SEARCHED_ITEM: "search"}
#: Sum of the behaviors of clicks: less the one it is the other.
_CLICKS: Final = schema.RECOMMENDED_ITEM + schema.SEARCHED_ITEM
#: Training tasks of targets in logs, by behavior; then those of rows that belong to no user.
LOG_TASKS: Final = ("nrip", "nsqp", "nsip")
_ALIGNED: Final = {
    (schema.DESCRIPTION, schema.RECOMMENDED_ITEM): "desc2id_collaborative",
    (schema.DESCRIPTION, schema.SEARCHED_ITEM): "desc2id_semantic",
    (schema.RECOMMENDED_ITEM, schema.DESCRIPTION): "id2desc_collaborative",
    (schema.SEARCHED_ITEM, schema.DESCRIPTION): "id2desc_semantic",
    (schema.SEARCHED_QUERY, schema.SEARCHED_ITEM): "doc2query",
}
TRAINING_TASKS: Final = (*LOG_TASKS, *_ALIGNED.values())
#: Training tasks whose targets are words; each word counts.
WORD_TASKS: Final = ("nsqp", "id2desc_collaborative", "id2desc_semantic")
#: Rows decoded at a time.
_ROWS: Final = 1 << 16
#: Group of padding, and of entries that ask for an item's other identifier: seen by no one.
_NEVER = np.iinfo(np.int32).max


@dataclass(frozen=True)
class LogRows:
    """Hold rows of users' logs (table `user_logs`), in memory or mapped from the disk.

    ``user`` [rows]; ``entries`` int64 [rows + 1] are the offsets of each row's entries; ``tokens`` holds the token ids
    of each entry; ``folder`` is where to map what is derived, None in memory; the others are the table's list columns,
    [entries].
    """

    user: np.ndarray
    entries: np.ndarray
    tokens: Ragged
    folder: Path | None
    behavior: np.ndarray
    object: np.ndarray
    position: np.ndarray
    opens: np.ndarray
    closes: np.ndarray
    query: np.ndarray
    target: np.ndarray

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> LogRows:
        """Build the rows of a frame of table `user_logs`."""
        columns = {
            name: Ragged.from_series(frame.get_column(name))
            for name, dtype in frame.schema.items()
            if name != "user_id"
        }
        lengths, tokens = columns.pop("lengths"), columns.pop("token_ids")
        return cls(
            frame.get_column("user_id").to_numpy(),
            lengths.offsets,
            Ragged.from_lengths(lengths.values, tokens.values),
            None,
            **{name: column.values for name, column in columns.items()},
        )

    @classmethod
    def load(cls, vocabulary: int, *paths: Path, other_codes: Mapping[str, np.ndarray] | None = None) -> LogRows:
        """Map the rows of some files, one after the other; with ``other_codes``, as `with_other_identifiers` does.

        Raises UserError when a file is missing or holds tokens outside the vocabulary.
        """
        folder = paths[0].parent
        of_entries = cls.from_frame(schema.USER_LOGS.empty()).of_entries()
        columns = {name: MappedArray(folder, values.dtype) for name, values in of_entries.items()}
        user, entries = MappedArray(folder, np.int32), MappedArray(folder, np.int64)
        tokens, total = MappedRows(folder, np.int32), 0
        entries.append(np.zeros(1))
        for path in paths:
            for frame in table_parts(path, schema.USER_LOGS, _ROWS):
                part = cls.from_frame(frame)
                check_known(part.tokens, vocabulary, path)
                if other_codes is not None:
                    part = part.with_other_identifiers(other_codes)
                user.append(part.user)
                entries.append(total + part.entries[1:])
                tokens.append(part.tokens)
                total += len(part.behavior)
                for name, values in part.of_entries().items():
                    columns[name].append(values)
        return cls(
            user.read_only(),
            entries.read_only(),
            tokens.read_only(),
            folder,
            **{name: column.read_only() for name, column in columns.items()},
        )

    def of_entries(self) -> dict[str, np.ndarray]:
        """Return the fields that are arrays [entries], by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)[4:]}

    def __len__(self) -> int:
        return len(self.user)

    def followed_by(self, *others: LogRows) -> LogRows:
        """Return the rows of all."""
        parts = [self, *others]
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in self.of_entries()}
        sizes = np.concatenate([np.diff(part.entries) for part in parts])
        entries = np.concatenate([[0], np.cumsum(sizes)])
        user = np.concatenate([part.user for part in parts])
        return LogRows(user, entries, stack([part.tokens for part in parts]), None, **joined)

    def with_other_identifiers(self, codes: Mapping[str, np.ndarray]) -> LogRows:
        """Ask for the other identifier of each click that is a target of a user, too, by an entry at its row's end.

        The entry begins as the click, sees what the click sees, and is seen by no other. ``codes`` int [n_items,
        longest] are those of the identifiers by task, -1 past the last.
        """
        row = np.repeat(np.arange(len(self)), np.diff(self.entries))
        asked = np.flatnonzero(
            (self.user[row] != NO_USER) & (self.target != NO_TARGET) & (self.behavior != schema.SEARCHED_QUERY)
        )
        tokens = np.full((len(asked), 1 + max(part.shape[1] for part in codes.values())), -1)
        tokens[:, 0] = self.tokens.values[self.tokens.offsets[asked]]
        for behavior, task in _TASK_OF.items():
            mine = np.flatnonzero(self.behavior[asked] == _CLICKS - behavior)
            tokens[mine, 1 : 1 + codes[task].shape[1]] = codes[task][self.object[asked[mine]]]
        added = Ragged.from_lengths((tokens >= 0).sum(1), tokens[tokens >= 0].astype(self.tokens.values.dtype))
        order = np.argsort(np.concatenate([row, row[asked]]), kind="stable")
        source, new = np.concatenate([np.arange(len(row)), asked])[order], order >= len(row)
        entries = self.entries + np.searchsorted(row[asked], np.arange(len(self) + 1))
        columns = {name: values[source] for name, values in self.of_entries().items()}
        columns["behavior"][new] = _CLICKS - columns["behavior"][new]
        columns["closes"][new] = _NEVER
        own = new & (columns["query"] == source - self.entries[row[source]])
        columns["query"][own] = (np.arange(len(source)) - entries[row[source]])[own]
        return LogRows(self.user, entries, stack([self.tokens, added]).take(order), None, **columns)

    def for_other(self, entry: np.ndarray) -> np.ndarray:
        """Mark those of ``entry`` that ask for an item's other identifier, bool."""
        marked: np.ndarray = self.closes[entry] == _NEVER
        return marked

    def entries_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the entries of ``rows``, and the place in ``rows`` of each; int64 [entries of the rows] each."""
        first = self.entries[rows]
        sizes = self.entries[rows + 1] - first
        return ranges(first, sizes), np.repeat(np.arange(len(rows)), sizes)

    def training_task(self, row: np.ndarray, entry: np.ndarray) -> np.ndarray:
        """Return the place in `TRAINING_TASKS` of what each of ``entry`` asks, -1 for those that are only read.

        ``row`` is the row of each entry.
        """
        task: np.ndarray = self.behavior[entry].astype(np.int64)
        task = np.where(self.for_other(entry), _CLICKS - task, task)
        given = self.behavior[self.entries[row] + self.query[entry]]
        alone = self.user[row] == NO_USER
        for (first, asked), name in _ALIGNED.items():
            task[alone & (given == first) & (self.behavior[entry] == asked)] = TRAINING_TASKS.index(name)
        task[self.target[entry] == NO_TARGET] = -1
        return task

    def asked(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return each target of ``rows``: its place in ``rows``, its training task, and how many items or words it has.

        All are int64 [targets]. An item's other identifier is no target of its own.
        """
        entry, place = self.entries_of(rows)
        task = self.training_task(rows[place], entry)
        counted = (task >= 0) & ~self.for_other(entry)
        entry, place, task = (values[counted] for values in (entry, place, task))
        words = np.isin(task, [TRAINING_TASKS.index(name) for name in WORD_TASKS])
        return place, task, np.where(words, self.tokens.lengths_of(entry) - 1, 1)

    def lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """Count the tokens of each of ``rows``, int64 [rows]."""
        lengths: np.ndarray = self.tokens.offsets[self.entries[rows + 1]] - self.tokens.offsets[self.entries[rows]]
        return lengths

    def n_queries(self) -> int:
        """Return one more than the largest number of a query in a user's row."""
        largest = -1
        for rows in stretches(len(self)):
            entry, place = self.entries_of(rows)
            typed = (self.behavior[entry] == schema.SEARCHED_QUERY) & (self.user[rows[place]] != NO_USER)
            largest = max(largest, int(self.object[entry[typed]].max(initial=-1)))
        return largest + 1

    @functools.cached_property
    def _entry_of(self) -> np.ndarray:
        """Return one more than the entry of each click that is asked for, by the number of its target; 0: none."""
        size = int(self.target.max(initial=NO_TARGET)) + 1
        entry_of = np.zeros(size, np.int64) if self.folder is None else mapped_zeros(self.folder, size, np.int64)
        for entry in stretches(len(self.target)):
            asked = entry[(self.target[entry] != NO_TARGET) & (self.behavior[entry] != schema.SEARCHED_QUERY)]
            entry_of[self.target[asked]] = asked + 1
        return entry_of

    def places_of(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row and the entry of each click of ``targets``. Raises UserError when one is no target here."""
        entry_of = self._entry_of
        if targets.max(initial=-1) >= len(entry_of) or (entry := entry_of[targets] - 1).min(initial=0) < 0:
            raise UserError("user logs: hold no row for some samples; build the corpus of these samples again")
        return np.searchsorted(self.entries, entry, side="right") - 1, entry


@dataclass(frozen=True)
class AskedWords:
    """Hold the words of what is asked, [m]: the place in the flattened batch of the token that asks, and each word.

    ``weight`` is one over the number of words of the same place.
    """

    place: torch.Tensor
    token: torch.Tensor
    weight: torch.Tensor


@dataclass(frozen=True)
class RowTensors:
    """Hold a padded batch of rows; int64 [B, T] but for ``mask`` bool [B, T, T].

    ``places`` int64 [entries of the batch] is where each entry begins in the flattened batch, ``entry`` [same] its
    number among all entries, ``row`` [same] its row in the batch. ``units`` is one more than the largest of ``unit``.
    """

    tokens: torch.Tensor
    nodes: torch.Tensor
    queries: torch.Tensor
    positions: torch.Tensor
    opens: torch.Tensor
    closes: torch.Tensor
    unit: torch.Tensor
    own: torch.Tensor
    words: AskedWords
    places: np.ndarray
    entry: np.ndarray
    row: np.ndarray
    units: int

    def mask(self, hidden_share: float = 0.0) -> torch.Tensor:
        """Return which tokens each token sees, bool [B, T, T].

        A token sees the groups that closed before its own opened, and what precedes it in its entry and its query. With
        ``hidden_share``, that share of the entries, each with its query, is hidden from all others, drawn at random.
        """
        before = self.closes[:, None, :] < self.opens[:, :, None]
        if hidden_share:
            draw = chosen((len(self.tokens), self.units), hidden_share, self.tokens.device)
            before &= ~draw.gather(1, self.unit.clamp_min(0))[:, None, :]
        width = self.tokens.shape[1]
        earlier = torch.ones(width, width, dtype=torch.bool, device=self.tokens.device).tril()
        same = self.own[:, :, None] == self.own[:, None, :]
        asked = self.unit[:, :, None] == self.own[:, None, :]
        return before | ((same | asked) & earlier)


def row_tensors(logs: LogRows, rows: np.ndarray, nodes: ItemNodes, lead: int, device: torch.device) -> RowTensors:
    """Pad some rows into tensors. Codes of an item begin ``lead`` tokens later in an entry than in its token row."""
    entry, row = logs.entries_of(rows)
    sizes = logs.entries[rows + 1] - logs.entries[rows]
    local = entry - logs.entries[rows][row]
    tokens = logs.tokens.take(entry)
    lengths = tokens.lengths
    token_row, of = row[tokens.rows], tokens.rows
    begins = tokens.offsets[np.cumsum(sizes) - sizes]
    column = np.arange(len(token_row)) - begins[token_row]
    within = np.arange(len(of)) - tokens.offsets[of]
    width = int(np.bincount(row, weights=lengths, minlength=len(rows)).max())

    def padded(values: np.ndarray, fill: int) -> torch.Tensor:
        matrix = np.full((len(rows), width), fill, dtype=np.int64)
        matrix[token_row, column] = values
        return send(matrix, device)

    node = np.full(len(of), NO_NODE)
    for behavior, task in _TASK_OF.items():
        paths = nodes.of_item[task].numpy()
        mine = np.flatnonzero((logs.behavior[entry][of] == behavior) & (within >= lead))
        node[mine] = paths[logs.object[entry][of[mine]], within[mine] - lead]
    unit = logs.query[entry]
    places = row * width + tokens.offsets[:-1] - begins[row]
    query = np.where(within == 0, _asked_query(logs, logs.entries[rows][row], entry)[of], -1)
    return RowTensors(
        tokens=padded(tokens.values, 0),
        nodes=padded(node, NO_NODE),
        queries=padded(query, -1),
        positions=padded(logs.position[entry][of] + within, 0),
        opens=padded(logs.opens[entry][of], -1),
        closes=padded(logs.closes[entry][of], _NEVER),
        unit=padded(unit[of], -1),
        own=padded(local[of], -1),
        words=_asked_words(logs, logs.entries[rows][row] + unit, entry, places, device),
        places=places,
        entry=entry,
        row=row,
        units=int(unit.max()) + 1,
    )


def _asked_words(
    logs: LogRows, asked: np.ndarray, entry: np.ndarray, places: np.ndarray, device: torch.device
) -> AskedWords:
    """Collect the words that ask for items; ``asked`` is the entry that each of ``entry`` answers, or itself."""
    asks = np.flatnonzero((asked != entry) & np.isin(logs.behavior[asked], (schema.SEARCHED_QUERY, schema.DESCRIPTION)))
    tokens = logs.tokens.take(asked[asks])
    # The first token of an entry only leads it.
    word = np.arange(len(tokens.values)) > tokens.offsets[tokens.rows]
    of = tokens.rows[word]
    weight = (1.0 / np.maximum(tokens.lengths - 1, 1)).astype(np.float32)
    words = tokens.values[word].astype(np.int64)
    return AskedWords(send(places[asks][of], device), send(words, device), send(weight[of], device))


def questions(logs: LogRows, row: np.ndarray, entry: np.ndarray) -> Questions:
    """Collect what the evidence of some target entries is looked up by; ``row`` and ``entry`` int64 [n]."""
    earlier, question = logs.entries_of(row)
    seen = (logs.closes[earlier] < logs.opens[entry][question]) & (logs.behavior[earlier] != schema.SEARCHED_QUERY)
    history = Ragged.from_lengths(
        np.bincount(question[seen], minlength=len(row)).astype(np.int64), logs.object[earlier[seen]].astype(np.int64)
    )
    asked = _asked_query(logs, logs.entries[row], entry).astype(np.int64)
    return Questions(logs.user[row].astype(np.int64), asked, history)


def _asked_query(logs: LogRows, first: np.ndarray, entry: np.ndarray) -> np.ndarray:
    """Return the query whose item each entry is, -1 for none; ``first`` is the first entry of its row."""
    asked = first + logs.query[entry]
    return np.where((asked != entry) & (logs.behavior[asked] == schema.SEARCHED_QUERY), logs.object[asked], -1)


def item_targets(logs: LogRows, entry: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return which of the entries are item targets of each ranking task."""
    asked = logs.target[entry] != NO_TARGET
    return {task: np.flatnonzero(asked & (logs.behavior[entry] == behavior)) for behavior, task in _TASK_OF.items()}

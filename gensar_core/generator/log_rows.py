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
from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.runtime.device import send

#: Task of the item of each behavior; queries have none.
_TASK_OF = {schema.RECOMMENDED_ITEM: "rec", schema.SEARCHED_ITEM: "search"}
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
#: Group of padding: seen by no one and seeing nothing but itself.
_NEVER = np.iinfo(np.int32).max


@dataclass(frozen=True)
class LogRows:
    """Hold rows of users' logs (table `user_logs`).

    ``user`` [rows]; ``entries`` int64 [rows + 1] are the offsets of each row's entries; ``tokens`` holds the token ids
    of each entry; the other fields are the table's list columns, [entries].
    """

    user: np.ndarray
    entries: np.ndarray
    tokens: Ragged
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
        fields = {name: column.values.astype(np.int64) for name, column in columns.items()}
        return cls(
            frame.get_column("user_id").to_numpy().astype(np.int64),
            lengths.offsets,
            Ragged.from_lengths(lengths.values, tokens.values.astype(np.int64)),
            **fields,
        )

    @classmethod
    def load(cls, path: Path, vocabulary: int) -> LogRows:
        """Read a file of rows. Raises UserError when it is missing or holds tokens outside the vocabulary."""
        rows = cls.from_frame(schema.USER_LOGS.read(path))
        check_known(rows.tokens, vocabulary, path)
        return rows

    def __len__(self) -> int:
        return len(self.user)

    def followed_by(self, *others: LogRows) -> LogRows:
        """Return the rows of all."""
        parts = [self, *others]
        joined = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in (field.name for field in fields(self) if field.name not in ("entries", "tokens"))
        }
        sizes = np.concatenate([np.diff(part.entries) for part in parts])
        entries = np.concatenate([[0], np.cumsum(sizes)])
        return LogRows(entries=entries, tokens=stack([part.tokens for part in parts]), **joined)

    @functools.cached_property
    def row(self) -> np.ndarray:
        """Return the row of each entry, int64 [entries]."""
        return np.repeat(np.arange(len(self)), np.diff(self.entries))

    @functools.cached_property
    def training_task(self) -> np.ndarray:
        """Return the place in `TRAINING_TASKS` of each target's task, -1 for entries that are only read, [entries]."""
        task = self.behavior.copy()
        given = self.behavior[self.entries[self.row] + self.query]
        alone = self.user[self.row] == NO_USER
        for (first, asked), name in _ALIGNED.items():
            task[alone & (given == first) & (self.behavior == asked)] = TRAINING_TASKS.index(name)
        task[self.target == NO_TARGET] = -1
        return task

    @property
    def lengths(self) -> np.ndarray:
        """Count the tokens of each row, int64 [rows]."""
        total: np.ndarray = np.diff(self.tokens.offsets[self.entries])
        return total

    def places_of(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row and the entry of each click of ``targets``. Raises UserError when one is no target here."""
        asked = np.flatnonzero((self.target != NO_TARGET) & (self.behavior != schema.SEARCHED_QUERY))
        order = asked[np.argsort(self.target[asked], kind="stable")]
        place = np.searchsorted(self.target[order], targets)
        found = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(len(targets), dtype=np.int64)
        if len(targets) and (not len(order) or (self.target[found] != targets).any()):
            raise UserError("user logs: hold no row for some samples; build the corpus of these samples again")
        return np.searchsorted(self.entries, found, side="right") - 1, found


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
    sizes = np.diff(logs.entries)[rows]
    entry = ranges(logs.entries[rows], sizes)
    row = np.repeat(np.arange(len(rows)), sizes)
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
    first = logs.entries[row]
    sizes = logs.entries[row + 1] - first
    earlier = ranges(first, sizes)
    question = np.repeat(np.arange(len(row)), sizes)
    seen = (logs.closes[earlier] < logs.opens[entry][question]) & (logs.behavior[earlier] != schema.SEARCHED_QUERY)
    history = Ragged.from_lengths(
        np.bincount(question[seen], minlength=len(row)).astype(np.int64), logs.object[earlier[seen]]
    )
    return Questions(logs.user[row], _asked_query(logs, first, entry), history)


def _asked_query(logs: LogRows, first: np.ndarray, entry: np.ndarray) -> np.ndarray:
    """Return the query whose item each entry is, -1 for none; ``first`` is the first entry of its row."""
    asked = first + logs.query[entry]
    return np.where((asked != entry) & (logs.behavior[asked] == schema.SEARCHED_QUERY), logs.object[asked], -1)


def item_targets(logs: LogRows, entry: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return which of the entries are item targets of each ranking task."""
    asked = logs.target[entry] != NO_TARGET
    return {task: np.flatnonzero(asked & (logs.behavior[entry] == behavior)) for behavior, task in _TASK_OF.items()}

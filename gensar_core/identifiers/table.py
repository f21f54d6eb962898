"""Store every item's identifiers and read them as token strings or texts, for corpora and the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from pydantic import Field

from gensar_core import schema
from gensar_core.config.base import Settings, validate
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.stage import write_json
from gensar_core.schema import SIDES

#: The parts of a text that are compared: digits one by one, other characters by words.
_PARTS: Final = re.compile(r"\d|[^\s\d]+")


class Scheme(Settings):
    """Define what a side's rows are made of.

    ``codes``: code c at position p is the token ``<{levels[p]}_{c}>``, with c below ``sizes[p]``. ``text``: the pieces
    into which the corpus tokenizer splits the text.
    """

    levels: list[str] = Field(default_factory=list)
    sizes: list[int] = Field(default_factory=list)
    rows: Literal["codes", "text"] = "codes"


class Vocabulary(Settings):
    """Hold the schemes of both identifiers, the content of vocabulary.json."""

    semantic: Scheme
    collaborative: Scheme

    def scheme(self, side: str) -> Scheme:
        """Return the scheme of `semantic` or `collaborative`."""
        return self.semantic if side == "semantic" else self.collaborative


@dataclass(frozen=True)
class IdentifierTable:
    """Hold the identifiers of all items, in the order of their ids.

    ``tokens`` lists the distinct token strings of all codes, including those that no item uses. A side that is made of
    codes is in ``sides``, with one row of indices into ``tokens`` for each item; rows may differ in length. A side that
    is made of text is in ``texts``.
    """

    tokens: list[str]
    sides: dict[str, Ragged]
    texts: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> IdentifierTable:
        """Read identifiers.parquet and vocabulary.json from a folder.

        Raises UserError when a file is missing or broken, when item ids have gaps, when a code has no token, or when
        an item has no text.
        """
        path = folder / "identifiers.parquet"
        frame = schema.IDENTIFIERS.read(path).sort("item_id")
        if not np.array_equal(frame.get_column("item_id").to_numpy(), np.arange(len(frame))):
            raise UserError(f"{path}: item ids are not 0 to {len(frame) - 1}; build the identifiers again")
        vocabulary = read_vocabulary(folder / "vocabulary.json")
        sizes = _level_sizes(vocabulary)
        tokens = code_tokens(sizes)
        # The number of the token of each level's code 0.
        starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
        sides: dict[str, Ragged] = {}
        texts: dict[str, list[str]] = {}
        for side in SIDES:
            scheme, where = vocabulary.scheme(side), f"{path}: column {side!r}"
            if scheme.rows == "text":
                texts[side] = _text_rows(frame.get_column(f"{side}_text"), path)
            else:
                sides[side] = _token_rows(frame.get_column(side), scheme, starts, where)
        return cls(tokens, sides, texts)

    def __len__(self) -> int:
        return len(self.texts["semantic"] if "semantic" in self.texts else self.sides["semantic"])

    def text(self, side: str, item: int) -> str:
        """Return the identifier of one item as text; tokens stand side by side."""
        if side in self.texts:
            return self.texts[side][item]
        rows = self.sides[side]
        return "".join(self.tokens[token] for token in rows.values[rows.offsets[item] : rows.offsets[item + 1]])

    def parts(self, side: str) -> Ragged:
        """Return a side's identifiers as rows of numbers, equal for equal parts: codes, or words and digits of a text.

        Two identifiers share as long a beginning as their rows do.
        """
        if side in self.sides:
            return self.sides[side]
        words = [_PARTS.findall(text) for text in self.texts[side]]
        flat = pl.Series([word for row in words for word in row], dtype=pl.String())
        numbers = flat.rank("dense").cast(pl.Int64()).to_numpy()
        return Ragged.from_lengths(np.array([len(row) for row in words]), numbers)


def code_tokens(sizes: Mapping[str, int]) -> list[str]:
    """Name the tokens of all codes of levels, by the levels' names and numbers of codes."""
    return [f"<{level}_{code}>" for level, size in sizes.items() for code in range(size)]


def shared_codes(rows: Ragged, item: int) -> np.ndarray:
    """Count the first codes that each item's identifier shares with that of one item [n]."""
    width = int(rows.lengths.max(initial=0))
    codes = rows.padded(width, -1)
    same = (codes == codes[item]) & (codes[item] >= 0)
    shared: np.ndarray = np.logical_and.accumulate(same, axis=1).sum(axis=1)
    return shared


def save_identifiers(
    rows: Mapping[str, Ragged | Sequence[str]],
    moved: Mapping[str, np.ndarray],
    vocabulary: Vocabulary,
    parquet: Path,
    scheme: Path,
) -> None:
    """Write a table of identifiers and its vocabulary.

    ``rows`` maps each side to one row of codes, or one text, for each item; ``moved`` [n] marks items that the unique
    assignment moved.
    """
    columns = {"item_id": pl.Series(np.arange(len(rows["semantic"])), dtype=pl.Int32())}
    columns |= {side: _codes_of(rows[side]).to_series(side, pl.Int32()) for side in SIDES}
    columns |= {f"{side}_moved": pl.Series(moved[side]) for side in SIDES}
    columns |= {f"{side}_text": pl.Series(_texts_of(rows[side]), dtype=pl.String()) for side in SIDES}
    schema.IDENTIFIERS.write(pl.DataFrame(columns), parquet)
    write_json(scheme, vocabulary.model_dump(mode="json"))


def read_vocabulary(path: Path) -> Vocabulary:
    """Read vocabulary.json. Raises UserError when it is missing or malformed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; build the identifiers first") from None
    except ValueError:
        raise UserError(f"{path}: not readable JSON; delete it and build the identifiers again") from None
    vocabulary = validate(Vocabulary, content, str(path))
    for side in SIDES:
        scheme = vocabulary.scheme(side)
        if len(scheme.levels) != len(scheme.sizes):
            raise UserError(f"{path}: {side}: {len(scheme.levels)} levels but {len(scheme.sizes)} sizes")
    return vocabulary


def _level_sizes(vocabulary: Vocabulary) -> dict[str, int]:
    """Map each level name to the number of its codes; a name used twice is one level."""
    sizes: dict[str, int] = {}
    for side in SIDES:
        scheme = vocabulary.scheme(side)
        for level, size in zip(scheme.levels, scheme.sizes, strict=True):
            sizes[level] = max(size, sizes.get(level, 0))
    return sizes


def _codes_of(rows: Ragged | Sequence[str]) -> Ragged:
    """Return rows of codes; a text has none."""
    if isinstance(rows, Ragged):
        return rows
    return Ragged(np.zeros(len(rows) + 1, dtype=np.int64), np.zeros(0, dtype=np.int32))


def _texts_of(rows: Ragged | Sequence[str]) -> list[Any]:
    """Return texts; a row of codes has none."""
    return [None] * len(rows) if isinstance(rows, Ragged) else list(rows)


def _text_rows(column: pl.Series, path: Path) -> list[str]:
    texts: list[str | None] = column.to_list()
    for item, text in enumerate(texts):
        if text is None or not text.strip():
            raise UserError(f"{path}: item {item} has no text in column {column.name!r}; build the identifiers again")
    return [text for text in texts if text is not None]


def _token_rows(column: pl.Series, scheme: Scheme, starts: Mapping[str, int], where: str) -> Ragged:
    """Convert codes to indices of tokens."""
    codes = Ragged.from_series(column)
    position = np.arange(len(codes.values)) - codes.offsets[codes.rows]
    if codes.lengths.max(initial=0) > len(scheme.levels):
        raise UserError(f"{where}: an identifier has {codes.lengths.max()} codes, vocabulary.json has {scheme.levels}")
    wrong = np.flatnonzero((codes.values < 0) | (codes.values >= np.array(scheme.sizes, dtype=np.int64)[position]))
    if len(wrong):
        row, level = codes.rows[wrong[0]], scheme.levels[position[wrong[0]]]
        raise UserError(f"{where}: item {row} has code {codes.values[wrong[0]]} at level {level}, which has no token")
    first = np.array([starts[level] for level in scheme.levels], dtype=np.int64)
    return Ragged(codes.offsets, codes.values + first[position])

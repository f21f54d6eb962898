"""Store every item's identifiers and read them as token strings, for corpora and the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.base import Settings, validate
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.stage import write_json
from gensar_core.schema import SIDES


class Scheme(Settings):
    """Define the tokens of an identifier: code c at position p is ``<{levels[p]}_{c}>``, with c below ``sizes[p]``."""

    levels: list[str]
    sizes: list[int]


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

    ``tokens`` lists the distinct token strings of both sides, including those that no item uses; ``sides`` maps
    `semantic` and `collaborative` to one row of indices into ``tokens`` for each item. Rows may differ in length.
    """

    tokens: list[str]
    sides: dict[str, Ragged]

    @classmethod
    def load(cls, folder: Path) -> IdentifierTable:
        """Read identifiers.parquet and vocabulary.json from a folder.

        Raises UserError when a file is missing or broken, when item ids have gaps, or when a code has no token.
        """
        path = folder / "identifiers.parquet"
        frame = schema.IDENTIFIERS.read(path).sort("item_id")
        if not np.array_equal(frame.get_column("item_id").to_numpy(), np.arange(len(frame))):
            raise UserError(f"{path}: item ids are not 0 to {len(frame) - 1}; build the identifiers again")
        vocabulary = read_vocabulary(folder / "vocabulary.json")
        sizes = _level_sizes(vocabulary)
        tokens = [f"<{level}_{code}>" for level, size in sizes.items() for code in range(size)]
        # The number of the token of each level's code 0.
        starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
        sides: dict[str, Ragged] = {
            side: _token_rows(frame.get_column(side), vocabulary.scheme(side), starts, f"{path}: column {side!r}")
            for side in SIDES
        }
        return cls(tokens, sides)

    def __len__(self) -> int:
        return len(self.sides["semantic"])

    def text(self, side: str, item: int) -> str:
        """Return the identifier of one item as text, tokens side by side."""
        rows = self.sides[side]
        return "".join(self.tokens[token] for token in rows.values[rows.offsets[item] : rows.offsets[item + 1]])


def shared_codes(rows: Ragged, item: int) -> np.ndarray:
    """Count the first codes that each item's identifier shares with that of one item [n]."""
    width = int(rows.lengths.max(initial=0))
    codes = rows.padded(width, -1)
    same = (codes == codes[item]) & (codes[item] >= 0)
    shared: np.ndarray = np.logical_and.accumulate(same, axis=1).sum(axis=1)
    return shared


def save_identifiers(
    codes: Mapping[str, Ragged], moved: Mapping[str, np.ndarray], vocabulary: Vocabulary, parquet: Path, scheme: Path
) -> None:
    """Write a table of identifiers and its vocabulary.

    ``codes`` maps each side to one row of codes for each item; ``moved`` [n] marks items that the unique assignment
    moved.
    """
    columns = {"item_id": pl.Series(np.arange(len(codes["semantic"])), dtype=pl.Int32())}
    columns |= {side: codes[side].to_series(side, pl.Int32()) for side in SIDES}
    columns |= {f"{side}_moved": pl.Series(moved[side]) for side in SIDES}
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

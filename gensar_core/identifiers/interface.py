"""Define the interface of kinds of identifiers: one object in one file of kinds/, looked up by the file's name."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np

from gensar_core import schema
from gensar_core.config.identifiers import KindSettings
from gensar_core.errors import UserError
from gensar_core.identifiers.table import Scheme
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.stage import Stage

S = TypeVar("S", bound=KindSettings)

#: The folder of the kinds' files; it holds nothing else.
_KINDS = Path(__file__).parent / "kinds"

#: The data that a kind may be built from -> the fields of `KindData` that hold it.
INPUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "vectors": ("vectors",),
    "clicks": ("training_events",),
    "searches": ("training_events", "queries"),
    "items": ("item_texts",),
}


@dataclass(frozen=True)
class KindData:
    """Hold the paths of everything that a kind may be built from; those it does not declare are missing."""

    #: Side -> vectors.safetensors of its embedding; one side or both.
    vectors: Mapping[str, Path] = field(default_factory=dict)
    #: The training clicks and searches of all users (table `events`).
    training_events: Path | None = None
    #: The canonical queries.
    queries: Path | None = None
    #: The canonical items: their number, titles and texts.
    item_texts: Path | None = None
    #: Queries generated for items (table `pseudo_queries`), where an entry names some; no kind must have them.
    pseudo_queries: Path | None = None
    #: Items to learn nothing from (table `cold_items`), where the data set holds some out.
    cold_items: Path | None = None

    @classmethod
    def of_files(cls, files: Mapping[str, Path]) -> KindData:
        """Take files by what they are: vectors by their side, tables by the names of these fields."""
        tables = {name: path for name, path in files.items() if name not in schema.SIDES}
        return cls({side: files[side] for side in schema.SIDES if side in files}, **tables)

    def declared(self, inputs: tuple[str, ...]) -> KindData:
        """Return the same with the paths of ``inputs`` alone. Raises UserError when one of these is missing."""
        fields = dict.fromkeys(name for one in inputs for name in INPUTS[one])
        for name in fields:
            if not getattr(self, name):
                raise UserError(f"identifiers: {_MISSING[name]}")
        read = {name: getattr(self, name) for name in fields}
        return KindData(**read, pseudo_queries=self.pseudo_queries, cold_items=self.cold_items)

    @property
    def paths(self) -> list[Path]:
        """List all paths."""
        others = (self.training_events, self.queries, self.item_texts, self.pseudo_queries, self.cold_items)
        return [*self.vectors.values(), *(path for path in others if path is not None)]

    def n_items(self) -> int:
        """Count the items of ``item_texts``."""
        return len(schema.ITEMS.read(self.path("item_texts")))

    def path(self, name: str) -> Path:
        """Return a path that the kind declares."""
        path: Path | None = getattr(self, name)
        assert path is not None, f"the kind does not declare {name}"
        return path


_MISSING: Final = {
    "vectors": "give a semantic embedding, a collaborative one, or both",
    "training_events": "this kind is built from clicks: give it the table training_events.parquet",
    "queries": "this kind is built from searches: give it the table queries.parquet",
    "item_texts": "this kind is built from the items: give it the table items.parquet",
}


@dataclass(frozen=True)
class Work:
    """Hold the run of a build: its stage, the seed, and the folder from which a killed training continues."""

    stage: Stage
    seed: int
    checkpoints: Path | None = None


@dataclass(frozen=True)
class SideIdentifiers:
    """Hold one side's identifiers of all items, in the order of their ids."""

    #: A row of codes or a text for each item, as ``scheme`` says.
    rows: Ragged | list[str]
    scheme: Scheme
    #: Whether an item's identifier is another than its nearest codes, to be unique [n]; None: no item's.
    moved: np.ndarray | None = None
    #: Quality metrics of this kind alone, for the record; collisions and use of codes are counted for all kinds.
    counts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind(Generic[S]):
    """Describe a kind of identifiers: what it reads, and how it is built. See `identifiers.kinds`."""

    settings: type[S]
    paper: str
    build: Callable[[S, KindData, Work], Mapping[str, SideIdentifiers]]


def read_settings(text: str) -> KindSettings:
    """Read the settings of any kind from their JSON."""
    settings: KindSettings = find_kind(json.loads(text)["kind"]).settings.model_validate_json(text)
    return settings


def identifier_kinds() -> list[str]:
    """List all kinds by the names of their files, sorted."""
    return sorted(file.stem for file in _KINDS.glob("*.py") if file.stem != "__init__")


def find_kind(kind: str) -> Kind[Any]:
    """Return a kind of identifiers. Raises UserError when no file has that name."""
    if kind not in identifier_kinds():
        raise UserError(f"identifiers: no kind {kind!r} (there: {', '.join(identifier_kinds())})")
    found: Kind[Any] = importlib.import_module(f"gensar_core.identifiers.kinds.{kind}").KIND
    return found

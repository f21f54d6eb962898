"""Name users and items of a data set by raw ids, and open the generators trained on it."""

from __future__ import annotations

import difflib
import functools
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import transformers

from gensar_core import schema
from gensar_core.config.generators import Precision
from gensar_core.corpora.live_prompts import Entry
from gensar_core.errors import UserError
from gensar_core.generator.live_questions import Hit
from gensar_core.generator.open import Generator, live_files, load_generator
from gensar_core.generator.trained import exported_corpus
from gensar_core.runtime.stage import read_record
from gensar_core.samples.events import NONE, EventLog
from gensar_core.samples.histories import Histories

_KINDS = {"clicked": Entry.clicked, "found": Entry.found}


@dataclass(frozen=True)
class Shop:
    """Read the canonical tables of a data set by raw ids. The project's own numbers are written #17."""

    canonical: Path
    #: Folder of the items table, where items were added since (stage `add_items`).
    added: Path | None = None
    #: Suggest a close id for an unknown one, which takes a pass over all ids.
    suggests: bool = True
    #: The folder is an exported one, which knows no users.
    exported: bool = False

    @functools.cached_property
    def items(self) -> pl.DataFrame:
        """Return item_id, raw_id, title and categories of every item, in the order of item_id."""
        path = (self.added or self.canonical) / "items.parquet"
        if not path.is_file():
            raise UserError(f"{path}: no such file; name a data set's folder, such as results/demo")
        return pl.read_parquet(path, columns=["item_id", "raw_id", "title", "categories"]).sort("item_id")

    @functools.cached_property
    def users(self) -> pl.Series:
        """Return the raw id of every user, in the order of user_id; an exported folder has none."""
        if self.exported:
            return pl.Series(dtype=pl.String)
        return schema.USERS.read(self.canonical / "users.parquet").sort("user_id").get_column("raw_id")

    @functools.cached_property
    def _item_numbers(self) -> dict[str, int]:
        return dict(zip(self.items.get_column("raw_id").to_list(), range(len(self.items)), strict=True))

    @functools.cached_property
    def _user_numbers(self) -> dict[str, int]:
        return dict(zip(self.users.to_list(), range(len(self.users)), strict=True))

    @functools.cached_property
    def _events(self) -> EventLog:
        return EventLog.from_frame(schema.EVENTS.read(self.canonical / "events.parquet"))

    @functools.cached_property
    def _queries(self) -> pl.Series:
        return schema.QUERIES.read(self.canonical / "queries.parquet").sort("query_id").get_column("text")

    @functools.cached_property
    def _categories(self) -> pl.DataFrame:
        paths = self.items.select("item_id", "categories").explode("categories").explode("categories")
        return paths.drop_nulls().unique()

    def item(self, name: str) -> int:
        """Return an item's number. Raises UserError when no item has that name."""
        return self._number(name, self._item_numbers, "item")

    def user(self, name: str) -> int:
        """Return a user's number. Raises UserError when no user has that name."""
        return self._number(name, self._user_numbers, "user")

    def _number(self, name: str, numbers: dict[str, int], kind: str) -> int:
        if name in numbers:
            return numbers[name]
        if name.startswith("#") and name[1:].isdecimal() and int(name[1:]) < len(numbers):
            return int(name[1:])
        if not numbers:
            raise UserError(f"{kind} {name!r}: an exported folder holds no {kind}s; give a history")
        close = difflib.get_close_matches(name, numbers, n=1) if self.suggests and len(numbers) <= 100_000 else []
        hint = f"did you mean {close[0]}?" if close else f"write a raw id, or #0 to #{len(numbers) - 1} for its number"
        raise UserError(f"{kind} {name!r}: there is none among the {len(numbers):,}; {hint}")

    def history(self, user: int) -> list[Entry]:
        """Return a user's whole history, as Eq. 1 defines it."""
        # Events are ordered by user. A number of another type would convert the whole array.
        owner = self._events.user
        first, end = np.searchsorted(owner, np.array([user, user + 1], owner.dtype))
        return next(iter(whole_histories(self._events.take(np.arange(first, end)), self._queries)), [])

    def read_history(self, written: Sequence[str]) -> list[Entry]:
        """Parse a history from the command line: clicked=ITEM, query=WORDS, found=ITEM, oldest first.

        Raises UserError on anything else, and on an item found before any query.
        """
        told = []
        for text in written:
            kind, equals, value = text.partition("=")
            if not equals or kind not in ("query", *_KINDS):
                raise UserError(f"history: {text!r} is not clicked=ITEM, query=WORDS or found=ITEM")
            told.append((kind, value))
        return self.entries(told)

    def entries(self, told: Iterable[tuple[str, str]]) -> list[Entry]:
        """Return a history told as pairs of `clicked`, `query` or `found`, and a raw item id or words; oldest first.

        Raises UserError on an item found before any query, and on items that do not exist.
        """
        entries: list[Entry] = []
        for kind, value in told:
            if kind == "found" and not any(entry.behavior == schema.SEARCHED_QUERY for entry in entries):
                raise UserError(
                    f"history: 'found={value}' comes before any query=WORDS; write clicked= for a recommended item"
                )
            entries.append(Entry.searched(value) if kind == "query" else _KINDS[kind](self.item(value)))
        return entries

    def allowed(self, only: Collection[str] | None, category: str | None) -> np.ndarray | None:
        """Mask the items that may be returned, bool [n_items]: those named in ``only`` and of a category; None: all.

        Names that no item has count for nothing. Raises UserError when no item is left.
        """
        mask = np.ones(len(self.items), dtype=bool)
        if only is None and category is None:
            return None
        if only is not None:
            named = np.zeros(len(mask), dtype=bool)
            named[[self._item_numbers[name] for name in only if name in self._item_numbers]] = True
            mask &= named
        if category is not None:
            inside = np.zeros(len(mask), dtype=bool)
            inside[self._categories.filter(pl.col("categories") == category).get_column("item_id").to_numpy()] = True
            mask &= inside
        if not mask.any():
            raise UserError("no item is left to return: the named items or the category are none of the catalogue")
        return mask

    def rows(self, hits: Sequence[Hit]) -> list[dict[str, Any]]:
        """Return the rank, raw id, title and score of each hit."""
        return [
            {
                "rank": place + 1,
                "item": self.items.item(hit.item, "raw_id"),
                "title": self.items.item(hit.item, "title"),
                "score": round(hit.score, 4),
            }
            for place, hit in enumerate(hits)
        ]


@dataclass(frozen=True)
class Folders:
    """Name the folders of a trained generator: the canonical tables of its data set, its model and its corpus.

    An exported folder is both the first and the second, and holds the third; of the tables it has the items alone.
    """

    canonical: Path
    model: Path
    corpus: Path
    #: Items that were added since (stage `add_items`).
    added: Path | None = None

    @classmethod
    def of(cls, dataset: Path, name: str | None) -> Folders:
        """Find the folders of the generator ``name`` of a data set; None: ``dataset`` is an exported folder.

        Raises UserError when there is none.
        """
        if name is None:
            return cls(dataset, dataset, exported_corpus(dataset))
        model = dataset / "models" / name
        if not (model / "config.json").is_file():
            trained = sorted(path.parent.name for path in dataset.glob("models/*/config.json"))
            raise UserError(f"{model}: no such generator (trained here: {', '.join(trained) or 'none'})")
        corpus = dataset / "corpora" / _read_by(model, "item_tokens.parquet")
        added = dataset / "added" / name
        return cls(dataset / "canonical", model, corpus, added if (added / "stage.json").is_file() else None)

    @property
    def exported(self) -> bool:
        """Tell whether this is an exported folder."""
        return self.canonical == self.model

    def shop(self, *, suggests: bool = True) -> Shop:
        """Return the names of users and items."""
        return Shop(self.canonical, self.added, suggests, self.exported)

    @property
    def identifiers(self) -> Path:
        """Return the folder of the identifiers that the generator writes."""
        if self.exported:
            return self.model / "identifiers"
        return self.canonical.parent / "identifiers" / _read_by(self.corpus, "identifiers.parquet")

    @property
    def embedding(self) -> Path:
        """Return the folder of the semantic embedding of the identifiers."""
        return self.canonical.parent / "embeddings" / _read_by(self.identifiers, "vectors.safetensors")

    def records(self) -> list[Path]:
        """List the records that change when the generator is trained again, or items are added to it."""
        added = [] if self.exported else [self.canonical.parent / "added" / self.model.name / "stage.json"]
        return [self.model / "stage.json", *added]

    def load(self, precision: Precision = "float32") -> Generator:
        """Load the generator."""
        # Loading takes half a second, so it needs no bar among the answers.
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        return load_generator(self.model, self.corpus, precision, self.added)

    def files(self) -> list[Path]:
        """List the files that answers depend on, beside questions."""
        model = [self.model / "config.json", *sorted(self.model.glob("*.safetensors"))]
        corpus = [self.corpus / name for name in live_files(self.model, self.corpus)]
        added = [] if self.added is None else [self.added / "stage.json"]
        return [*model, *corpus, self.canonical / "items.parquet", *added]


def _read_by(stage: Path, file: str) -> str:
    """Return the name of the folder that a stage read a ``file`` from; of two embeddings, the semantic one is first."""
    inputs = read_record(stage / "stage.json")["inputs"]
    folders = [Path(path).parent.name for path in inputs if Path(path).name == file]
    if not folders:
        raise UserError(f"{stage / 'stage.json'}: does not name the folder of {file}; build this stage again")
    return folders[0]


def whole_histories(log: EventLog, queries: pl.Series | Mapping[int, str]) -> list[list[Entry]]:
    """Return the whole history of each user in ``log`` (all events of these users), by user number.

    ``queries`` gives the words of a query by its number.
    """
    last = np.flatnonzero(np.diff(log.user, append=NONE) != 0)
    nothing = np.full(len(last), NONE)
    # The target of each history is a click still to come.
    coming = EventLog(
        event=log.event[last] + 1,
        user=log.user[last],
        time=log.time[last] + 1,
        item=nothing,
        query=nothing,
        session=nothing,
        searched=np.zeros(len(last), dtype=bool),
        twins=np.zeros(len(last), dtype=np.int64),
    )
    inputs = Histories(log, "strict").inputs(coming, len(log), len(log))
    entries = [
        Entry.searched(queries[thing]) if behavior == schema.SEARCHED_QUERY else Entry(behavior, thing)
        for behavior, thing in zip(inputs.behavior.values.tolist(), inputs.object.values.tolist(), strict=True)
    ]
    offsets = inputs.behavior.offsets.tolist()
    return [entries[first:end] for first, end in itertools.pairwise(offsets)]


def clicked_items(history: Sequence[Entry]) -> set[int]:
    """Return the items that a history names."""
    return {entry.object for entry in history if isinstance(entry.object, int)}


def read_lines(file: Path) -> list[str]:
    """Read the lines of a text file, such as raw ids; blank ones are left out.

    Raises UserError when the file cannot be read, is not UTF-8 or has no line left.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read; give a text file in UTF-8 with one name a line") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"{file}: is empty; write one name a line")
    return names

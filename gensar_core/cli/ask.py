"""Query a trained model in a data set's folder: raw ids in, titles out."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from transformers.utils.logging import disable_progress_bar

from gensar_core import schema
from gensar_core.corpora.live_prompts import Entry
from gensar_core.errors import UserError
from gensar_core.generator.ask import Hit
from gensar_core.generator.open import Generator, load_generator
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

    @functools.cached_property
    def items(self) -> pl.DataFrame:
        """Return item_id, raw_id, title and categories of every item, in the order of item_id."""
        path = (self.added or self.canonical) / "items.parquet"
        if not path.is_file():
            raise UserError(f"{path}: no such file; name a data set's folder, such as results/demo")
        return pl.read_parquet(path, columns=["item_id", "raw_id", "title", "categories"]).sort("item_id")

    def item(self, name: str) -> int:
        """Return an item's number. Raises UserError when no item has that name."""
        return _number(name, self.items.get_column("raw_id"), "item")

    def user(self, name: str) -> int:
        """Return a user's number. Raises UserError when no user has that name."""
        users = pl.read_parquet(self.canonical / "users.parquet").sort("user_id")
        return _number(name, users.get_column("raw_id"), "user")

    def history(self, user: int) -> list[Entry]:
        """Return a user's whole history, as Eq. 1 defines it."""
        path = self.canonical / "events.parquet"
        events = pl.scan_parquet(path).filter(pl.col("user_id") == user).sort("event_id").collect()
        log = EventLog.from_frame(events)
        # The target of this history is a click still to come.
        coming = EventLog(
            event=log.event[-1:] + 1,
            user=log.user[-1:],
            time=log.time[-1:] + 1,
            item=np.array([NONE]),
            query=np.array([NONE]),
            session=np.array([NONE]),
            searched=np.array([False]),
            twins=np.array([0]),
        )
        inputs = Histories(log, "strict").inputs(coming, len(log), len(log))
        words = pl.read_parquet(self.canonical / "queries.parquet").sort("query_id").get_column("text")
        return [
            Entry.searched(words[thing]) if behavior == schema.SEARCHED_QUERY else Entry(behavior, thing)
            for behavior, thing in zip(inputs.behavior.values.tolist(), inputs.object.values.tolist(), strict=True)
        ]

    def read_history(self, written: Sequence[str]) -> list[Entry]:
        """Parse a history from the command line: clicked=ITEM, query=WORDS, found=ITEM, oldest first.

        Raises UserError on anything else, and on an item found before any query.
        """
        entries: list[Entry] = []
        for text in written:
            kind, equals, value = text.partition("=")
            if not equals or kind not in ("query", *_KINDS):
                raise UserError(f"history: {text!r} is not clicked=ITEM, query=WORDS or found=ITEM")
            if kind == "found" and not any(entry.behavior == schema.SEARCHED_QUERY for entry in entries):
                raise UserError(
                    f"history: {text!r} comes before any query=WORDS; write clicked= for a recommended item"
                )
            entries.append(Entry.searched(value) if kind == "query" else _KINDS[kind](self.item(value)))
        return entries

    def allowed(self, only: Path | None, category: str | None) -> np.ndarray | None:
        """Mask the items that may be returned, bool [n_items]: those listed in a file and of a category; None: all."""
        mask = np.ones(len(self.items), dtype=bool)
        if only is not None:
            try:
                names = only.read_text(encoding="utf-8").split()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{only}: cannot be read; give a text file with one raw item id a line") from error
            mask &= self.items.get_column("raw_id").is_in(names).to_numpy()
        if category is not None:
            paths = self.items.get_column("categories").to_list()
            mask &= np.array([any(category in path for path in item_paths) for item_paths in paths], dtype=bool)
        if not mask.any():
            raise UserError(
                "no item is left to return: the file of --only or the --category names none of the catalogue"
            )
        return None if only is None and category is None else mask

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


def open_generator(dataset: Path, name: str) -> Generator:
    """Load the generator ``name`` trained on a data set, with the corpus that its record names and the items added."""
    model = dataset / "models" / name
    corpus = trained_on(dataset, name)
    # Loading takes half a second, so it needs no bar among the answers.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    return load_generator(model, corpus, added=added_to(dataset, name))


def trained_on(dataset: Path, name: str) -> Path:
    """Return the corpus that the generator ``name`` was trained on, by its record."""
    model = dataset / "models" / name
    if not (model / "config.json").is_file():
        trained = sorted(path.parent.name for path in dataset.glob("models/*/config.json"))
        raise UserError(f"{model}: no such generator (trained here: {', '.join(trained) or 'none'})")
    return dataset / "corpora" / named_input(model, "item_tokens.parquet", "the corpus that the model was trained on")


def added_to(dataset: Path, name: str) -> Path | None:
    """Return the folder of the items that were added to a generator; None when there are none."""
    folder = dataset / "added" / name
    return folder if (folder / "stage.json").is_file() else None


def named_input(stage: Path, file: str, meaning: str) -> str:
    """Return the entry whose ``file`` a stage read, by its record: the name of the file's folder.

    Where a stage read several of this name, it is the first one. Raises UserError when there is none.
    """
    inputs = read_record(stage / "stage.json")["inputs"]
    entries = [Path(path).parent.name for path in inputs if Path(path).name == file]
    if not entries:
        raise UserError(f"{stage / 'stage.json'}: does not name {meaning}; run its stage again")
    return entries[0]


def clicked_items(history: Sequence[Entry]) -> set[int]:
    """Return the items that a history names."""
    return {entry.object for entry in history if isinstance(entry.object, int)}


def _number(name: str, raw_ids: pl.Series, kind: str) -> int:
    place = raw_ids.index_of(name)
    if place is not None:
        return place
    if name.startswith("#") and name[1:].isdecimal() and int(name[1:]) < len(raw_ids):
        return int(name[1:])
    close = difflib.get_close_matches(name, raw_ids.to_list(), n=1) if len(raw_ids) <= 100_000 else []
    hint = f"did you mean {close[0]}?" if close else f"write a raw id, or #0 to #{len(raw_ids) - 1} for its number"
    raise UserError(f"{kind} {name!r}: there is none among the {len(raw_ids):,}; {hint}")

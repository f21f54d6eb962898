"""Cleaned logs of clicks -> canonical tables: what the sources eventlog and kuaisar share.

A source hands over its items and events as lazy frames of cleaned text. They stream to disk once; from there on events
are whole numbers, so that tens of millions of them fit in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.data import ClickSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage
from gensar_core.sources.category_paths import category_column
from gensar_core.sources.core import interaction_core
from gensar_core.sources.numbering import codes, renumber, session_numbers, sorted_names
from gensar_core.sources.tabular import reading

#: How many skipped rows are shown by number.
EXAMPLES: Final = 5

#: What makes an item's row unusable -> what to write instead.
ITEM_FAULTS: Final = {"empty_item_id": "give every row an item_id"}


@dataclass(frozen=True)
class EventRows:
    """The event rows of one file: what the record calls them, and which faults they may have, each with its cure.

    ``searched`` lists the values that the column of this name takes in them.
    """

    name: str
    file: Path
    searched: tuple[bool, ...]
    faults: Mapping[str, str]


@dataclass(frozen=True)
class RawClicks:
    """A source's cleaned rows. A row with a `fault` (its name, else null) is counted and skipped.

    ``items`` holds row (number in the raw file), raw_id, title, description, brand, categories (text, never null;
    categories as ``category_paths`` reads them), fault. ``events`` holds row, user, item (raw ids), time (unix
    seconds), searched (bool), query and session (text for a search that has one, else null), fault. ``kinds`` says
    where the events come from; every value of `searched` belongs to one of them.
    """

    items: pl.LazyFrame
    events: pl.LazyFrame
    item_file: Path
    kinds: tuple[EventRows, ...]

    @property
    def event_files(self) -> list[Path]:
        """The files behind ``events``."""
        return [kind.file for kind in self.kinds]


def write_canonical(stage: Stage, raw: RawClicks, settings: ClickSettings) -> None:
    """Write users, items, queries and events.parquet, and every count into the stage's record.

    Raises UserError when a file cannot be read, holds no rows, is unusable in more than half of its rows, or when no
    event is left.
    """
    account = _Account(stage, raw)
    items_file, events_file = stage.path("cleaned_items.parquet"), stage.path("cleaned_events.parquet")
    with reading(raw.item_file):
        raw.items.sink_parquet(items_file, compression="lz4")
    with reading(*raw.event_files):
        raw.events.sink_parquet(events_file, compression="lz4")
    known = _known_items(account, pl.scan_parquet(items_file))
    account.event_faults(pl.scan_parquet(events_file))
    names, events = _coded(pl.scan_parquet(events_file).filter(pl.col("fault").is_null()), known["raw_id"])
    events_file.unlink()

    events = account.skip(events, events["item"].is_null(), "unknown_item")
    if not settings.keep_textless_items:
        has_text = known["has_text"].gather(events["item"])
        events = account.skip(events, ~has_text, "item_without_text")
    # A search comes last within its time; inside a kind the file's order stands.
    events = events.sort("user", "time", "searched", "row")
    events = account.skip(events, _repeated(events), "duplicate")
    events = _core(stage, events, settings.min_interactions)
    if events.is_empty():
        raise UserError(
            f"{' and '.join(map(str, raw.event_files))}: no event is left ({account.summary()}); check the columns "
            "against docs/own-data.md, or lower min_interactions"
        )
    _write(stage, events, names, known, pl.scan_parquet(items_file))
    items_file.unlink()


class _Account:
    """Counts of what was read and skipped, with the numbers of the first few rows skipped for each reason."""

    def __init__(self, stage: Stage, raw: RawClicks) -> None:
        self.stage = stage
        self.raw = raw
        self.skipped: dict[str, int] = {}
        self.examples: dict[str, list[int]] = {}
        stage.record(skipped_rows=self.examples)

    def add(self, name: str, rows: pl.Series) -> None:
        """Count the rows of one reason."""
        self.skipped[name] = len(rows)
        self.stage.record(**{name: len(rows)})
        if len(rows):
            self.examples[name] = rows.bottom_k(EXAMPLES).sort().to_list()

    def skip(self, events: pl.DataFrame, bad: pl.Series, reason: str) -> pl.DataFrame:
        """Count the events that are ``bad``; return the others."""
        lost = events.filter(bad)
        for kind in self.raw.kinds:
            self.add(f"{kind.name}_{reason}", lost.filter(pl.col("searched").is_in(kind.searched))["row"])
        return events.filter(~bad)

    def event_faults(self, events: pl.LazyFrame) -> None:
        """Count events read, and those that cannot be used as they stand."""
        faulty = events.filter(pl.col("fault").is_not_null()).select("row", "searched", "fault")
        lost = faulty.with_columns(pl.col("searched").fill_null(False)).collect(engine="streaming")
        total = events.group_by(pl.col("searched").fill_null(False)).len().collect(engine="streaming")
        for kind in self.raw.kinds:
            own = pl.col("searched").is_in(kind.searched)
            self._faults(kind.name, int(total.filter(own)["len"].sum()), lost.filter(own), kind.faults, kind.file)

    def item_faults(self, read: int, faulty: pl.DataFrame) -> None:
        """Count items read, and those that cannot be used."""
        self._faults("items", read, faulty, ITEM_FAULTS, self.raw.item_file)

    def _faults(self, name: str, read: int, lost: pl.DataFrame, faults: Mapping[str, str], file: Path) -> None:
        self.stage.record(**{f"{name}_read": read})
        if read == 0:
            raise UserError(f"{file}: holds no rows that could be used; fill it, or name another file")
        for fault in faults:
            self.add(f"{name}_{fault}", lost.filter(pl.col("fault") == fault)["row"])
        if 2 * len(lost) > read:
            worst = max(faults, key=lambda fault: self.skipped[f"{name}_{fault}"])
            row, reason = self.examples[f"{name}_{worst}"][0], worst.replace("_", " ")
            raise UserError(
                f"{file}: {len(lost):,} of {read:,} rows cannot be used, most for {reason} (row {row} is the first); "
                f"{faults[worst]}"
            )

    def summary(self) -> str:
        """What was skipped, in words."""
        lost = [f"{name.replace('_', ' ')}: {count:,}" for name, count in self.skipped.items() if count]
        return ", ".join(lost) or "none was skipped"


def _known_items(account: _Account, items: pl.LazyFrame) -> pl.DataFrame:
    """The usable items, in the order of raw_id: row, raw_id, has_text."""
    has_text = (pl.col("title") != "") | (pl.col("description") != "")
    table = items.select("row", "raw_id", "fault", has_text=has_text).collect(engine="streaming").sort("row")
    account.item_faults(len(table), table.filter(pl.col("fault").is_not_null()))
    known = table.filter(pl.col("fault").is_null()).drop("fault")
    first = known["raw_id"].is_first_distinct()
    account.add("items_duplicate", known.filter(~first)["row"])
    known = known.filter(first)
    account.stage.record(items_without_text=int((~known["has_text"]).sum()))
    return known.sort("raw_id")


def _coded(events: pl.LazyFrame, item_names: pl.Series) -> tuple[dict[str, pl.Series], pl.DataFrame]:
    """Events with numbers for texts, and the names behind the numbers: user, item and query; item null if unknown."""
    names = {
        "user": sorted_names(events.select("user")),
        "item": item_names,
        "query": sorted_names(events.select("query")),
        "session": sorted_names(events.select("session")),
    }
    coded = [codes(pl.col(column), texts).alias(column) for column, texts in names.items()]
    return names, events.select("row", "time", "searched", *coded).collect(engine="streaming")


def _repeated(events: pl.DataFrame) -> pl.Series:
    """Which events equal an earlier one in user, time, kind, item and query; ``events`` are in event order."""
    moment = ("user", "time", "searched")
    as_before = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift()) for name in moment)
    tied = events.select(as_before | as_before.shift(-1, fill_value=False)).to_series()
    # Equal events stand within one moment of one user, and few moments hold two events.
    places = pl.Series(np.flatnonzero(tied.to_numpy()))
    again = ~events.filter(tied).select(pl.struct(*moment, "item", "query").is_first_distinct()).to_series()
    repeated = np.zeros(len(events), dtype=bool)
    repeated[places.filter(again).to_numpy()] = True
    return pl.Series(repeated)


def _core(stage: Stage, events: pl.DataFrame, minimum: int) -> pl.DataFrame:
    """The events of users and items with at least ``minimum`` events, over both kinds."""
    inside, rounds = interaction_core(events["user"].to_numpy(), events["item"].to_numpy(), minimum)
    kept = events.filter(pl.Series(inside))
    stage.record(
        core_rounds=rounds,
        events_outside_core=len(events) - len(kept),
        users_outside_core=events["user"].n_unique() - kept["user"].n_unique(),
        items_outside_core=events["item"].n_unique() - kept["item"].n_unique(),
    )
    return kept


def _write(
    stage: Stage, events: pl.DataFrame, names: dict[str, pl.Series], known: pl.DataFrame, cleaned: pl.LazyFrame
) -> None:
    users, user_names = renumber(events["user"], names["user"])
    items, item_names = renumber(events["item"], names["item"])
    queries, query_names = renumber(events["query"], names["query"])
    searched = events["searched"]
    sessions = np.zeros(len(events), dtype=np.int64)
    sessions[searched.to_numpy()] = session_numbers(events.filter(searched)).to_numpy()
    kind = pl.when(searched).then(pl.lit("search")).otherwise(pl.lit("rec"))
    table = pl.select(
        event_id=pl.int_range(len(events), dtype=pl.Int64()),
        user_id=users,
        time=events["time"],
        task=kind.cast(schema.Task),
        item_id=items,
        query_id=queries,
        session_id=pl.when(searched).then(pl.Series(sessions)),
    )
    schema.EVENTS.write(table, stage.path("events.parquet"))
    schema.USERS.write(_numbered("user_id", raw_id=user_names), stage.path("users.parquet"))
    schema.QUERIES.write(_numbered("query_id", text=query_names), stage.path("queries.parquet"))
    schema.ITEMS.write(_item_table(item_names, known, cleaned), stage.path("items.parquet"))
    stage.record(
        users=len(user_names),
        items=len(item_names),
        queries=len(query_names),
        recommendation_interactions=int((~searched).sum()),
        search_interactions=int(searched.sum()),
        search_sessions=int(sessions.max(initial=-1)) + 1 if searched.any() else 0,
    )


def _numbered(number: str, **column: pl.Series) -> pl.DataFrame:
    return pl.DataFrame(column).with_row_index(number)


def _item_table(names: pl.Series, known: pl.DataFrame, cleaned: pl.LazyFrame) -> pl.DataFrame:
    """Table `items` for the items that have events; only their texts are read."""
    numbers = _numbered("item_id", raw_id=names).join(known, on="raw_id", how="inner").select("item_id", "row")
    text = pl.concat_str("title", pl.lit(" "), "description").str.strip_chars()
    items = cleaned.join(numbers.lazy(), on="row", how="inner").with_columns(text=text).sort("item_id")
    table = items.select(*schema.ITEMS.columns).collect(engine="streaming")
    return table.with_columns(category_column(table["categories"]))

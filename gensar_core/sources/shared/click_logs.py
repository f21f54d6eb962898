"""Build canonical tables from cleaned logs of clicks, for the sources eventlog, kuaisar and qilin.

A source passes its items and events as lazy frames of cleaned text. They stream to disk once; after that, events are
whole numbers, so that tens of millions of them fit in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.datasets import ClickSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage
from gensar_core.sources.shared.category_paths import category_column
from gensar_core.sources.shared.k_core import interaction_core
from gensar_core.sources.shared.normalization import identity, plausible
from gensar_core.sources.shared.numbering import (
    codes,
    number_rows,
    renumber,
    session_numbers,
    sorted_names,
    write_tables,
)
from gensar_core.sources.shared.raw_tables import reading
from gensar_core.sources.shared.whole_ids import whole_ids

#: Maximum number of skipped rows listed per reason, by their row numbers.
EXAMPLES: Final = 5

#: Value of `searched` -> kind of event as logs write it.
KINDS: Final = {False: "recommendation", True: "search"}

#: Warn when more than this share of a file's rows is skipped.
_NOTABLE_SHARE: Final = 0.1
#: 2000-01-01 in unix seconds. In a log of today, most clicks cannot lie before it.
_YEAR_2000: Final = 946_684_800
#: Maximum number of unknown kinds listed in an error, and of letters shown of each.
_LISTED_KINDS: Final = 5
_SHOWN_LETTERS: Final = 30

#: Faults that make an item's row unusable -> what to write instead.
ITEM_FAULTS: Final = {"empty_item_id": "give every row an item_id"}


@dataclass(frozen=True)
class EventRows:
    """Describe the event rows of one file: their name in the record, and their possible faults, each with its cure.

    ``searched`` lists the values of the column `searched` in these rows. ``time`` names the column of their times, and
    ``milliseconds`` says that these are real times in milliseconds, so that a median before the year 2000 is a mistake.
    """

    name: str
    file: Path
    searched: tuple[bool, ...]
    faults: Mapping[str, str]
    time: str = "time"
    milliseconds: bool = False


@dataclass(frozen=True)
class RawClicks:
    """Hold a source's cleaned rows. A row with a `fault` (its name, else null) is counted and skipped.

    ``items`` holds row (number in the raw file), raw_id, title, description, brand, categories (text, never null;
    categories in the form that ``category_paths`` parses), fault. ``events`` holds row, user, item (raw ids), time
    (unix seconds), searched (bool), query and session (text for a search that has one, else null), fault, and
    unknown_kind (the kind as written when it is none of ``KINDS``, else null). ``kinds`` describes the event rows of
    each file; every value of `searched` belongs to one of them.
    """

    items: pl.LazyFrame
    events: pl.LazyFrame
    item_file: Path
    kinds: tuple[EventRows, ...]

    @property
    def event_files(self) -> list[Path]:
        """Return the files that ``events`` are read from."""
        return [kind.file for kind in self.kinds]


def first_fault(conditions: Mapping[str, pl.Expr]) -> pl.Expr:
    """Return the name of the first condition that holds in each row, or null."""
    return pl.coalesce(pl.when(holds).then(pl.lit(name)) for name, holds in conditions.items())


def clicked_rows(shown: pl.LazyFrame, *, searched: bool, query: pl.Expr, session: pl.Expr) -> pl.LazyFrame:
    """Return the shown items that were clicked, in the form of ``RawClicks.events``.

    ``shown`` holds row, user_id, item_id (text), seconds and clicks (floats, null where they are no numbers), and the
    columns of ``query`` and ``session``. An item with 0 clicks is no event.
    """
    faults = {
        "empty_user_id": pl.col("user").is_null(),
        "empty_item_id": pl.col("item").is_null(),
        "bad_time": pl.col("time").is_null(),
        "bad_click": ~(pl.col("clicks") > 0).fill_null(False),
        "without_query": pl.col("searched") & pl.col("query").is_null(),
    }
    return (
        shown.filter(pl.col("clicks").is_null() | (pl.col("clicks") != 0))
        .select(
            "row",
            user=identity(pl.col("user_id")),
            item=identity(pl.col("item_id")),
            time=plausible(pl.col("seconds")),
            searched=pl.lit(searched),
            query=query,
            session=session,
            unknown_kind=pl.lit(None, dtype=pl.String()),
            clicks="clicks",
        )
        .with_columns(fault=first_fault(faults))
        .drop("clicks")
    )


def write_canonical(stage: Stage, raw: RawClicks, settings: ClickSettings) -> None:
    """Write users, items, queries and events.parquet, and record every count.

    Warns of a kind of event with no events left, of many skipped rows, and of times that are probably not unix seconds.
    Raises UserError when a file cannot be read, holds no rows, is unusable in more than half of its rows, holds unknown
    kinds, times in seconds instead of milliseconds or one id in two forms, or when no event is left.
    """
    account = _Account(stage, raw)
    items_file, events_file = stage.path("cleaned_items.parquet"), stage.path("cleaned_events.parquet")
    with reading(raw.item_file):
        raw.items.sink_parquet(items_file, compression="lz4")
    with reading(*raw.event_files):
        raw.events.sink_parquet(events_file, compression="lz4")
    cleaned_items, cleaned_events = pl.scan_parquet(items_file), pl.scan_parquet(events_file)
    _check_kinds(raw, cleaned_events)
    files = {"items": [raw.item_file], "events": raw.event_files}
    cleaned_items, cleaned_events = whole_ids(cleaned_items, cleaned_events, files)
    usable_items = _usable_items(account, cleaned_items)
    account.event_faults(cleaned_events)
    names, events = _coded(cleaned_events.filter(pl.col("fault").is_null()), usable_items["raw_id"])
    events_file.unlink()
    for kind in raw.kinds:
        _check_times(stage, kind, events.filter(pl.col("searched").is_in(kind.searched))["time"])

    events = account.skip(events, events["item"].is_null(), "unknown_item")
    if not settings.keep_textless_items:
        has_text = usable_items["has_text"].gather(events["item"])
        events = account.skip(events, ~has_text, "item_without_text")
    # Searches come last within their time; within a kind, the file's order is kept.
    events = events.sort("user", "time", "searched", "row")
    events = account.skip(events, _repeated(events), "duplicate")
    events = _core(stage, events, settings.min_interactions)
    if events.is_empty():
        raise UserError(
            f"{' and '.join(map(str, raw.event_files))}: no event is left ({account.summary()}); check the columns "
            "against docs/own-data.md, or lower min_interactions"
        )
    _write(stage, events, names, usable_items, cleaned_items)
    items_file.unlink()
    account.warn(events["searched"])


def _check_kinds(raw: RawClicks, events: pl.LazyFrame) -> None:
    """Reject events of a kind that is neither recommendation nor search, after counting all of them."""
    unknown = events.select("row", kind="unknown_kind").drop_nulls("kind")
    counts = unknown.group_by("kind").agg(pl.len(), pl.col("row").min()).collect(engine="streaming")
    if counts.is_empty():
        return
    counts = counts.sort("len", "kind", descending=[True, False])
    total, first = counts.select(pl.col("len").sum(), pl.col("row").min()).row(0)
    listed = [
        f"{kind[:_SHOWN_LETTERS]!r}: {count:,}" if kind else f"empty: {count:,}"
        for kind, count in counts.select("kind", "len").head(_LISTED_KINDS).iter_rows()
    ]
    more = f", {len(counts) - len(listed):,} others" if len(counts) > len(listed) else ""
    raise UserError(
        f"{' or '.join(map(str, raw.event_files))}: {total:,} rows have an unknown kind "
        f"({', '.join(listed)}{more}; row {first} is the first); write {' or '.join(KINDS.values())}, "
        "or say under `kinds` what they are"
    )


def _check_times(stage: Stage, kind: EventRows, times: pl.Series) -> None:
    """Reject (or warn of) times most of which lie before the year 2000: their unit is not the expected one.

    Only the order of times matters, and a log may well count from its own beginning, so this is an error only where the
    format fixes the unit.
    """
    early = int((times < _YEAR_2000).sum())
    if 2 * early <= len(times):
        return
    median = datetime.fromtimestamp(int(times.median() or 0), UTC).date()  # type: ignore[arg-type]
    fault = f"{kind.file}: column {kind.time!r}: most times lie before the year 2000 (the median is {median})"
    if kind.milliseconds:
        raise UserError(f"{fault}, as unix seconds do when they are read as milliseconds; give unix milliseconds")
    stage.warn(f"{fault}; if they should not, give unix seconds or ISO date-times (2024-03-01, not 20240301)")


class _Account:
    """Count rows read and skipped, and keep the numbers of the first few rows skipped for each reason."""

    def __init__(self, stage: Stage, raw: RawClicks) -> None:
        self.stage = stage
        self.raw = raw
        self.read: dict[str, int] = {}
        self.clicks: dict[bool, int] = {}
        self.skipped: dict[str, int] = {}
        self.examples: dict[str, list[int]] = {}
        stage.record(skipped_rows=self.examples)

    def add(self, name: str, rows: pl.Series) -> None:
        """Count the rows skipped for one reason."""
        self.skipped[name] = len(rows)
        self.stage.record(**{name: len(rows)})
        if len(rows):
            self.examples[name] = rows.bottom_k(EXAMPLES).sort().to_list()

    def skip(self, events: pl.DataFrame, bad: pl.Series, reason: str) -> pl.DataFrame:
        """Count the events that are ``bad``; return the others."""
        for kind in self.raw.kinds:
            self.add(f"{kind.name}_{reason}", events.filter(bad, pl.col("searched").is_in(kind.searched))["row"])
        return events.filter(~bad)

    def event_faults(self, events: pl.LazyFrame) -> None:
        """Count the events read, and those that are unusable as written."""
        faulty = events.filter(pl.col("fault").is_not_null()).select("row", "searched", "fault")
        lost = faulty.with_columns(pl.col("searched").fill_null(False)).collect(engine="streaming")
        total = events.group_by(pl.col("searched").fill_null(False)).len().collect(engine="streaming")
        self.clicks = {searched: int(total.filter(searched=searched)["len"].sum()) for searched in KINDS}
        for kind in self.raw.kinds:
            of_kind = pl.col("searched").is_in(kind.searched)
            read = int(total.filter(of_kind)["len"].sum())
            self._faults(kind.name, read, lost.filter(of_kind), kind.faults, kind.file)

    def item_faults(self, read: int, faulty: pl.DataFrame) -> None:
        """Count the items read, and those that are unusable."""
        self._faults("items", read, faulty, ITEM_FAULTS, self.raw.item_file)

    def _faults(self, name: str, read: int, lost: pl.DataFrame, faults: Mapping[str, str], file: Path) -> None:
        self.stage.record(**{f"{name}_read": read})
        self.read[name] = read
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

    def warn(self, searched: pl.Series) -> None:
        """Warn of many skipped rows, and of kinds without events; ``searched`` holds the kinds of remaining events."""
        files = {"items": self.raw.item_file} | {kind.name: kind.file for kind in self.raw.kinds}
        for name, file in files.items():
            lost = sum(count for reason, count in self.skipped.items() if reason.startswith(f"{name}_"))
            if lost > _NOTABLE_SHARE * self.read[name]:
                reasons = self.summary(f"{name}_")
                self.stage.warn(f"{file}: {lost:,} of {self.read[name]:,} rows were skipped ({reasons})")
        for kind in self.raw.kinds:
            for flag in sorted(set(kind.searched) - set(searched.unique())):
                read = self.clicks[flag]
                lack = f"of {read:,} {KINDS[flag]} events none is left" if read else f"holds no {KINDS[flag]} events"
                self.stage.warn(f"{kind.file}: {lack}; nothing can be trained or measured on them")

    def summary(self, prefix: str = "") -> str:
        """Describe the skipped rows in words; with a ``prefix``, only reasons that begin with it, shown without it."""
        lost = [
            f"{name.removeprefix(prefix).replace('_', ' ')}: {count:,}"
            for name, count in self.skipped.items()
            if count and name.startswith(prefix)
        ]
        return ", ".join(lost) or "none was skipped"


def _usable_items(account: _Account, items: pl.LazyFrame) -> pl.DataFrame:
    """Return the usable items, in the order of raw_id: row, raw_id, has_text."""
    has_text = (pl.col("title") != "") | (pl.col("description") != "")
    table = items.select("row", "raw_id", "fault", has_text=has_text).collect(engine="streaming").sort("row")
    account.item_faults(len(table), table.filter(pl.col("fault").is_not_null()))
    usable = table.filter(pl.col("fault").is_null()).drop("fault")
    first = usable["raw_id"].is_first_distinct()
    account.add("items_duplicate", usable.filter(~first)["row"])
    usable = usable.filter(first)
    account.stage.record(items_without_text=int((~usable["has_text"]).sum()))
    return usable.sort("raw_id")


def _coded(events: pl.LazyFrame, item_names: pl.Series) -> tuple[dict[str, pl.Series], pl.DataFrame]:
    """Replace texts of events by places in sorted names (null for unknown items); return the names and the events."""
    names = {name: sorted_names(events.select(name)) for name in ("user", "query", "session")} | {"item": item_names}
    coded = [codes(pl.col(column), texts).alias(column) for column, texts in names.items()]
    return names, events.select("row", "time", "searched", *coded).collect(engine="streaming")


def _repeated(events: pl.DataFrame) -> pl.Series:
    """Mark events equal to an earlier one in user, time, kind, item and query; ``events`` are in event order."""
    moment = ("user", "time", "searched")
    as_before = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift()) for name in moment)
    tied = events.select(as_before | as_before.shift(-1, fill_value=False)).to_series()
    # Equal events share user, time and kind, and few such moments hold two events.
    places = pl.Series(np.flatnonzero(tied.to_numpy()))
    again = ~events.filter(tied).select(pl.struct(*moment, "item", "query").is_first_distinct()).to_series()
    repeated = np.zeros(len(events), dtype=bool)
    repeated[places.filter(again).to_numpy()] = True
    return pl.Series(repeated)


def _core(stage: Stage, events: pl.DataFrame, minimum: int) -> pl.DataFrame:
    """Keep the events of users and items with at least ``minimum`` events, over both kinds."""
    inside, rounds = interaction_core(events["user"].to_numpy(), events["item"].to_numpy(), minimum)
    core = events.filter(pl.Series(inside))
    stage.record(
        core_rounds=rounds,
        events_outside_core=len(events) - len(core),
        users_outside_core=events["user"].n_unique() - core["user"].n_unique(),
        items_outside_core=events["item"].n_unique() - core["item"].n_unique(),
    )
    return core


def _write(
    stage: Stage, events: pl.DataFrame, names: dict[str, pl.Series], usable_items: pl.DataFrame, cleaned: pl.LazyFrame
) -> None:
    occurring = {}
    for name in ("user", "item", "query"):
        numbers, occurring[name] = renumber(events[name], names[name])
        events = events.with_columns(numbers.alias(name))
    searched = events["searched"]
    sessions = np.zeros(len(events), dtype=np.int64)
    sessions[searched.to_numpy()] = session_numbers(events.filter(searched)).to_numpy()
    write_tables(stage, events, pl.Series(sessions), occurring, _item_table(occurring["item"], usable_items, cleaned))
    stage.record(
        recommendation_interactions=int((~searched).sum()),
        search_interactions=int(searched.sum()),
        search_sessions=int(sessions.max(initial=-1)) + 1 if searched.any() else 0,
    )


def _item_table(names: pl.Series, usable_items: pl.DataFrame, cleaned: pl.LazyFrame) -> pl.DataFrame:
    """Build table `items` for the items that have events; only their texts are read."""
    numbers = number_rows("item_id", raw_id=names).join(usable_items, on="raw_id", how="inner").select("item_id", "row")
    text = pl.concat_str("title", pl.lit(" "), "description").str.strip_chars()
    items = cleaned.join(numbers.lazy(), on="row", how="inner").with_columns(text=text).sort("item_id")
    table = items.select(*schema.ITEMS.columns).collect(engine="streaming")
    return table.with_columns(category_column(table["categories"]))

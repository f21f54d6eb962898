"""Build canonical tables from cleaned logs of clicks, for the sources eventlog, kuaisar and qilin.

A source passes its items and events as lazy frames of cleaned text. They stream to disk, where events are sorted and
then read in blocks of whole users: memory does not grow with their number. `write_canonical` does all work in one job.
With several parts, its survey, `canonicalize_part` for each part of the users and `gather_canonical` do the same in
several jobs, with the same bytes for any number of parts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from pydantic import TypeAdapter

from gensar_core import schema
from gensar_core.config.datasets import ClickSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import Stage, read_record
from gensar_core.runtime.verification import intact
from gensar_core.sources.shared.category_paths import category_column
from gensar_core.sources.shared.event_blocks import EventBlocks, sorted_rows, whole_users
from gensar_core.sources.shared.k_core import core_of_blocks
from gensar_core.sources.shared.normalization import identity, plausible
from gensar_core.sources.shared.numbering import codes, sorted_names, write_names
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
_DAY: Final = 86_400
#: Events a part of the users that are looked at to find parts of about equal size.
_SAMPLED: Final = 1000
#: Maximum number of unknown kinds listed in an error, and of letters shown of each.
_LISTED_KINDS: Final = 5
_SHOWN_LETTERS: Final = 30

#: Files that the survey writes for all parts: the account of the rows, the usable items and the texts of queries, both
#: sorted, and all cleaned items. A folder beside them holds the coded events of each part.
SURVEY, USABLE_ITEMS, QUERIES, CLEANED_ITEMS = "survey.json", "items.parquet", "queries.parquet", "cleaned.parquet"
SURVEY_FILES: Final = (SURVEY, USABLE_ITEMS, QUERIES, CLEANED_ITEMS)
EVENTS_FOLDER: Final = "events"

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
    categories in the form that ``category_paths`` parses), fault. Each frame of ``events`` holds row, user, item (raw
    ids), time (unix seconds), searched (bool), query and session (text for a search that has one, else null), fault,
    and unknown_kind (the kind as written when it is none of ``KINDS``, else null). ``kinds`` describes the event rows
    of each file; every value of `searched` belongs to one of them.
    """

    items: pl.LazyFrame
    events: tuple[pl.LazyFrame, ...]
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


def write_canonical(stage: Stage, raw: RawClicks, settings: ClickSettings, parts: int = 1) -> None:
    """Write users, items, queries and events.parquet, and record every count.

    With several ``parts``, write the survey that the jobs of `canonicalize_part` share instead. Memory holds the items,
    the distinct queries, 13 bytes a user and some whole users' events, never the log.
    Warns of a kind of event with no events left, of many skipped rows, and of times that are probably not unix seconds.
    Raises UserError when a file cannot be read, holds no rows, is unusable in more than half of its rows, holds unknown
    kinds, times in seconds instead of milliseconds or one id in two forms, or when no event is left.
    """
    folder = stage.path(SURVEY_FILES[0]).parent
    if parts > 1:
        _survey(stage, raw, folder, parts)
        return
    # After an error Polars may still be writing: the stage removes what is then left.
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        account = _survey(stage, raw, scratch, 1)
        blocks = EventBlocks(scratch / "blocks")
        _add_part(blocks, account, scratch, 0, settings, scratch)
        shutil.rmtree(scratch / EVENTS_FOLDER)
        _gather(stage, account, scratch, blocks, settings)


def canonicalize_part(surveyed: Path, output: Path, settings: ClickSettings, seed: int, part: int) -> None:
    """Write the usable events of one part of the users, from 0, into the folder `blocks` (stage `canonical_part`).

    ``surveyed`` is the folder that `write_canonical` wrote for several parts. Raises UserError when one of its files is
    missing or damaged.
    """
    inputs = intact(surveyed, SURVEY, USABLE_ITEMS, f"{EVENTS_FOLDER}/{part}.parquet")
    with Stage("canonical_part", output, settings=settings, inputs=inputs, seed=seed, code=__name__) as stage:
        survey = _Account.read(surveyed)
        account = _Account(survey.item_file, survey.kinds)
        blocks = stage.path("blocks")
        _add_part(EventBlocks(blocks), account, surveyed, part, settings, blocks.parent)
        stage.record(**account.record())


def gather_canonical(surveyed: Path, parts: Sequence[Path], output: Path, settings: ClickSettings, seed: int) -> None:
    """Gather the events of all parts, in order, into the tables and the counts of a single job (stage `canonical`).

    Raises UserError when a file of a part or of ``surveyed`` is missing or damaged, or when no event is left.
    """
    files = [file for part in parts for file in intact(part)]
    inputs = [*intact(surveyed, *SURVEY_FILES), *files]
    record = read_record(surveyed / "stage.json")
    with Stage(
        "canonical", output, settings=record["settings"], inputs=inputs, seed=seed, code=record["module"]
    ) as stage:
        stage.warnings += record["warnings"]
        stage.record(**record["counts"])
        account = _Account.read(surveyed)
        for part in parts:
            account.merge(read_record(part / "stage.json")["counts"])
        blocks = stage.path("blocks")
        _gather(stage, account, surveyed, EventBlocks(blocks, files), settings)
        shutil.rmtree(blocks)


def _survey(stage: Stage, raw: RawClicks, folder: Path, parts: int) -> _Account:
    """Clean and check the rows, and write ``SURVEY_FILES`` and the coded events of each part of the users."""
    account = _Account(raw.item_file, raw.kinds)
    items_file = folder / CLEANED_ITEMS
    event_parts = [folder / f"events{place}.parquet" for place in range(len(raw.events))]
    with reading(raw.item_file):
        raw.items.sink_parquet(items_file, compression="lz4")
    with reading(*raw.event_files):
        # One after the other: a union would read ahead in one while it writes the other.
        for rows, file in zip(raw.events, event_parts, strict=True):
            rows.sink_parquet(file, compression="lz4")
    cleaned_items, cleaned_events = pl.scan_parquet(items_file), pl.scan_parquet(event_parts)
    _check_kinds(raw, cleaned_events)
    files = {"items": [raw.item_file], "events": raw.event_files}
    cleaned_items, cleaned_events = whole_ids(cleaned_items, cleaned_events, files)
    usable_items = _usable_items(account, cleaned_items)
    account.event_faults(cleaned_events)
    usable_events = cleaned_events.filter(pl.col("fault").is_null())
    for kind in raw.kinds:
        _check_times(stage, kind, usable_events.filter(pl.col("searched").is_in(kind.searched)).select("time"))
    names = {"item": usable_items["raw_id"], "query": sorted_names(usable_events.select("query"))}
    coded = [codes(pl.col(column), texts).alias(column) for column, texts in names.items()]
    _write_parts(usable_events.select("user", "time", "searched", "row", "session", *coded), folder, parts)
    for file in event_parts:
        file.unlink()
    usable_items.write_parquet(folder / USABLE_ITEMS, compression="lz4")
    names["query"].to_frame().write_parquet(folder / QUERIES, compression="lz4")
    (folder / SURVEY).write_bytes(_ACCOUNT.dump_json(account, indent=2))
    stage.record(**account.record())
    return account


def _write_parts(events: pl.LazyFrame, folder: Path, parts: int) -> None:
    """Write the events of each part to a file: ranges of `user`, in ascending order, with about as many events each."""
    count = events.select(pl.len()).collect(engine="streaming").item()
    chosen = pl.col("row").hash() % max(1, count // (_SAMPLED * parts)) == 0
    sample = events.filter(chosen).select("user").collect(engine="streaming").to_series().sort()
    first_users = sample.gather_every(max(1, -(-len(sample) // parts)))[1:]
    part_of_user = pl.col("user").map_batches(
        lambda users: first_users.search_sorted(users, side="right"), return_dtype=pl.UInt32(), is_elementwise=True
    )
    files = [folder / EVENTS_FOLDER / f"{part}.parquet" for part in range(parts)]
    target = pl.PartitionBy(
        folder / EVENTS_FOLDER,
        key={"part": part_of_user},
        include_key=False,
        file_path_provider=lambda file: files[file.partition_keys["part"].item()].name,
        approximate_bytes_per_file=None,
    )
    events.sink_parquet(target, compression="lz4", mkdir=True)
    for file in files:
        if not file.exists():
            pl.DataFrame(schema=events.collect_schema()).write_parquet(file)


def _add_part(
    blocks: EventBlocks, account: _Account, surveyed: Path, part: int, settings: ClickSettings, scratch: Path
) -> None:
    """Sort the events of one part of the users, and add those that are usable to ``blocks``."""
    items = pl.read_parquet(surveyed / USABLE_ITEMS, columns=["has_text"])
    has_text = None if settings.keep_textless_items else items["has_text"]
    # Searches come last within their time; within a kind, the file's order is kept.
    order = ("user", "time", "searched", "row")
    for events in whole_users(sorted_rows(surveyed / EVENTS_FOLDER / f"{part}.parquet", order, scratch)):
        blocks.add(_usable(account, events, has_text))


def _gather(stage: Stage, account: _Account, surveyed: Path, blocks: EventBlocks, settings: ClickSettings) -> None:
    """Find the core of the blocks, number its users, items, queries and sessions, and write the four tables."""
    usable_items = pl.read_parquet(surveyed / USABLE_ITEMS)
    queries = pl.read_parquet(surveyed / QUERIES).to_series()
    core = core_of_blocks(blocks.pairs, blocks.users, len(usable_items), settings.min_interactions)
    stage.record(
        **account.record(),
        core_rounds=core.rounds,
        events_outside_core=core.events_outside,
        users_outside_core=core.users_outside,
        items_outside_core=core.items_outside,
    )
    if not core.users.any():
        raise UserError(
            f"{' and '.join(str(kind.file) for kind in account.kinds)}: no event is left ({account.summary()}); check "
            "the columns against docs/own-data.md, or lower min_interactions"
        )
    occurring = blocks.queries(core, len(queries))
    clicks, sessions = blocks.write(stage, core, occurring)
    items = _item_table(usable_items.filter(pl.Series(core.items)), pl.scan_parquet(surveyed / CLEANED_ITEMS))
    write_names(stage, int(core.users.sum()), queries.filter(pl.Series(occurring)), items)
    stage.record(
        recommendation_interactions=clicks[False],
        search_interactions=clicks[True],
        search_sessions=sessions,
    )
    account.warn(stage, {searched for searched, count in clicks.items() if count})


def _usable(account: _Account, events: pl.DataFrame, has_text: pl.Series | None) -> pl.DataFrame:
    """Return the events of known items (with text, if ``has_text`` is given), each once; the others are counted."""
    events = account.skip(events, events["item"].is_null(), "unknown_item")
    if has_text is not None:
        events = account.skip(events, ~has_text.gather(events["item"]), "item_without_text")
    return account.skip(events, _repeated(events), "duplicate")


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


def _check_times(stage: Stage, kind: EventRows, times: pl.LazyFrame) -> None:
    """Reject (or warn of) times most of which lie before the year 2000: their unit is not the expected one.

    Only the order of times matters, and a log may well count from its own beginning, so this is an error only where the
    format fixes the unit. ``times`` has one column.
    """
    early, count = times.select((pl.col("time") < _YEAR_2000).sum(), pl.len()).collect(engine="streaming").row(0)
    if 2 * early <= count:
        return
    days = times.group_by(day=pl.col("time") // _DAY).len().collect(engine="streaming").sort("day")
    middle = days.filter(2 * pl.col("len").cum_sum() >= count)["day"][0]
    median = datetime.fromtimestamp(middle * _DAY, UTC).date()
    fault = f"{kind.file}: column {kind.time!r}: most times lie before the year 2000 (the median is {median})"
    if kind.milliseconds:
        raise UserError(f"{fault}, as unix seconds do when they are read as milliseconds; give unix milliseconds")
    stage.warn(f"{fault}; if they should not, give unix seconds or ISO date-times (2024-03-01, not 20240301)")


@dataclass
class _Account:
    """Count rows read and skipped, and keep the numbers of the first few rows skipped for each reason.

    ``counts`` go into the record; ``examples`` holds the rows of every reason, ``clicks`` the events of each kind read.
    """

    item_file: Path
    kinds: tuple[EventRows, ...]
    clicks: dict[bool, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def read(cls, surveyed: Path) -> _Account:
        """Read the account of a survey."""
        return _ACCOUNT.validate_json((surveyed / SURVEY).read_bytes())

    def record(self) -> dict[str, Any]:
        """Return what belongs into the record of a stage."""
        return {"skipped_rows": {reason: rows for reason, rows in self.examples.items() if rows}, **self.counts}

    def merge(self, recorded: Mapping[str, Any]) -> None:
        """Add what another account of skipped rows recorded."""
        for name, count in recorded.items():
            if name != "skipped_rows":
                self._add(name, count, recorded["skipped_rows"].get(name, []))

    def add(self, name: str, rows: pl.LazyFrame) -> None:
        """Count more rows skipped for one reason; ``rows`` holds their `row`."""
        found = [rows.select(pl.len()), rows.select("row").bottom_k(EXAMPLES, by="row")]
        count, first = pl.collect_all(found, engine="streaming")
        self._add(name, count.item(), first["row"].to_list())

    def _add(self, name: str, count: int, rows: list[int]) -> None:
        self.counts[name] = self.counts.get(name, 0) + count
        self.examples[name] = sorted(self.examples.get(name, []) + rows)[:EXAMPLES]

    def skip(self, events: pl.DataFrame, bad: pl.Series, reason: str) -> pl.DataFrame:
        """Count the events that are ``bad``; return the others."""
        lost = events.filter(bad).lazy()
        for kind in self.kinds:
            self.add(f"{kind.name}_{reason}", lost.filter(pl.col("searched").is_in(kind.searched)))
        return events.filter(~bad)

    def event_faults(self, events: pl.LazyFrame) -> None:
        """Count the events read, and those that are unusable as written."""
        rows = events.select("row", "fault", pl.col("searched").fill_null(False))
        total = rows.group_by("searched").len().collect(engine="streaming")
        self.clicks = {searched: int(total.filter(searched=searched)["len"].sum()) for searched in KINDS}
        for kind in self.kinds:
            of_kind = pl.col("searched").is_in(kind.searched)
            read = int(total.filter(of_kind)["len"].sum())
            self._faults(kind.name, read, rows.filter(of_kind), kind.faults, kind.file)

    def item_faults(self, items: pl.DataFrame) -> None:
        """Count the items read, and those that are unusable."""
        self._faults("items", len(items), items.lazy(), ITEM_FAULTS, self.item_file)

    def _faults(self, name: str, read: int, rows: pl.LazyFrame, faults: Mapping[str, str], file: Path) -> None:
        self.counts[f"{name}_read"] = read
        if read == 0:
            raise UserError(f"{file}: holds no rows that could be used; fill it, or name another file")
        for fault in faults:
            self.add(f"{name}_{fault}", rows.filter(pl.col("fault") == fault))
        lost = sum(self.counts[f"{name}_{fault}"] for fault in faults)
        if 2 * lost > read:
            worst = max(faults, key=lambda fault: self.counts[f"{name}_{fault}"])
            row, reason = self.examples[f"{name}_{worst}"][0], worst.replace("_", " ")
            raise UserError(
                f"{file}: {lost:,} of {read:,} rows cannot be used, most for {reason} (row {row} is the first); "
                f"{faults[worst]}"
            )

    def warn(self, stage: Stage, searched: Set[bool]) -> None:
        """Warn of many skipped rows, and of kinds without events; ``searched`` holds the kinds of remaining events."""
        files = {"items": self.item_file} | {kind.name: kind.file for kind in self.kinds}
        for name, file in files.items():
            read = self.counts[f"{name}_read"]
            lost = sum(self.counts[reason] for reason in self.examples if reason.startswith(f"{name}_"))
            if lost > _NOTABLE_SHARE * read:
                stage.warn(f"{file}: {lost:,} of {read:,} rows were skipped ({self.summary(f'{name}_')})")
        for kind in self.kinds:
            for flag in sorted(set(kind.searched) - searched):
                read = self.clicks[flag]
                lack = f"of {read:,} {KINDS[flag]} events none is left" if read else f"holds no {KINDS[flag]} events"
                stage.warn(f"{kind.file}: {lack}; nothing can be trained or measured on them")

    def summary(self, prefix: str = "") -> str:
        """Describe the skipped rows in words; with a ``prefix``, only reasons that begin with it, shown without it."""
        lost = [
            f"{name.removeprefix(prefix).replace('_', ' ')}: {self.counts[name]:,}"
            for name in self.examples
            if self.counts[name] and name.startswith(prefix)
        ]
        return ", ".join(lost) or "none was skipped"


_ACCOUNT: Final = TypeAdapter(_Account)


def _usable_items(account: _Account, items: pl.LazyFrame) -> pl.DataFrame:
    """Return the usable items, in the order of raw_id: row, raw_id, has_text."""
    has_text = (pl.col("title") != "") | (pl.col("description") != "")
    table = items.select("row", "raw_id", "fault", has_text=has_text).collect(engine="streaming").sort("row")
    account.item_faults(table)
    usable = table.filter(pl.col("fault").is_null()).drop("fault")
    first = usable["raw_id"].is_first_distinct()
    account.add("items_duplicate", usable.filter(~first).lazy())
    usable = usable.filter(first)
    account.counts["items_without_text"] = int((~usable["has_text"]).sum())
    return usable.sort("raw_id")


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


def _item_table(usable: pl.DataFrame, cleaned: pl.LazyFrame) -> pl.DataFrame:
    """Build table `items` for usable items, in their order; only their texts are read."""
    numbers = usable.with_row_index("item_id").select("item_id", "row", "raw_id").lazy()
    text = pl.concat_str("title", pl.lit(" "), "description").str.strip_chars()
    items = cleaned.drop("raw_id").join(numbers, on="row", how="inner").with_columns(text=text).sort("item_id")
    table = items.select(*schema.ITEMS.columns).collect(engine="streaming")
    return table.with_columns(category_column(table["categories"]))

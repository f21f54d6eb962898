"""Look at a shop's two tables: which columns hold what, which kinds of events there are, and how much of everything."""

from __future__ import annotations

import contextlib
import difflib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from gensar_core import schema
from gensar_core.cli.language import languages
from gensar_core.config.base import validate
from gensar_core.config.datasets import EventLogSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import read_record
from gensar_core.sources.eventlog import EVENT_COLUMNS, ITEM_COLUMNS, canonicalize_events
from gensar_core.sources.shared.k_core import interaction_core
from gensar_core.sources.shared.normalization import END_OF_TIME, normalized
from gensar_core.sources.shared.raw_tables import DELIMITERS, column_names, delimiter, reading, scan_text, table_format

#: Column of each table -> names that it often has, in small letters without blanks and signs; the likeliest first.
_COLUMNS: Final = {
    "items": {
        "item_id": "itemid item productid product sku asin articleid article isbn movieid bookid trackid id",
        "title": "title name itemname productname producttitle itemtitle headline",
        "description": "description desc details text body summary abstract content overview",
        "brand": "brand manufacturer maker vendor author artist",
        "categories": "categories category categorypath genres genre department taxonomy",
    },
    "events": {
        "user_id": "userid user customerid customer visitorid visitor memberid accountid clientid buyerid reviewerid",
        "time": "time timestamp unixtime eventtime datetime date createdat occurredat ts",
        "kind": "kind eventtype event eventname type action behavior interaction",
        "item_id": "itemid item productid product sku asin articleid article isbn movieid bookid trackid",
        "query": "query searchquery searchterm searchterms searchtext search keywords keyword querytext q",
        "session_id": "sessionid session searchid searchsessionid visitid",
    },
}
#: Kind of event -> how logs often write it.
_KINDS: Final = {
    "recommendation": "recommendation recommended rec click view detail purchase buy order cart addtocart play",
    "search": "search searched searchclick searchresult query",
}
#: Values of k of the k-core, in the order in which they are tried.
_CORES: Final = (5, 3, 2)
_SAMPLED_TEXTS: Final = 300


@dataclass(frozen=True)
class TableSurvey:
    """Hold what two tables contain: the settings of a data set, its counts, and every finding as text.

    ``settings`` are those of an entry of `datasets`. ``found`` lists (what, finding). ``languages`` has the share of
    the texts in each. ``users`` to ``queries`` count what is left after ``min_interactions``; ``characters`` counts the
    distinct ones of all texts.
    """

    settings: dict[str, Any]
    found: list[tuple[str, str]]
    warnings: list[str]
    languages: dict[str, float]
    users: int
    items: int
    recommendations: int
    searches: int
    queries: int
    characters: int


def survey_tables(items: Path, events: Path, columns: Sequence[str] = (), kinds: Sequence[str] = ()) -> TableSurvey:
    """Look at a table of items and one of events.

    ``columns`` (NAME=COLUMN) and ``kinds`` (KIND=recommendation, =search or =none) override what the names suggest.
    Raises UserError when a file cannot be read, when a needed column or the meaning of a kind is not clear, and when
    the tables cannot be used.
    """
    files = {"items": items, "events": events}
    given = _given_columns(columns)
    settings: dict[str, Any] = {"source": "eventlog", "items": str(items), "events": str(events)}
    found: list[tuple[str, str]] = []
    chosen: dict[str, dict[str, str]] = {}
    for table, file in files.items():
        there = column_names(file)
        found.append((table, f"{file}: {_format(file)}, {len(there)} columns"))
        chosen[table], told = _columns(table, file, there, given[table])
        found += told
        renamed = {name: column for name, column in chosen[table].items() if name != column}
        if renamed:
            settings[f"{table.removesuffix('s')}_columns"] = renamed
    more, told = _event_settings(events, chosen["events"], kinds)
    settings, found = settings | more, found + told
    return _measured(items, events, settings, found)


def _format(file: Path) -> str:
    kind = table_format(file)
    packed = "gzipped " if file.name.lower().endswith(".gz") else ""
    if kind == "CSV":
        return f"{packed}CSV with {DELIMITERS[delimiter(file)]}s, UTF-8"
    return kind if kind == "Parquet" else f"{packed}{kind}, UTF-8"


def _given_columns(columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Parse NAME=COLUMN, where the table stands before the name (`items.item_id`) if both tables have it."""
    given: dict[str, dict[str, str]] = {table: {} for table in _COLUMNS}
    for text in columns:
        written, _, column = text.partition("=")
        *table, name = written.split(".")
        homes = [
            (home, full)
            for home, names in _COLUMNS.items()
            for full in names
            if name in (full, full.removesuffix("_id")) and (not table or table == [home])
        ]
        if not column or not homes:
            names = [f"{home}.{name}" for home, names in _COLUMNS.items() for name in names]
            raise UserError(f"--column {text}: write NAME=COLUMN, NAME being one of {', '.join(names)}")
        if len(homes) > 1:
            raise UserError(f"--column {text}: both tables have it; write {' or '.join(f'{h}.{n}' for h, n in homes)}")
        given[homes[0][0]][homes[0][1]] = column
    return given


def _columns(
    table: str, file: Path, there: Sequence[str], given: Mapping[str, str]
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Choose the file's column for each of a table's; return the choices, and what to say of them."""
    for name, column in given.items():
        if column not in there:
            close = difflib.get_close_matches(column, there, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"--column {name}={column}: {file} has no such column (there: {', '.join(there)}){hint}")
    taken, chosen, told = set(given.values()), dict[str, str](), []
    for name, written in _COLUMNS[table].items():
        plain = {column: "".join(filter(str.isalnum, column.lower())) for column in there if column not in taken}
        order = written.split()
        alike = sorted((c for c in plain if plain[c] in order), key=lambda column: order.index(plain[column]))
        option = f"--column {table}.{name}=" if name == "item_id" else f"--column {name}="
        if name in given:
            chosen[name] = given[name]
            told.append((f"  {name}", f"{given[name]} (given)"))
        elif alike:
            chosen[name] = alike[0]
            others = f" (or {', '.join(alike[1:])}? then {option}{alike[1]})" if alike[1:] else ""
            told.append((f"  {name}", f"{alike[0]}{others}"))
        elif name in (*ITEM_COLUMNS, *EVENT_COLUMNS) and name not in ("kind", "query"):
            raise UserError(
                f"{file}: no column has a name that is common for {name} (there: {', '.join(there)}); say which one "
                f"holds it: {option}COLUMN"
            )
        else:
            told.append((f"  {name}", f"none (if there is one: {option}COLUMN)"))
    unread = [column for column in there if column not in chosen.values()]
    if unread:
        told.append(("  not read", ", ".join(unread)))
    return chosen, told


def _event_settings(
    events: Path, columns: Mapping[str, str], kinds: Sequence[str]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Choose `kinds` and `time_unit`; return the settings that are no defaults, and what to say of them."""
    rows = scan_text(events, ["time"], ["kind", "query"], columns)
    asked = normalized(pl.col("query")) != ""
    kind = pl.col("kind").str.strip_chars().fill_null("").str.to_lowercase()
    with reading(events):
        counts = rows.group_by(kind, asked=asked).len().collect(engine="streaming")
        number = pl.col("time").str.strip_chars().cast(pl.Float64(), strict=False)
        median = rows.select(number.median()).collect(engine="streaming").item()
    searches, total = int(counts.filter("asked")["len"].sum()), int(counts["len"].sum())
    settings: dict[str, Any] = {}
    if "kind" in columns:
        settings, told = _kinds(events, columns["kind"], counts, searches, kinds)
    elif kinds:
        raise UserError(f"--kind {kinds[0]}: {events} has no column of kinds; name it: --column kind=COLUMN")
    else:
        settings = {"kinds": "by_query"}
        told = f"{searches:,} events with a query are searches, {total - searches:,} are recommendations"
    found = [("kinds", told)]
    if median is None:
        found.append(("times", "dates, UTC where they carry no offset"))
    elif median < END_OF_TIME:
        found.append(("times", "unix seconds"))
    else:
        # Reading the events refuses times that are neither, and names their rows.
        settings["time_unit"] = "milliseconds"
        found.append(("times", "unix milliseconds"))
    return settings, found


def _kinds(
    events: Path, column: str, counts: pl.DataFrame, searches: int, given: Sequence[str]
) -> tuple[dict[str, Any], str]:
    meanings = {name: meaning for meaning, names in _KINDS.items() for name in names.split()}
    overridden: dict[str, str | None] = {}
    for text in given:
        name, _, meaning = text.rpartition("=")
        if not name or meaning not in (*_KINDS, "none"):
            raise UserError(f"--kind {text}: write KIND=recommendation, KIND=search, or KIND=none to leave it out")
        overridden[name.lower()] = None if meaning == "none" else meaning
    by_kind = dict(counts.group_by("kind").agg(pl.col("len").sum()).sort("len", "kind", descending=True).iter_rows())
    chosen: dict[str, str | None] = {}
    unknown = []
    for name, count in by_kind.items():
        plain = "".join(filter(str.isalnum, name))
        if name in overridden or plain in meanings:
            chosen[name] = overridden.get(name, meanings.get(plain))
        else:
            unknown.append(f"{name[:30]!r}: {count:,}")
    if unknown:
        shown = ", ".join([*unknown[:5], *(["..."] if unknown[5:] else [])])
        raise UserError(
            f"{events}: column {column!r}: what are events of these kinds ({shown})? Say it for each: "
            "--kind KIND=recommendation, =search, or =none to leave them out; or name another column: "
            "--column kind=COLUMN"
        )
    if searches and not overridden and "search" not in chosen.values():
        told = f"none of {', '.join(by_kind)} says search, and {searches:,} events have a query: these are searches"
        return {"kinds": "by_query"}, f"{told} (else say so, such as --kind {next(iter(by_kind))}=recommendation)"
    written = [f"{name}: {by_kind[name]:,}, {meaning or 'left out'}" for name, meaning in chosen.items()]
    other = {name: meaning for name, meaning in chosen.items() if name != meaning}
    return ({"kinds": other} if other else {}), "; ".join(written)


def _measured(items: Path, events: Path, settings: dict[str, Any], found: list[tuple[str, str]]) -> TableSurvey:
    """Read both tables as the workflow will, and count what they hold."""
    own = {name: value for name, value in settings.items() if name in EventLogSettings.model_fields}
    read = validate(EventLogSettings, own | {"min_interactions": 0}, str(events))
    with tempfile.TemporaryDirectory() as folder:
        canonical = Path(folder)
        # The record holds the warnings; printed ones would name this temporary folder.
        with contextlib.redirect_stderr(io.StringIO()):
            canonicalize_events(items, events, read, canonical, seed=0)
        record = read_record(canonical / "stage.json")
        log = schema.EVENTS.read(canonical / "events.parquet")
        texts = schema.ITEMS.read(canonical / "items.parquet")["text"].to_list()
        queries = schema.QUERIES.read(canonical / "queries.parquet")["text"].to_list()
    minimum, core = _core(log)
    kept = log.filter(core)
    users, items_left, n_queries = (kept[name].drop_nulls().n_unique() for name in ("user_id", "item_id", "query_id"))
    recommendations, searches = (int((kept["task"] == task).sum()) for task in ("rec", "search"))
    first, last = (f"{moment:%Y-%m-%d}" for moment in pl.from_epoch(kept["time"].sort().gather([0, -1])))
    spoken = languages([*_spread(texts), *_spread(queries)])
    shares = ", ".join(f"{name} {share:.0%}" for name, share in spoken.items())
    found = [
        *found,
        ("k-core", f"users and items with {minimum} events or more: {len(kept):,} of {len(log):,} events"),
        (
            "size",
            f"{users:,} users, {items_left:,} items, {recommendations:,} recommendation clicks, {searches:,} search "
            f"clicks of {n_queries:,} queries, {first} to {last}",
        ),
        ("languages", f"{shares or 'none is clear'} (of up to {_SAMPLED_TEXTS} item texts and as many queries)"),
    ]
    return TableSurvey(
        settings | {"min_interactions": minimum},
        found,
        record["warnings"],
        spoken,
        users,
        items_left,
        recommendations,
        searches,
        n_queries,
        len(set().union(*texts, *queries)),
    )


def _core(log: pl.DataFrame) -> tuple[int, pl.Series]:
    """Choose the largest k whose k-core keeps half of the events, or 0; return it, and which events it keeps."""
    for minimum in _CORES:
        inside, _ = interaction_core(log["user_id"].to_numpy(), log["item_id"].to_numpy(), minimum)
        if 2 * inside.sum() >= len(inside):
            return minimum, pl.Series(inside)
    return 0, pl.repeat(True, len(log), eager=True)


def _spread(texts: Sequence[str]) -> Iterator[str]:
    yield from texts[:: max(1, -(-len(texts) // _SAMPLED_TEXTS))]

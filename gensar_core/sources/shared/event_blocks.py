"""Sort a log on disk, and keep it there in blocks of whole users while its core is found and its rows are numbered."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.runtime.stage import Stage
from gensar_core.sources.shared.k_core import Core
from gensar_core.sources.shared.numbering import event_table, session_numbers

#: Events of a block, and a user's more; limits memory, does not affect results.
BLOCK = 1 << 20
#: Rows of a row group of events.parquet and users.parquet.
_ROW_GROUP: Final = 1 << 18
#: Memory of the sort; what it does not hold is on disk.
_SORT_MEMORY: Final = "512MB"


def sorted_rows(file: Path, order: Sequence[str], folder: Path) -> Iterator[pl.DataFrame]:
    """Yield the rows of a Parquet file in the order of some columns, texts by code points, about ``BLOCK`` at a time.

    Rows beyond half a gigabyte are sorted on disk, in ``folder``.
    """
    # Each thread needs a share of the memory.
    threads = min(pl.thread_pool_size(), 4)
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        duckdb.connect(
            config={"memory_limit": _SORT_MEMORY, "temp_directory": scratch, "threads": threads}
        ) as connection,
    ):
        # DuckDB takes `python -c` and notebooks for a terminal, and would draw a progress bar into their output.
        connection.execute("SET enable_progress_bar = false")
        ordered = f"SELECT * FROM read_parquet(?) ORDER BY {', '.join(order)}"
        for batch in connection.sql(ordered, params=[str(file)]).to_arrow_reader(BLOCK):
            yield pl.DataFrame(pl.from_arrow(batch))


def whole_users(parts: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield rows in the order of `user` in blocks that split no user."""
    held: list[pl.DataFrame] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= BLOCK:
            rows = pl.concat(held)
            last = pl.col("user") == rows["user"][-1]
            if len(done := rows.filter(~last)):
                yield done
            held = [rows.filter(last)]
    if held:
        yield pl.concat(held)


class EventBlocks:
    """Hold the events of a log in a folder of its own, in event order; the users of a block are in no other.

    ``users`` counts the users, who are numbered from 0 in the order of their raw ids, and ``events`` the events.
    ``files`` are blocks that others wrote, in the order of their names; they come first.
    """

    def __init__(self, folder: Path, files: Iterable[Path] = ()) -> None:
        self._folder = folder
        #: File of a block, whose users it numbers from 0 -> the number of its first user in the log.
        self._first: dict[Path, int] = {}
        self.users = self.events = 0
        folder.mkdir(parents=True)
        for file in files:
            self._hold(file, pl.read_parquet(file, columns=["user"])["user"])

    def add(self, events: pl.DataFrame) -> None:
        """Append a block: user (raw id), item (place in the sorted names), and what ``queries`` and ``write`` need."""
        if events.is_empty():
            return
        block = events.with_columns(user=pl.col("user").rle_id().cast(pl.UInt32()), raw_id="user")
        file = self._folder / f"block{len(self._first):06}.parquet"
        block.write_parquet(file, compression="lz4")
        self._hold(file, block["user"])

    def _hold(self, file: Path, users: pl.Series) -> None:
        self._first[file] = self.users
        self.users += users[-1] + 1
        self.events += len(users)

    def _blocks(self, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
        for file, first in self._first.items():
            number = pl.col("user") + pl.lit(first, dtype=pl.UInt32())
            yield pl.read_parquet(file, columns=columns).with_columns(number)

    def pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the user and the item of each event [events], block by block."""
        for block in self._blocks(["user", "item"]):
            yield block["user"].to_numpy(), block["item"].to_numpy()

    def read(self, core: Core) -> Iterator[pl.DataFrame]:
        """Yield the core's events, block by block, with the numbers of users and their `raw_id`."""
        for block in self._blocks():
            yield _inside(block, core)

    def queries(self, core: Core, count: int) -> np.ndarray:
        """Mark the queries (places in the sorted texts) of the core's events among ``count``, bool [queries]."""
        occurring = np.zeros(count, dtype=bool)
        for block in self._blocks(["user", "item", "query"]):
            occurring[_inside(block, core)["query"].drop_nulls().to_numpy()] = True
        return occurring

    def write(self, stage: Stage, core: Core, queries: np.ndarray) -> tuple[Counter[bool], int]:
        """Write users.parquet and events.parquet: the core, its users, items and ``queries`` numbered from 0.

        Blocks hold `query`, `time`, `searched` and `session` (raw id) as well. ``queries`` marks the queries that
        occur, bool [queries]. Returns the number of events by `searched`, and of sessions.
        """
        marks = {"user": core.users, "item": core.items, "query": queries}
        numbers = {name: pl.Series(np.cumsum(occurring, dtype=np.int32) - 1) for name, occurring in marks.items()}
        clicks: Counter[bool] = Counter()
        sessions = 0
        files: dict[str, list[Path]] = {"users": [], "events": []}
        for place, block in enumerate(self.read(core)):
            block = block.with_columns(number.gather(block[name]).alias(name) for name, number in numbers.items())
            searched = block["searched"].to_numpy()
            block_sessions = np.zeros(len(block), dtype=np.int64)
            numbered = session_numbers(block.filter(searched)).to_numpy()
            block_sessions[searched] = sessions + numbered
            events = event_table(block, pl.Series(block_sessions), clicks.total())
            sessions += int(numbered.max(initial=-1)) + 1
            clicks.update({True: int(searched.sum()), False: int((~searched).sum())})
            users = block.select("raw_id", user_id="user").unique("user_id", keep="first", maintain_order=True)
            for name, rows in (("users", users), ("events", events)):
                files[name].append(self._folder / f"{name}{place}.parquet")
                schema.TABLES[name].check(rows).write_parquet(files[name][-1], compression="lz4")
        for name, paths in files.items():
            table = pl.scan_parquet(paths)
            table.sink_parquet(stage.path(f"{name}.parquet"), compression="zstd", row_group_size=_ROW_GROUP)
        return clicks, sessions


def _inside(block: pl.DataFrame, core: Core) -> pl.DataFrame:
    return block.filter(pl.Series(core.inside(block["user"].to_numpy(), block["item"].to_numpy())))

"""Write tables chunk by chunk, so that memory does not grow with the number of rows."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from gensar_core import schema


class TableWriter:
    """Write a table to a Parquet file chunk by chunk; a context manager.

    ``compression`` is zstd, except for files that are read once and deleted, which lz4 writes faster. With ``rows``,
    chunks are cut and joined into row groups of that size, so equal rows are equal bytes, whatever the chunks.

    A chunk is compressed in the background while the next one is made; at most one waits.
    """

    def __init__(self, table: schema.Table, path: Path, *, compression: str = "zstd", rows: int | None = None) -> None:
        self._table, self._rows, self._rest = table, rows, table.empty()
        self._schema = _to_arrow(pl.DataFrame(schema=table.schema)).schema
        # Token ids compress better plain than dictionary-encoded, and are written faster.
        plain = [name for name, dtype in table.schema.items() if not isinstance(dtype, pl.List)]
        level = 3 if compression == "zstd" else None
        self._writer = pq.ParquetWriter(
            path, self._schema, compression=compression, compression_level=level, use_dictionary=plain
        )
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and len(self._rest):
                self._submit(self._rest)
            self._wait()
        finally:
            self._thread.shutdown()
            self._writer.close()

    def write(self, chunk: pl.DataFrame) -> None:
        """Check and append rows."""
        chunk = self._table.check(chunk)
        if self._rows is None:
            self._submit(chunk)
            return
        self._rest = pl.concat([self._rest, chunk])
        while len(self._rest) >= self._rows:
            self._submit(self._rest[: self._rows])
            self._rest = self._rest[self._rows :]

    def _submit(self, rows: pl.DataFrame) -> None:
        group = _to_arrow(rows.rechunk()).cast(self._schema)
        self._wait()
        self._pending = self._thread.submit(self._writer.write_table, group)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def _to_arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())

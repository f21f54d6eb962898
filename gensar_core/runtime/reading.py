"""Read tables part by part, so that memory does not grow with the number of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from gensar_core import schema
from gensar_core.errors import UserError

#: Rows read at a time; limits memory, does not affect results.
PART_ROWS: Final = 1 << 17


def table_parts(
    path: Path, table: schema.Table, rows: int | None = None, columns: Sequence[str] | None = None
) -> Iterator[pl.DataFrame]:
    """Yield a Parquet file of ``table`` in parts of at most ``rows`` rows (None: `PART_ROWS`), each checked.

    ``columns`` are those to read, unchecked but for their dtypes; None reads all. Raises UserError when the file is
    missing or not this table.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; build table {table.name!r} first")
    try:
        with pq.ParquetFile(path) as stored:
            missing = [name for name in columns or () if name not in stored.schema_arrow.names]
            if missing:
                raise UserError(f"{path}: table {table.name!r} lacks the column {missing[0]!r}")
            for part in stored.iter_batches(rows or PART_ROWS, columns=columns):
                frame = pl.from_arrow(pa.Table.from_batches([part]))
                assert isinstance(frame, pl.DataFrame)
                if columns is None:
                    yield table.check(frame, path)
                else:
                    yield frame.select(pl.col(name).cast(table.columns[name].dtype) for name in columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file; delete it and run again") from error

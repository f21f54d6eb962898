"""Raw tables in Parquet, CSV or JSON lines, read lazily as text with numbered rows; a broken file is one clear line."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

import polars as pl

from gensar_core.errors import UserError

#: Suffix -> format; the text formats may be gzipped.
FORMATS: Final = {
    ".parquet": "Parquet",
    ".csv": "CSV",
    ".csv.gz": "CSV",
    ".jsonl": "JSON lines",
    ".jsonl.gz": "JSON lines",
}

_ROW = "__row__"
#: A JSON lines file has no header: a required key must stand in one of its first records.
_RECORDS_TO_PROBE = 1000


def table_format(path: Path) -> str:
    """The format a file's suffix tells. Raises UserError for a missing, empty or unknown file."""
    matching = [suffix for suffix in FORMATS if path.name.lower().endswith(suffix)]
    if not matching:
        raise UserError(f"{path}: unknown kind of file; its name must end in one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a table that ends in one of {', '.join(FORMATS)}")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; write it again, or name another file")
    return FORMATS[matching[0]]


def scan_text(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> pl.LazyFrame:
    """The named columns of a file as text, after `row`: the record's number from 1 (a CSV header is none).

    Numbers become their text, temporal values unix seconds, lists JSON; an optional column that the file lacks is all
    null. Nothing but names and types is read yet: collect the result within ``reading(path)``. Raises UserError for a
    missing, empty or unreadable file and for a missing required column.
    """
    with reading(path):
        match table_format(path):
            case "Parquet":
                table = pl.scan_parquet(path, row_index_name=_ROW, row_index_offset=1)
                schema = table.collect_schema()
                there = {name: _as_text(name, schema[name]) for name in schema.names()}
            case "CSV":
                _check_header(path)
                table = pl.scan_csv(path, infer_schema=False, row_index_name=_ROW, row_index_offset=1)
                there = {name: pl.col(name) for name in table.collect_schema().names()}
            case _:
                names = _probed_names(path)
                kept = dict.fromkeys([*(name for name in required if name in names), *optional], pl.String())
                table = pl.scan_ndjson(path, schema=kept, row_index_name=_ROW, row_index_offset=1)
                there = {name: pl.col(name) for name in [*names, *optional]}
    for name in required:
        if name not in there:
            listed = ", ".join(name for name in there if name != _ROW)
            raise UserError(f"{path}: lacks the column {name!r}; rename or add it (there: {listed})")
    absent = pl.lit(None, dtype=pl.String())
    return table.select(
        pl.col(_ROW).cast(pl.UInt32()).alias("row"),
        *(there.get(name, absent).alias(name) for name in [*required, *optional]),
    )


@contextmanager
def reading(*paths: Path) -> Iterator[None]:
    """Turn whatever goes wrong while the given files are read into one UserError: file, line where known, and cure."""
    try:
        yield
    except (pl.exceptions.PolarsError, UnicodeDecodeError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno == 28:
            raise
        for path in paths:
            fault = _fault(path)
            if fault:
                raise UserError(f"{path}: {fault}") from error
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{' or '.join(map(str, paths))}: not readable: {first}; write the file again") from error


def _as_text(name: str, dtype: pl.DataType) -> pl.Expr:
    """A Parquet column of any type as text, so that all formats give the same."""
    column = pl.col(name)
    if isinstance(dtype, pl.Date | pl.Datetime):
        return column.cast(pl.Datetime("ms")).dt.epoch("s").cast(pl.String())
    if dtype.is_float():
        # A column of whole numbers with gaps is often stored as floats; 17.0 is the id 17.
        whole = column.cast(pl.Int64(), strict=False)
        return pl.when(column == whole).then(whole.cast(pl.String())).otherwise(column.cast(pl.String()))
    if isinstance(dtype, pl.List | pl.Array):
        wrapped = pl.struct(column.alias("v")).struct.json_encode()
        return pl.when(column.is_not_null()).then(wrapped.str.strip_prefix('{"v":').str.strip_suffix("}"))
    return column.cast(pl.String())


def _check_header(path: Path) -> None:
    """Refuse a header in another encoding, which would read as columns of strange names."""
    with _opened(path) as stream:
        fault = _utf8_fault(stream.readline())
    if fault:
        raise UserError(f"{path}: line 1: {fault}")


def _probed_names(path: Path) -> list[str]:
    """The keys of a JSON lines file's first records, in order of appearance."""
    names: dict[str, None] = {}
    with _opened(path) as stream:
        for line in itertools.islice(filter(bytes.strip, stream), _RECORDS_TO_PROBE):
            if fault := _json_fault(line):
                raise UserError(f"{path}: {_line_of(path, line)}{fault}")
            names.update(dict.fromkeys(json.loads(line)))
    if not names:
        raise UserError(f"{path}: holds no records")
    return list(names)


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path) if packed else path.open("rb"))


def _line_of(path: Path, wanted: bytes) -> str:
    with _opened(path) as stream:
        return next(f"line {number}: " for number, line in enumerate(stream, start=1) if line == wanted)


def _fault(path: Path) -> str | None:
    """What is wrong with a file that could not be read: a slow second look, line by line."""
    kind = table_format(path)
    if kind == "Parquet":
        try:
            pl.scan_parquet(path).select(pl.all().hash().sum()).collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError):
            return "not a readable Parquet file; write it again"
        return None
    try:
        with _opened(path) as stream:
            for number, line in enumerate(stream, start=1):
                fault = _utf8_fault(line) or (_json_fault(line) if kind == "JSON lines" and line.strip() else None)
                if fault:
                    return f"line {number}: {fault}"
        return _csv_fault(path) if kind == "CSV" else None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return "the gzip file is cut off or damaged; fetch or write it again"
    except OSError:
        return None


def _utf8_fault(line: bytes) -> str | None:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8; save the file in the encoding UTF-8"
    return None


def _json_fault(line: bytes) -> str | None:
    if line.startswith(codecs.BOM_UTF8):
        return "begins with a byte order mark; save the file as UTF-8 without one"
    try:
        return (
            None if isinstance(json.loads(line.decode("utf-8")), dict) else "not a JSON object; write one object a line"
        )
    except UnicodeDecodeError:
        return "not UTF-8; save the file in the encoding UTF-8"
    except RecursionError:
        return "not a JSON object (nested too deep); write one object a line"
    except ValueError as error:
        # Besides broken JSON, whole numbers of thousands of digits.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a number is too long"
        return f"not a JSON object ({reason}); write one object a line"


def _csv_fault(path: Path) -> str | None:
    with _opened(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text)
        try:
            width = len(next(rows))
            for row in rows:
                if len(row) > width:
                    return (
                        f"line {rows.line_num}: {len(row)} fields where the header has {width}; put a text that holds "
                        'commas into double quotes, and write a quote inside it as ""'
                    )
        except (StopIteration, csv.Error):
            return None
    return None

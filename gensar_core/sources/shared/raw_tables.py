"""Read raw tables in Parquet, CSV or JSON lines lazily as text with numbered rows; report a broken file in one line."""

from __future__ import annotations

import codecs
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
import polars as pl

from gensar_core.errors import UserError
from gensar_core.sources.shared import lines

#: Suffix -> format; the text formats may be gzipped.
FORMATS: Final = {
    ".parquet": "Parquet",
    ".csv": "CSV",
    ".csv.gz": "CSV",
    ".tsv": "CSV",
    ".tsv.gz": "CSV",
    ".jsonl": "JSON lines",
    ".jsonl.gz": "JSON lines",
}

#: What may stand between the fields of a CSV file -> its name.
DELIMITERS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}

_ROW = "__row__"
#: Number of first records whose keys are the columns of a JSON lines file, which has no header. Later records are only
#: searched for required keys that these lack.
_RECORDS_TO_PROBE = 1000
#: Number of bytes of a text file that are examined at once.
_CHUNK_BYTES = 1 << 20
# The rest of a quoted CSV text, up to its closing quote.
_QUOTED_REST = re.compile(rb'(?:[^"]|"")*+"')
_QUOTE_CURE = 'put a text that holds the delimiter into double quotes, and write a quote inside it as ""'
_UNCLOSED = f"the double quote that opens a text here is never closed; {_QUOTE_CURE}"


def table_format(path: Path) -> str:
    """Return the format that a file's suffix implies. Raises UserError for a missing, empty or unknown file."""
    matching = [suffix for suffix in FORMATS if path.name.lower().endswith(suffix)]
    if not matching:
        raise UserError(f"{path}: unknown kind of file; its name must end in one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a table that ends in one of {', '.join(FORMATS)}")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; write it again, or name another file")
    return FORMATS[matching[0]]


def delimiter(path: Path) -> str:
    """Return which of ``DELIMITERS`` stands most often in a CSV file's header, outside quotes; a comma if none does."""
    with _opened(path) as stream:
        header = re.sub(rb'"(?:[^"]|"")*"', b"", stream.readline(_CHUNK_BYTES))
    return max(DELIMITERS, key=lambda mark: header.count(mark.encode()))


def column_names(path: Path) -> list[str]:
    """Return the names of a file's columns, in order.

    Raises UserError for a missing, empty or unreadable file.
    """
    with reading(path):
        match table_format(path):
            case "Parquet":
                return pl.scan_parquet(path).collect_schema().names()
            case "CSV":
                _check_header(path, [])
                return pl.scan_csv(path, infer_schema=False, separator=delimiter(path)).collect_schema().names()
            case _:
                return _record_names(path, [])


def scan_text(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), names: Mapping[Any, str] | None = None
) -> pl.LazyFrame:
    """Return the named columns of a file as text, after `row`: the record's number from 1, without the CSV header.

    Numbers become their text, temporal values unix seconds, lists JSON; an optional column that the file lacks is all
    null. ``names`` maps a column to its name in the file, which must then have it. Only names, types and the lengths of
    rows are checked here: collect the result within ``reading(path)``. Raises UserError for a missing, empty or
    unreadable file, for a required column that is missing or a wanted one that occurs twice, and for a row of a text
    file that is longer than ``lines.LONGEST_LINE``.
    """
    written = {name: (names or {}).get(name, name) for name in [*required, *optional]}
    needed = [written[name] for name in written if name in required or name in (names or {})]
    with reading(path):
        kind = table_format(path)
        mark = delimiter(path) if kind == "CSV" else ""
        if kind != "Parquet" and _odd_quotes(path, mark) and (fault := _csv_fault(path)):
            raise UserError(f"{path}: {fault}")
        match kind:
            case "Parquet":
                table = pl.scan_parquet(path, row_index_name=_ROW, row_index_offset=1)
                schema = table.collect_schema()
                columns = {name: _as_text(name, schema[name]) for name in schema.names()}
            case "CSV":
                _check_header(path, [*written.values()])
                table = pl.scan_csv(path, infer_schema=False, separator=mark, row_index_name=_ROW, row_index_offset=1)
                columns = {name: pl.col(name) for name in table.collect_schema().names()}
            case _:
                there = _record_names(path, needed)
                read = [name for name in written.values() if name in there or name not in needed]
                table = pl.scan_ndjson(
                    path, schema=dict.fromkeys(read, pl.String()), row_index_name=_ROW, row_index_offset=1
                )
                columns = {name: pl.col(name) for name in [*there, *read]}
    _check_columns(path, needed, columns)
    absent = pl.lit(None, dtype=pl.String())
    return table.select(
        pl.col(_ROW).cast(pl.UInt32()).alias("row"),
        *(columns.get(name, absent).alias(column) for column, name in written.items()),
    )


def scan_parquet_folder(folder: Path, columns: Sequence[str]) -> pl.LazyFrame:
    """Return the named columns of a folder's Parquet files with their types, after `row`, as ``scan_text`` does.

    The files are read in the order of their names. Raises UserError for a folder without Parquet files, for an
    unreadable one, and for a missing column.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UserError(f"{folder}: holds no Parquet files; put the published ones there")
    with reading(folder):
        table = pl.scan_parquet(files, row_index_name=_ROW, row_index_offset=1)
        names = table.collect_schema().names()
    _check_columns(folder, columns, names)
    return table.select(pl.col(_ROW).cast(pl.UInt32()).alias("row"), *columns)


def _check_columns(path: Path, required: Sequence[str], there: Iterable[str]) -> None:
    names = [name for name in there if name != _ROW]
    for name in required:
        if name not in names:
            raise UserError(f"{path}: lacks the column {name!r}; rename or add it (there: {', '.join(names)})")


@contextmanager
def reading(*paths: Path) -> Iterator[None]:
    """Turn any failure to read the given files into one UserError: file, line if known, and cure."""
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
    """Convert a Parquet column of any type to text, so that all formats yield the same."""
    column = pl.col(name)
    if isinstance(dtype, pl.Date | pl.Datetime):
        return column.cast(pl.Datetime("ms")).dt.epoch("s").cast(pl.String())
    if dtype.is_float():
        # A column of whole numbers with missing values is often stored as floats; 17.0 is the id 17.
        whole = column.cast(pl.Int64(), strict=False)
        return pl.when(column == whole).then(whole.cast(pl.String())).otherwise(column.cast(pl.String()))
    if isinstance(dtype, pl.List | pl.Array):
        wrapped = pl.struct(column.alias("v")).struct.json_encode()
        return pl.when(column.is_not_null()).then(wrapped.str.strip_prefix('{"v":').str.strip_suffix("}"))
    return column.cast(pl.String())


def _odd_quotes(path: Path, mark: str) -> bool:
    """Return whether a text file's double quotes need a slow check: some do not begin or end a text.

    Rejects a file with a row that no reader could hold, such as a gzip of zeros, before anything reads it whole: memory
    stays within ``lines.LONGEST_LINE``. Line breaks inside double quotes do not end a row. ``mark`` is the delimiter of
    a CSV file; without one, quotes have no meaning.
    """
    # Table by byte: may it precede an opening quote or follow a closing one?
    beside = np.isin(np.arange(256), list(f'"\r\n{mark}'.encode()))
    read, row, inside, odd, tail = 0, 0, False, False, b"\n\n"
    with _opened(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            if mark and (b'"' in chunk or tail.endswith(b'"')):
                # The last byte is checked with the next chunk, once its neighbor is read.
                odd = odd or _misplaced(tail + chunk, inside ^ tail.endswith(b'"'), beside)
                inside ^= chunk.count(b'"') % 2 == 1
            tail = (tail + chunk)[-2:]
            end = _last_row_end(chunk, inside) if mark else chunk.rfind(b"\n")
            row = read + end + 1 if end >= 0 else row
            read += len(chunk)
            if read - row > lines.LONGEST_LINE:
                raise UserError(f"{path}: line {_line_at(path, row)}: {_UNCLOSED if inside else lines.no_line_break()}")
    return odd or inside


def _line_at(path: Path, offset: int) -> int:
    """Return the number of the line that begins at a byte offset of the file."""
    number = 1
    with _opened(path) as stream:
        while offset > 0 and (chunk := stream.read(min(offset, _CHUNK_BYTES))):
            number, offset = number + chunk.count(b"\n"), offset - len(chunk)
    return number


def _last_row_end(chunk: bytes, inside: bool) -> int:
    """Return the place of the last line break outside double quotes, or -1; if ``inside``, the chunk ends in quotes."""
    end = len(chunk)
    while True:
        if inside:
            # Line breaks within quotes do not count: continue before the opening quote.
            end = chunk.rfind(b'"', 0, end)
            if end < 0:
                return -1
        place = chunk.rfind(b"\n", 0, end)
        inside = place >= 0 and chunk.count(b'"', place, end) % 2 == 1
        if not inside:
            return place
        end = place


def _misplaced(data: bytes, inside: bool, beside: np.ndarray) -> bool:
    """Return whether an opening quote does not begin a text, or a closing one does not end it.

    ``inside`` says whether the data starts within quotes. The first and the last byte of ``data`` serve only as
    neighbors; ``beside`` bool [256] says which bytes may be some. A quote inside a text is written twice: it closes the
    text and opens it again.
    """
    letters = np.frombuffer(data, dtype=np.uint8)
    places = 1 + np.flatnonzero(letters[1:-1] == ord('"'))
    opening, closing = places[int(inside) :: 2], places[1 - int(inside) :: 2]
    return not bool(beside[letters[opening - 1]].all() and beside[letters[closing + 1]].all())


def _check_header(path: Path, wanted: Sequence[str]) -> None:
    """Reject a header in another encoding, which would garble column names, and a column named twice."""
    with _opened(path) as stream:
        fault = _utf8_fault(stream.readline())
    if fault:
        raise UserError(f"{path}: line 1: {fault}")
    header = pl.scan_csv(path, has_header=False, infer_schema=False, separator=delimiter(path), n_rows=1).collect()
    names = header.row(0) if len(header) else ()
    for name in wanted:
        if names.count(name) > 1:
            raise UserError(f"{path}: {names.count(name)} columns are named {name!r}; rename or remove all but one")


def _record_names(path: Path, required: Sequence[str]) -> list[str]:
    """Return the keys of a JSON lines file's first records, in order, and required keys that appear later."""
    names: dict[str, None] = {}
    with _opened(path) as stream:
        records = filter(bytes.strip, stream)
        for line in itertools.islice(records, _RECORDS_TO_PROBE):
            if fault := _json_fault(line):
                raise UserError(f"{path}: {_line_of(path, line)}{fault}")
            names.update(dict.fromkeys(json.loads(line)))
        if not names:
            raise UserError(f"{path}: holds no records")
        missing = {json.dumps(name).encode(): name for name in required if name not in names}
        while missing and (line := next(records, b"")):
            for key in [key for key in missing if key in line]:
                # A text may contain the key as well; a broken line is reported when the whole file is read.
                if not _json_fault(line) and missing[key] in json.loads(line):
                    names[missing.pop(key)] = None
    return list(names)


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path) if packed else path.open("rb"))


def _line_of(path: Path, wanted: bytes) -> str:
    with _opened(path) as stream:
        return next(f"line {number}: " for number, line in enumerate(stream, start=1) if line == wanted)


def _fault(path: Path) -> str | None:
    """Diagnose a file, or a folder of files, that could not be read, in a slow second pass line by line."""
    if path.is_dir():
        faults = ((file, _fault(file)) for file in sorted(path.rglob("*.parquet")))
        return next((f"{file.relative_to(path)}: {fault}" for file, fault in faults if fault), None)
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


class _Twice(ValueError):
    """Report a key that occurs twice in one JSON object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return record


def _json_fault(line: bytes) -> str | None:
    if line.startswith(codecs.BOM_UTF8):
        return "begins with a byte order mark; save the file as UTF-8 without one"
    try:
        record = json.loads(line.decode("utf-8"), object_pairs_hook=_once)
        return None if isinstance(record, dict) else "not a JSON object; write one object a line"
    except _Twice as twice:
        return f"the key {twice.args[0]!r} stands there twice; write it once"
    except UnicodeDecodeError:
        return "not UTF-8; save the file in the encoding UTF-8"
    except RecursionError:
        return "not a JSON object (nested too deep); write one object a line"
    except ValueError as error:
        # Raised for broken JSON, and for whole numbers of thousands of digits.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a number is too long"
        return f"not a JSON object ({reason}); write one object a line"


def _csv_fault(path: Path) -> str | None:
    """Describe the first row whose quotes do not match, or that has more fields than the header."""
    width, fields, opened, mark = 0, 0, 0, delimiter(path).encode()
    with _opened(path) as stream:
        for number, line in enumerate(stream, start=1):
            line, place = line.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n"), 0
            while place <= len(line):
                if opened or line.startswith(b'"', place):
                    rest = _QUOTED_REST.match(line, place if opened else place + 1)
                    if rest is None:
                        opened = opened or number
                        break
                    place, begun, opened = rest.end(), opened or number, 0
                    if line[place : place + 1] not in (b"", mark):
                        after = f" in line {number}" if number > begun else ""
                        return f"line {begun}: a text goes on after its closing double quote{after}; {_QUOTE_CURE}"
                else:
                    found = line.find(mark, place)
                    end = len(line) if found < 0 else found
                    if line.count(b'"', place, end) % 2:
                        return f"line {number}: a single double quote stands inside a text; {_QUOTE_CURE}"
                    place = end
                fields, place = fields + 1, place + 1
            if opened:
                continue
            width = width or fields
            if fields > width:
                return f"line {number}: {fields} fields where the header has {width}; {_QUOTE_CURE}"
            fields = 0
    return f"line {opened}: {_UNCLOSED}" if opened else None

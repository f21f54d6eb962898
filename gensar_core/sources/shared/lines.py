"""Read gzipped raw files as blocks of whole lines, and count the lines that are unusable."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gensar_core.errors import UserError

BLOCK_BYTES = 1 << 24
#: Raw lines take a few kilobytes; a far longer one means that the file does not consist of lines.
LONGEST_LINE = 1 << 26
#: Maximum number of broken lines listed by their line numbers.
EXAMPLES = 5


@dataclass(frozen=True)
class LineBlock:
    """Hold whole lines of a file, each with its line break (the file's last line may lack it).

    ``first`` is the number of the first line, counted from 1.
    """

    first: int
    data: bytes

    @property
    def count(self) -> int:
        """Return the number of lines."""
        return self.data.count(b"\n") + (not self.data.endswith(b"\n"))

    def pieces(self, size: int) -> Iterator[LineBlock]:
        """Split the block into blocks of whole lines, each of at least ``size`` bytes except the last."""
        first, start = self.first, 0
        while start < len(self.data):
            end = self.data.find(b"\n", start + size - 1) + 1 or len(self.data)
            piece = LineBlock(first, self.data[start:end])
            yield piece
            first, start = first + piece.count, end

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number and content of every line, without line breaks."""
        for number, line in enumerate(self.data.removesuffix(b"\n").split(b"\n"), self.first):
            yield number, line.removesuffix(b"\r")


def blocks(path: Path, size: int = BLOCK_BYTES) -> Iterator[LineBlock]:
    """Read a gzipped text file in blocks of at least ``size`` bytes, without its byte order mark if it has one.

    Raises UserError when the file is missing, unreadable, not gzip, cut off, damaged or empty.
    """
    first, rest, has_content = 1, b"", False
    try:
        with gzip.open(path, "rb") as stream:
            # A byte order mark belongs to the file, not to its first line.
            rest = stream.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
            has_content = rest != b""
            while piece := stream.read(size):
                has_content = True
                whole, end, rest = (rest + piece).rpartition(b"\n")
                if end:
                    block = LineBlock(first, whole + end)
                    yield block
                    first += block.count
                elif len(rest) > LONGEST_LINE:
                    raise UserError(f"{path}: line {first}: {no_line_break()}")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; put it there") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        if not _begins_as_gzip(path):
            raise UserError(f"{path}: not a gzip file; compress it with gzip, or put the right file there") from None
        raise UserError(
            f"{path}: the gzip data is cut off or damaged after line {first - 1}; fetch or copy the file again"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None
    if not has_content:
        raise UserError(f"{path}: the file is empty; fetch or copy it again")
    if rest:
        yield LineBlock(first, rest)


def no_line_break() -> str:
    """Return the error text for a line longer than ``LONGEST_LINE``."""
    return f"no line break within {LONGEST_LINE >> 20} MB, so this is no file of lines; put the right file there"


def _begins_as_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@dataclass
class Tally:
    """Count the lines read from a file, and those of them that are broken.

    Broken lines are skipped, not fatal, unless they are more than half of the file: then it is the wrong file.
    """

    path: Path
    #: Prefix of the counts: reviews, metadata, ...
    name: str
    lines: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def reject(self, line: int, reason: str) -> None:
        """Count one broken line."""
        if self.broken < EXAMPLES:
            self.examples.append(f"line {line}: {reason}")
        self.reasons[reason] += 1

    @property
    def broken(self) -> int:
        """Return the number of broken lines."""
        return self.reasons.total()

    def check(self, expected: str) -> None:
        """Raise UserError when more than half of the lines are broken. ``expected`` says what a line should be."""
        if 2 * self.broken > self.lines:
            raise UserError(
                f"{self.path}: {self.broken:,} of {self.lines:,} lines are broken ({self.examples[0]}); {expected}; "
                "put the right file there"
            )

    def counts(self) -> dict[str, Any]:
        """Return counts, reasons and examples of broken lines for the stage's record."""
        return {
            f"{self.name}_broken_lines": self.broken,
            f"{self.name}_broken_reasons": dict(sorted(self.reasons.items())),
            f"{self.name}_broken_examples": self.examples,
        }

"""Print tables on the terminal: aligned, with headers, in color where the terminal has it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gensar_core.errors import UserError

#: Marks of metric tables in Markdown, and their styles.
_MARKS = ((re.compile(r"^\*\*(.*?)\*\*"), "bold green"), (re.compile(r"^<u>(.*?)</u>"), "underline"))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str | Text]], right: Collection[str] = ()) -> None:
    """Print rows below a header; the columns named in ``right`` are numbers. Cells hold text, never markup."""
    # In a file or a pipe, break no line.
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console.print(table)


def print_metrics(path: Path) -> None:
    """Print a metric table from its Markdown file: the best in bold green, the second best underlined, notes below.

    Raises UserError when the file is missing or holds no table.
    """
    try:
        lines = path.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UserError(f"{path.with_suffix('.md')}: no such table; name one of results/tables") from None
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith("|")]
    if len(rows) < 3:
        raise UserError(f"{path.with_suffix('.md')}: holds no table; build it again")
    header, _, *body = rows
    print_table(header, [[_styled(cell) for cell in row] for row in body], right=header[2:])
    for line in lines:
        if line.strip() and not line.startswith("|"):
            Console(highlight=False).print(Text(line))


def _styled(cell: str) -> Text:
    for mark, style in _MARKS:
        if match := mark.match(cell):
            # The style is that of the number alone, not of the blanks before it.
            return Text().append(match[1], style=style).append(cell[match.end() :].replace("\\", ""))
    return Text(cell)

"""Format tables as Markdown, LaTeX and self-contained HTML pages."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 1rem auto; padding: 0 1rem; max-width: 72rem; color: #1d1d1f; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } p { max-width: 46rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap; }
thead th { border-bottom: 2px solid #888; } figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
code { font-size: .92em; overflow-wrap: anywhere; } nav a { margin-right: 1rem; white-space: nowrap; }
"""
_LATEX = {
    "\\": r"\textbackslash{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "@": "@",
    "±": r"$\pm$",
}


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table with padded columns, bars in cells escaped, a newline at the end."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    cells.insert(1, ["-" * width for width in widths])
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    return "".join(f"| {' | '.join(row)} |\n" for row in padded)


def page(title: str, body: str) -> str:
    """Build a whole HTML page, readable on a phone as well."""
    head = f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>"
    viewport = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">'
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{viewport}\n{head}\n</head>\n<body>\n{body}</body>\n</html>\n'


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format an HTML table; cells are text, except for the marks <b>, <u> and <sup>."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = "".join(f"<tr>{''.join(f'<td>{_marked(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table></div>\n'


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], breaks: Sequence[int] = ()) -> str:
    """Format a booktabs `tabular`; cells are LaTeX, the header is text, and a rule precedes the rows ``breaks``."""
    lines = [f"\\begin{{tabular}}{{{'l' * 2}{'r' * (len(header) - 2)}}}", "\\toprule"]
    lines += [" & ".join(latex_text(cell) for cell in header) + r" \\", "\\midrule"]
    for position, row in enumerate(rows):
        lines += ["\\midrule"] if position in breaks else []
        lines.append(" & ".join(row) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def latex_text(text: str) -> str:
    """Escape LaTeX's special characters in a text."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _marked(cell: object) -> str:
    text = html.escape(str(cell))
    for mark in ("b", "u", "sup"):
        text = text.replace(f"&lt;{mark}&gt;", f"<{mark}>").replace(f"&lt;/{mark}&gt;", f"</{mark}>")
    return text

"""Document the tables that stages exchange, in Markdown, from their definitions."""

from __future__ import annotations

import polars as pl

from gensar_core import schema
from gensar_core.evaluation.table_formats import markdown_table


def formats_markdown() -> str:
    """Write one section per table of ``schema.TABLES``: its meaning, key, and columns with type and meaning."""
    return "\n".join(_section(table) for table in schema.TABLES.values())


def _section(table: schema.Table) -> str:
    rows = [(f"`{name}`", _type(column), column.meaning) for name, column in table.columns.items()]
    unique = f" A row is identified by {' and '.join(f'`{name}`' for name in table.unique)}." if table.unique else ""
    meaning = table.meaning[0].upper() + table.meaning[1:]
    return f"### {table.name}\n\n{meaning}.{unique}\n\n{markdown_table(('column', 'type', 'meaning'), rows)}"


def _type(column: schema.Column) -> str:
    return f"{_type_name(column.dtype)}{', may be null' if column.nullable else ''}"


def _type_name(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.List):
        inner = dtype.inner
        return f"list of {_type_name(inner if isinstance(inner, pl.DataType) else inner())}"
    if isinstance(dtype, pl.Enum):
        return f"one of {', '.join(dtype.categories)}"
    return str(dtype).lower()

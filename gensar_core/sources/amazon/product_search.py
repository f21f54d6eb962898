"""Read the product-search files of Ai et al. (2017): the queries that lead each user to each item.

``query_text.txt.gz`` holds one query per line, and the line's number from 0 is the query's id. ``train.qrels.gz`` and
``test.qrels.gz`` hold one ``<reviewerID>_<query id> 0 <asin> 1`` per line. Published for some categories at
https://github.com/QingyaoAi/Amazon-Product-Search-Datasets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gensar_core.errors import UserError
from gensar_core.runtime.seeds import derive_seed
from gensar_core.sources.shared.draws import row_numbers
from gensar_core.sources.shared.lines import LineBlock, Tally, blocks

QUERIES = "query_text.txt.gz"
TRAIN = "train.qrels.gz"
TEST = "test.qrels.gz"
FILES = (QUERIES, TRAIN, TEST)

# The user's id may contain blanks and underscores: the query id follows the last underscore before the fixed fields.
# Only ASCII digits match, because other digits would not parse as a number.
_QREL = r"^(.+)_([0-9]{1,9})[ \t]+\S+[ \t]+(\S(?:.*\S)?)[ \t]+[1-9][0-9]*$"
#: White space as in bytes.strip, which identifies blank lines in the other raw files.
_BLANKS = " \t\r\x0b\x0c"
_PAIRS = {"user": pl.String(), "query_line": pl.Int64(), "item": pl.String()}


def has_product_search(raw: Path) -> bool:
    """Return whether a folder holds the product-search files. Raises UserError when it has only some of the three."""
    missing = [name for name in FILES if not (raw / name).is_file()]
    if missing and len(missing) < len(FILES):
        raise UserError(
            f"{raw}: lacks {' and '.join(missing)}; put all product-search files ({', '.join(FILES)}) there, "
            "or take the others away to synthesize queries from the category paths"
        )
    return not missing


@dataclass
class Searches:
    """Hold the query of each (user, item) pair, one row per pair: user, item (raw ids), query (text); and counts."""

    pairs: pl.DataFrame
    counts: dict[str, Any]


def read_searches(raw: Path, seed: int) -> Searches:
    """Pool the pairs of both qrels files and keep one query per (user, item) pair, drawn at random.

    The draw depends only on the seed, the raw ids and the query's line. Broken qrels lines, lines of unknown queries
    and lines of empty queries are counted and left out. Raises UserError when a file cannot be read or most of it is
    broken.
    """
    queries, query_tally = read_query_lines(raw / QUERIES)
    parts = [read_qrels(raw / TRAIN, "qrels_train"), read_qrels(raw / TEST, "qrels_test")]
    pooled = pl.concat([frame for frame, _ in parts])
    counts = {**query_tally.counts(), **parts[0][1].counts(), **parts[1][1].counts()}
    counts |= {"query_lines": len(queries), "qrels_train": len(parts[0][0]), "qrels_test": len(parts[1][0])}

    lines = pooled.join(queries, on="query_line", how="left")
    searches = lines.filter(pl.col("query") != "")
    unknown = lines["query"].null_count()
    counts |= {"qrels_unknown_queries": unknown, "qrels_empty_queries": len(lines) - len(searches) - unknown}

    order = row_numbers(derive_seed(seed, "search", "pair"), searches["user"], searches["item"], searches["query_line"])
    pairs = (
        searches.with_columns(order=order)
        .sort("user", "item", "order", "query_line")
        .unique(["user", "item"], keep="first", maintain_order=True)
        .select("user", "item", "query")
    )
    return Searches(pairs, counts | {"search_pairs_one_query": len(pairs)})


def read_query_lines(path: Path) -> tuple[pl.DataFrame, Tally]:
    """Return query_line (from 0) and query (white space collapsed, may be empty), and the tally.

    Lines that are not UTF-8 have no row.
    """
    tally = Tally(path, "queries")
    frames = [_text_lines(block, tally) for block in blocks(path)]
    tally.check("a line should be the text of a query")
    return pl.concat(frames).select(
        query_line=pl.col("line") - 1,
        query=pl.col("text").str.replace_all(r"[\s\p{Cc}]+", " ").str.strip_chars(),
    ), tally


def read_qrels(path: Path, name: str) -> tuple[pl.DataFrame, Tally]:
    """Return user, query_line and item of every line, and the tally.

    Lines of another form, or of relevance 0, are broken and skipped.
    """
    tally = Tally(path, name)
    frames = []
    for block in blocks(path):
        lines = _text_lines(block, tally)
        blank = lines["text"].str.strip_chars(_BLANKS) == ""
        tally.lines -= int(blank.sum())
        lines = lines.filter(~blank).with_columns(field=pl.col("text").str.strip_chars_end().str.extract_groups(_QREL))
        parts = lines.select("line", *(pl.col("field").struct.field(str(group)) for group in (1, 2, 3)))
        for number in parts.filter(pl.col("1").is_null())["line"]:
            tally.reject(number, "not of the form <reviewerID>_<query line> 0 <asin> 1")
        sound = parts.drop_nulls()
        frames.append(sound.select(user="1", query_line=pl.col("2").cast(pl.Int64()), item="3"))
    tally.check("a line should read <reviewerID>_<query line> 0 <asin> 1")
    return pl.concat(frames) if frames else pl.DataFrame(schema=_PAIRS), tally


def _text_lines(block: LineBlock, tally: Tally) -> pl.DataFrame:
    """Return line (number from 1) and text of every UTF-8 line; count the others as broken."""
    tally.lines += block.count
    try:
        text = block.data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        return _decoded_lines(block, tally)
    lines = pl.Series("text", [text]).str.split("\n").explode()
    return pl.DataFrame({"line": pl.int_range(block.first, block.first + len(lines), eager=True), "text": lines})


def _decoded_lines(block: LineBlock, tally: Tally) -> pl.DataFrame:
    rows = []
    for number, line in block.lines():
        try:
            rows.append((number, line.decode("utf-8")))
        except UnicodeDecodeError:
            tally.reject(number, "not UTF-8")
    return pl.DataFrame(rows, schema={"line": pl.Int64(), "text": pl.String()}, orient="row")

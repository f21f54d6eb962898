"""Define the tables that stages exchange: columns, dtypes, meanings, and the checks that readers and writers run.

Users, items and queries are numbered densely from 0, in the order of their raw ids, so row ``i`` of any matrix belongs
to id ``i``. A *behavior* is the b of Eq. 1 in the paper: a recommended item that was clicked, a query, or an item
clicked after a query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import polars as pl

from gensar_core.errors import UserError

TASKS: Final = ("rec", "search")
SPLITS: Final = ("train", "valid", "test")

#: Sides of an item, each with an identifier of its own: its texts, and its clicks.
Side = Literal["semantic", "collaborative"]
SIDES: Final[tuple[Side, Side]] = ("semantic", "collaborative")

#: Side whose identifier each task predicts; histories write the task's clicks by the same identifier.
SIDE_OF_TASK: Final[Mapping[str, Side]] = {"rec": "collaborative", "search": "semantic"}

#: Behaviors by their number in ``history_behavior``; the tokens are those of Eq. 11.
BEHAVIORS: Final = ("R_I", "S_Q", "S_I")
RECOMMENDED_ITEM: Final = 0
SEARCHED_QUERY: Final = 1
SEARCHED_ITEM: Final = 2
#: An item's description, which no history holds but rows that align identifiers with texts do.
DESCRIPTION: Final = 3

Task = pl.Enum(TASKS)
Split = pl.Enum(SPLITS)


@dataclass(frozen=True)
class Column:
    """Describe a column: its dtype, its meaning, and whether it may hold nulls."""

    dtype: pl.DataType
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """Describe a named table. ``unique`` lists the columns that together identify a row."""

    name: str
    meaning: str
    columns: Mapping[str, Column]
    unique: tuple[str, ...] = ()

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Map column names to polars dtypes, in order."""
        return {name: column.dtype for name, column in self.columns.items()}

    def check(self, frame: pl.DataFrame, where: str | Path = "") -> pl.DataFrame:
        """Return ``frame`` cast to this table's columns, in their order.

        Raises UserError naming the table, ``where`` and the column when a column is missing, cannot be cast to its
        dtype or holds a null that it may not hold, or when rows are not unique in ``unique``.
        """
        place = f"{where}: table {self.name!r}" if where else f"table {self.name!r}"
        for name in self.columns:
            if name not in frame.columns:
                raise UserError(f"{place} lacks the column {name!r}; it has {', '.join(frame.columns)}")
        try:
            frame = frame.select([pl.col(name).cast(column.dtype) for name, column in self.columns.items()])
        except pl.exceptions.PolarsError as error:
            raise UserError(f"{place}: a column has the wrong type: {str(error).splitlines()[0]}") from error
        for name, column in self.columns.items():
            nulls = frame.get_column(name).null_count()
            if nulls and not column.nullable:
                raise UserError(f"{place}: column {name!r} holds {nulls} nulls")
        if self.unique and not _distinct(frame.select(self.unique)):
            raise UserError(f"{place}: rows are not unique in {', '.join(self.unique)}")
        return frame

    def empty(self) -> pl.DataFrame:
        """Return this table without rows."""
        return pl.DataFrame(schema=self.schema)

    def read(self, path: Path, where: pl.Expr | None = None) -> pl.DataFrame:
        """Read and check a Parquet file of this table, or of it only the rows ``where`` is true.

        Raises UserError when it is missing or not this table.
        """
        if where is None:
            return self.check(self._loaded(pl.read_parquet, path), path)
        chosen = where
        rows = self._loaded(lambda path: pl.scan_parquet(path).filter(chosen).collect(engine="streaming"), path)
        return self.check(rows, path)

    def open(self, path: Path) -> tuple[pl.LazyFrame, int]:
        """Return a lazy frame over a Parquet file of this table, and its number of rows.

        Read it in parts and check each part. Raises UserError when the file is missing or unreadable.
        """
        count = self._loaded(lambda path: pl.scan_parquet(path).select(pl.len()).collect(), path)
        return pl.scan_parquet(path), int(count.item())

    def _loaded(self, load: Callable[[Path], pl.DataFrame], path: Path) -> pl.DataFrame:
        if not path.is_file():
            raise UserError(f"{path}: no such file; build table {self.name!r} first")
        try:
            return load(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"{path}: not a readable Parquet file; delete it and run again") from error

    def scan(self, path: Path) -> pl.LazyFrame:
        """Return a lazy frame over a file written as this table, to be read in parts; only dtypes are checked."""
        return pl.scan_parquet(path).select(pl.col(name).cast(column.dtype) for name, column in self.columns.items())

    def write(self, frame: pl.DataFrame, path: Path) -> None:
        """Check ``frame`` and write it as Parquet (zstd)."""
        self.check(frame, path).write_parquet(path, compression="zstd", statistics=True)


def _distinct(identities: pl.DataFrame) -> bool:
    """Return whether no two rows are equal."""
    if identities.width == 1:
        # Most tables are sorted by id, which is cheap to check; finding duplicates hashes every row.
        number = identities.to_series()
        if number.dtype.is_integer() and (number.diff().drop_nulls() > 0).all():
            return True
    return not identities.is_duplicated().any()


_LIST_I32 = pl.List(pl.Int32())

USERS: Final = Table(
    "users",
    "every user with at least one event",
    {
        "user_id": Column(pl.Int32(), "dense number from 0, in the order of raw_id"),
        "raw_id": Column(pl.String(), "the id in the source"),
    },
    unique=("user_id",),
)

ITEMS: Final = Table(
    "items",
    "every item with at least one event",
    {
        "item_id": Column(pl.Int32(), "dense number from 0, in the order of raw_id"),
        "raw_id": Column(pl.String(), "the id in the source"),
        "title": Column(pl.String(), "cleaned title, may be empty"),
        "description": Column(pl.String(), "cleaned description, may be empty"),
        "brand": Column(pl.String(), "cleaned brand, may be empty"),
        "categories": Column(pl.List(pl.List(pl.String())), "category paths, each from the root to the leaf"),
        "text": Column(pl.String(), "title + space + description: what encoders, BM25 and prompts read"),
    },
    unique=("item_id",),
)

QUERIES: Final = Table(
    "queries",
    "every query of at least one search event",
    {
        "query_id": Column(pl.Int32(), "dense number from 0, in the order of the text"),
        "text": Column(pl.String(), "the query's words"),
    },
    unique=("query_id",),
)

EVENTS: Final = Table(
    "events",
    "every click, ordered by user, time, and the source's order inside one time; event_id is the row number",
    {
        "event_id": Column(pl.Int64(), "row number"),
        "user_id": Column(pl.Int32(), "who clicked"),
        "time": Column(pl.Int64(), "unix seconds"),
        "task": Column(Task, "rec: click after a recommendation; search: click after a query"),
        "item_id": Column(pl.Int32(), "the clicked item"),
        "query_id": Column(pl.Int32(), "the query, for a search click", nullable=True),
        "session_id": Column(
            pl.Int64(), "clicks of one search share it; numbered over the table, for a search click", nullable=True
        ),
    },
    unique=("event_id",),
)

SAMPLES: Final = Table(
    "samples",
    "one prediction target a row, with the history that stands before it",
    {
        "sample_id": Column(pl.Int64(), "row number, over both tasks and all splits"),
        "task": Column(Task, "rec or search"),
        "split": Column(Split, "train, valid or test"),
        "user_id": Column(pl.Int32(), "whose target"),
        "time": Column(pl.Int64(), "unix seconds of the target event"),
        "event_id": Column(pl.Int64(), "the target event"),
        "target_item": Column(pl.Int32(), "the item to predict"),
        "query_id": Column(pl.Int32(), "the query asked, for search", nullable=True),
        "history_behavior": Column(pl.List(pl.UInt8()), "oldest first: 0 <R_I>, 1 <S_Q>, 2 <S_I> (Eq. 1)"),
        "history_object": Column(_LIST_I32, "item id for <R_I> and <S_I>, query id for <S_Q>; as long as the former"),
    },
    unique=("sample_id",),
)

CANDIDATES: Final = Table(
    "candidates",
    "what each valid and test target is ranked against; the target itself is not among them",
    {
        "sample_id": Column(pl.Int64(), "the sample"),
        "negatives": Column(_LIST_I32, "distinct item ids, 99 unless the catalogue is too small"),
    },
    unique=("sample_id",),
)

COLD_ITEMS: Final = Table(
    "cold_items",
    "the items that `cold_share` holds out of all training",
    {"item_id": Column(pl.Int32(), "the item")},
    unique=("item_id",),
)

TRAINING_NEGATIVES: Final = Table(
    "training_negatives",
    "what methods that train on sampled negatives set against each train target; it is not among them",
    {
        "sample_id": Column(pl.Int64(), "the sample"),
        "negatives": Column(_LIST_I32, "distinct item ids, 4 unless the catalogue is too small"),
    },
    unique=("sample_id",),
)

IDENTIFIERS: Final = Table(
    "identifiers",
    "the two identifiers of every item, codes or texts; vocabulary.json beside it tells which, and names each "
    "position's tokens",
    {
        "item_id": Column(pl.Int32(), "the item"),
        "semantic": Column(_LIST_I32, "codes of the semantic identifier I_{m+s} (Eq. 5)"),
        "collaborative": Column(_LIST_I32, "codes of the collaborative identifier I_{m+c} (Eq. 5)"),
        "semantic_moved": Column(pl.Boolean(), "whether the unique assignment changed the semantic codes"),
        "collaborative_moved": Column(pl.Boolean(), "whether it changed the collaborative codes"),
        "semantic_text": Column(pl.String(), "the semantic identifier, if it is a text", nullable=True),
        "collaborative_text": Column(pl.String(), "the collaborative identifier, if it is a text", nullable=True),
    },
    unique=("item_id",),
)

PSEUDO_QUERIES: Final = Table(
    "pseudo_queries",
    "queries that a model trained on item texts and their queries would ask for each item (doc2query)",
    {
        "item_id": Column(pl.Int32(), "the item"),
        "number": Column(pl.Int32(), "0, 1, ... among those of the item"),
        "text": Column(pl.String(), "the query's words"),
    },
    unique=("item_id", "number"),
)

CORPUS: Final = Table(
    "corpus",
    "one training example of the generator a row; its prompt is what it shows in an instruction of its task",
    {
        "task": Column(pl.String(), "a task of the corpus' prompt file: nrip, nsqp, ..."),
        "sample_id": Column(
            pl.Int64(), "the sample whose history the input shows, or the item id for tasks without a history"
        ),
        "history_ids": Column(_LIST_I32, "encoder tokens of the history; empty for tasks without one"),
        "value_ids": Column(
            _LIST_I32, "encoder tokens of what else is shown: a query, a user, an item's text or identifier"
        ),
        "target_ids": Column(_LIST_I32, "decoder targets, end-of-sequence included"),
    },
)

PROMPTS: Final = Table(
    "prompts",
    "the encoder input of every valid and test sample of the tasks that the prompt file ranks",
    {
        "sample_id": Column(pl.Int64(), "the sample"),
        "input_ids": Column(_LIST_I32, "encoder tokens, end-of-sequence included"),
    },
    unique=("sample_id",),
)

USER_LOGS: Final = Table(
    "user_logs",
    "one window of a user's log a row, as a causal model reads it in one pass; lists but token_ids are by entry",
    {
        "user_id": Column(pl.Int32(), "whose log; -1: alignment or an ad-hoc search, which are of no user"),
        "token_ids": Column(_LIST_I32, "tokens of all entries: behavior token, then identifier tokens or words"),
        "lengths": Column(_LIST_I32, "tokens of each entry"),
        "behavior": Column(
            pl.List(pl.UInt8()), "0 recommended item, 1 query, 2 item clicked after a query, 3 description of an item"
        ),
        "object": Column(_LIST_I32, "the item or query; -1: a query that no user typed"),
        "position": Column(_LIST_I32, "position of the entry's first token: tokens that it sees"),
        "opens": Column(_LIST_I32, "number of the first event of the entries that are kept apart from this one"),
        "closes": Column(_LIST_I32, "number of their last event; an entry sees those that close before it opens"),
        "query": Column(
            _LIST_I32, "place in the row of a search click's query, or of what is aligned; of others, their own place"
        ),
        "target": Column(
            pl.List(pl.Int64()),
            "event_id (training), sample_id (valid, test) or item_id (alignment); -1: only read",
        ),
    },
)

QUERY_NUMBERS: Final = Table(
    "query_numbers",
    "the queries of the training log, by which an exported causal model finds its vector and clicks of a query",
    {
        "query_id": Column(pl.Int32(), "the query; the row of its vector"),
        "token_ids": Column(_LIST_I32, "behavior token, then the query's words"),
    },
    unique=("query_id",),
)

ITEM_TOKENS: Final = Table(
    "item_tokens",
    "the decoder tokens that mean an item, for each task",
    {
        "task": Column(Task, "rec or search"),
        "item_id": Column(pl.Int32(), "the item"),
        "target_ids": Column(_LIST_I32, "behavior token (if any), identifier tokens, end of sequence"),
    },
    unique=("task", "item_id"),
)

RANKS: Final = Table(
    "ranks",
    "the one table every ranking method ends in",
    {
        "task": Column(Task, "rec or search"),
        "split": Column(Split, "valid or test"),
        "sample_id": Column(pl.Int64(), "the sample"),
        "user_id": Column(pl.Int32(), "whose target"),
        "target_item": Column(pl.Int32(), "the target"),
        "rank": Column(pl.Float64(), "1 is best; ties take the average rank"),
        "n_candidates": Column(pl.Int32(), "length of the candidate list, target included"),
    },
    unique=("sample_id",),
)

FULL_RANKS: Final = Table(
    "full_ranks",
    "where each test target stands among all items",
    {
        **RANKS.columns,
        "split": Column(Split, "test"),
        "rank": Column(
            pl.Float64(), "1 is best; ties take the average rank; null: a search did not find the target", nullable=True
        ),
        "n_candidates": Column(pl.Int32(), "all items"),
        "rank_unseen": Column(
            pl.Float64(), "rank without items that the user clicked before; null: not found", nullable=True
        ),
        "n_unseen": Column(
            pl.Int32(), "items left then, target included; null: there is no second ranking", nullable=True
        ),
    },
    unique=("sample_id",),
)

SCORES: Final = Table(
    "scores",
    "what a method thinks of each candidate of each valid and test target; what fusions are made of",
    {
        "sample_id": Column(pl.Int64(), "the sample"),
        "scores": Column(pl.List(pl.Float32()), "of the target, then of its negatives, in their order"),
    },
    unique=("sample_id",),
)

_ANSWER: Final = {
    "rank": Column(pl.Int32(), "1 is best"),
    "item": Column(pl.String(), "raw id of the item"),
    "score": Column(pl.Float32(), "log-probability of the item's tokens, or its mean over them"),
}

RECOMMENDATIONS: Final = Table(
    "recommendations",
    "what a generator recommends to every user after the user's whole history, users by number, best first",
    {"user": Column(pl.String(), "raw id of the user"), **_ANSWER},
    unique=("user", "rank"),
)

SEARCHES: Final = Table(
    "searches",
    "what a generator finds for a file of queries, in the order of the file, best first",
    {"query": Column(pl.String(), "the query's words"), **_ANSWER},
    unique=("query", "rank"),
)

#: All tables by name, in the order of the flow.
TABLES: Final = {value.name: value for value in list(globals().values()) if isinstance(value, Table)}

"""Convert samples to rows of examples chunk by chunk, so that memory does not grow with the number of rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from gensar_core import schema
from gensar_core.corpora.assemble import ExampleRows
from gensar_core.corpora.histories import ShownHistories
from gensar_core.corpora.tasks import Kind
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged

#: Rows read, assembled and written at a time.
CHUNK_ROWS: Final = 50_000


def sample_chunks(path: Path, n_items: int, n_queries: int, chunk_rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
    """Read the samples table in chunks, in the order of sample_id.

    Raises UserError when the file is missing, is no samples table, is in another order, or names items or queries that
    the data set does not have.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; build table 'samples' first")
    last = -1
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=chunk_rows):
            chunk = schema.SAMPLES.check(pl.DataFrame(batch), path)
            ids = chunk.get_column("sample_id").to_numpy()
            if len(ids) == 0:
                continue
            if ids[0] <= last or (np.diff(ids) <= 0).any():
                raise UserError(f"{path}: rows are not in the order of sample_id; build the samples again")
            last = int(ids[-1])
            _check_ids(chunk, n_items, n_queries, path)
            yield chunk
    except pa.ArrowException as error:
        raise UserError(f"{path}: not a readable Parquet file; delete it and run again") from error


def with_following(chunks: Iterator[pl.DataFrame]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Pair each chunk with the next one, which is empty after the last."""
    held = None
    for chunk in chunks:
        if held is not None:
            yield held, chunk
        held = chunk
    if held is not None:
        yield held, held.clear()


def later_targets(
    chunk: pl.DataFrame, following: pl.DataFrame, task: str, count: int
) -> tuple[np.ndarray, ExampleRows]:
    """Return the targets of a chunk's training samples and of up to ``count`` samples after each.

    The first result is, for each target, the number of the sample whose history predicts it, ascending; the second
    holds the targets as rows under this sample's id. Later samples are those of the same user and task, in the order of
    sample_id; ``following`` is the next chunk.
    """
    rows = sample_rows(chunk, task, ("train",))
    after = sample_rows(following, task, ("train",))
    users = np.concatenate([_users(chunk, task), _users(following, task)])
    place = np.arange(len(rows))[:, None] + np.arange(count + 1)
    inside = place < len(users)
    same = inside & (users[np.minimum(place, len(users) - 1)] == users[: len(rows), None])
    prompt = np.nonzero(same)[0]
    objects = {
        kind: np.concatenate([values, after.objects[kind]])[place[same]] for kind, values in rows.objects.items()
    }
    return prompt, ExampleRows(rows.ids[prompt], objects)


def pseudo_rows(table: pl.DataFrame, usable: np.ndarray) -> ExampleRows:
    """Return the ``usable`` rows of table `pseudo_queries`, which is in the order of item and number."""
    items = table.get_column("item_id").to_numpy()[usable]
    numbers = table.get_column("number").to_numpy()[usable]
    return ExampleRows(
        items.astype(np.int64), {"collaborative": items, "semantic": items, "pseudo": usable}, None, numbers
    )


def _users(chunk: pl.DataFrame, task: str) -> np.ndarray:
    return chunk.filter((pl.col("task") == task) & (pl.col("split") == "train")).get_column("user_id").to_numpy()


def sample_rows(chunk: pl.DataFrame, task: str, splits: Collection[str]) -> ExampleRows:
    """Select the samples of one task and of the given splits as rows to assemble."""
    chunk = chunk.filter((pl.col("task") == task) & pl.col("split").is_in(list(splits)))
    item = chunk.get_column("target_item").to_numpy()
    return ExampleRows(
        chunk.get_column("sample_id").to_numpy(),
        {
            **_of_items(item),
            "query": chunk.get_column("query_id").fill_null(-1).to_numpy(),
            # Piece 0 is an unknown user's.
            "user": chunk.get_column("user_id").to_numpy() + 1,
        },
        ShownHistories(
            Ragged.from_series(chunk.get_column("history_behavior")),
            Ragged.from_series(chunk.get_column("history_object")),
        ),
    )


def passage_rows(owner: np.ndarray, usable: np.ndarray) -> ExampleRows:
    """Return the ``usable`` passages, by their numbers, as rows; ``owner`` [passages] are their items, ascending."""
    items = owner[usable].astype(np.int64)
    return ExampleRows(items, {**_of_items(items), "passage": usable}, None, usable)


def item_rows(items: np.ndarray) -> ExampleRows:
    """Convert items to rows of a task without histories."""
    return ExampleRows(items.astype(np.int64), _of_items(items))


def _of_items(items: np.ndarray) -> dict[Kind, np.ndarray]:
    """Map each kind of value that an item has to the items."""
    return {"collaborative": items, "semantic": items, "description": items, "key_terms": items, "title": items}


def _check_ids(chunk: pl.DataFrame, n_items: int, n_queries: int, path: Path) -> None:
    behaviors = Ragged.from_series(chunk.get_column("history_behavior"))
    objects = Ragged.from_series(chunk.get_column("history_object"))
    if not np.array_equal(behaviors.offsets, objects.offsets) or (behaviors.values >= len(schema.BEHAVIORS)).any():
        raise UserError(f"{path}: history_behavior and history_object do not match; build the samples again")
    is_query = behaviors.values == schema.SEARCHED_QUERY
    items = np.concatenate([chunk.get_column("target_item").to_numpy(), objects.values[~is_query]])
    searches = chunk.filter(pl.col("task") == "search").get_column("query_id").fill_null(-1).to_numpy()
    queries = np.concatenate([searches, objects.values[is_query]])
    for ids, count, name in ((items, n_items, "items"), (queries, n_queries, "queries")):
        if len(ids) and not 0 <= ids.min() <= ids.max() < count:
            raise UserError(f"{path}: names {name} that {name}.parquet does not have; build the samples again")

"""Answer for everyone: recommendations to all users, and results of a file of queries (stages of these names).

Questions are answered block by block, so memory does not grow with their number, and a finished block is kept until all
are written. Parts are whole blocks, so every pass sees the same questions whatever the number of parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from gensar_core import schema
from gensar_core.config.datasets import AnswerSettings, QueryAnswerSettings, RecommendationSettings
from gensar_core.corpora.instructions import prompted_tasks
from gensar_core.errors import UserError
from gensar_core.generator.live_questions import LiveQuestion
from gensar_core.ranking.parts import WHOLE, Part
from gensar_core.runtime.progress import progress
from gensar_core.runtime.shards import Shards
from gensar_core.runtime.stage import Stage, read_record
from gensar_core.runtime.writing import TableWriter
from gensar_core.samples.events import EventLog
from gensar_core.service.shop import Folders, clicked_items, read_lines, whole_histories

#: Questions answered in one search: a kill loses no more than minutes of work.
_BLOCK: Final = 1024
#: Return the questions of a range of numbers, each with its name in the table: a raw user id or a query.
_Ask: TypeAlias = Callable[[int, int], list[tuple[str, LiveQuestion]]]


def recommend_to_all(
    folders: Folders,
    output: Path,
    settings: RecommendationSettings,
    checkpoints: Path | None = None,
    part: Part = WHOLE,
) -> None:
    """Write ``output`` (table `recommendations`, a file *.parquet) and its record: items for all users, or for some.

    ``checkpoints`` is a folder for this file alone, from which a killed run continues to the same answers; ``part``
    selects the users. Names in the files of users and items that the data set does not have are counted and reported.
    Raises UserError when such a file has no other names, and when the generator does not recommend.
    """
    users, events, queries = (folders.canonical / f"{name}.parquet" for name in ("users", "events", "queries"))
    files = [users, events, queries, *([Path(settings.users)] if settings.users else [])]
    prepare = _of_users(users, events, queries, settings)
    _write("recommendations", folders, output, settings, files, checkpoints, part, prepare)


def search_for_all(
    folders: Folders, output: Path, settings: QueryAnswerSettings, checkpoints: Path | None = None
) -> None:
    """Write ``output`` (table `searches`, a file *.parquet) and its record: the results of each query of a file.

    Otherwise as `recommend_to_all`.
    """
    if settings.file is None:
        raise UserError("queries.file: name a text file with one query a line")
    file = Path(settings.file)

    def prepare(stage: Stage) -> tuple[int, _Ask]:
        lines = read_lines(file)
        queries = list(dict.fromkeys(lines))
        stage.record(lines=len(lines))
        return len(queries), lambda first, stop: [(query, LiveQuestion((), query)) for query in queries[first:stop]]

    _write("searches", folders, output, settings, [file], checkpoints, WHOLE, prepare)


def gather_recommendations(parts: Sequence[Path], output: Path) -> None:
    """Write ``output`` (table `recommendations`) and its record from those of all ``parts``, in their order."""
    with Stage.named_after(output.with_suffix(""), "recommendations", inputs=parts, code=__name__) as stage:
        with TableWriter(schema.RECOMMENDATIONS, stage.path(output.name)) as writer:
            for path in parts:
                with pq.ParquetFile(path) as stored:
                    # Group by group, as a single job writes them.
                    for group in range(stored.num_row_groups):
                        writer.write(pl.DataFrame(stored.read_row_group(group)))
        records = [read_record(path.with_suffix(".stage.json")) for path in parts]
        stage.record(
            parts=len(parts),
            parts_seconds=round(sum(record["seconds"] for record in records), 3),
            questions=sum(record["counts"]["questions"] for record in records),
        )


def _of_users(
    users: Path, events: Path, queries: Path, settings: RecommendationSettings
) -> Callable[[Stage], tuple[int, _Ask]]:
    """Prepare the questions of all users, or of those named in a file; only a block's tables are in memory."""

    def prepare(stage: Stage) -> tuple[int, _Ask]:
        count = schema.USERS.open(users)[1]
        chosen = np.arange(count) if settings.users is None else _chosen(stage, Path(settings.users), users)
        return len(chosen), lambda first, stop: ask(chosen[first:stop])

    def ask(numbers: np.ndarray) -> list[tuple[str, LiveQuestion]]:
        # The range lets a reader skip most of a file.
        mine = pl.col("user_id").is_between(int(numbers[0]), int(numbers[-1]))
        mine &= pl.col("user_id").is_in(numbers.tolist())
        names = schema.USERS.scan(users).filter(mine).sort("user_id").collect().get_column("raw_id")
        clicks = schema.EVENTS.scan(events).filter(mine).collect()
        asked = clicks.get_column("query_id").drop_nulls().unique().to_list()
        words = schema.QUERIES.scan(queries).filter(pl.col("query_id").is_in(asked)).collect()
        histories = whole_histories(EventLog.from_frame(clicks), dict(words.iter_rows()))
        if not len(names) == len(numbers) == len(histories):
            raise UserError(f"{events}: does not hold events of every user; build the canonical tables again")
        excluded = [() if settings.again else clicked_items(history) for history in histories]
        return [
            (name, LiveQuestion(history, None, left_out, user=number))
            for name, history, left_out, number in zip(names, histories, excluded, numbers.tolist(), strict=True)
        ]

    return prepare


def _chosen(stage: Stage, file: Path, users: Path) -> np.ndarray:
    """Return the numbers of the users that a file names, int64, ascending."""
    names = read_lines(file)
    known = schema.USERS.scan(users).filter(pl.col("raw_id").is_in(names)).sort("user_id").collect()
    _report_unknown(stage, file, names, known.get_column("raw_id").to_list(), "user")
    return known.get_column("user_id").to_numpy().astype(np.int64)


def _report_unknown(stage: Stage, file: Path, names: Sequence[str], known: Sequence[str], kind: str) -> None:
    """Warn of names of a file that are not known. Raises UserError when none is."""
    unknown = sorted({*names} - {*known})
    if unknown and len(unknown) == len({*names}):
        raise UserError(f"{file}: names no {kind} of the data set; write raw ids, one a line")
    if unknown:
        stage.warn(f"{file}: {len(unknown)} of {len({*names})} names are no {kind}, such as {unknown[0]!r}")
    stage.record(**{f"unknown_{kind}s": len(unknown)})


def _write(
    name: str,
    folders: Folders,
    output: Path,
    settings: AnswerSettings,
    files: Sequence[Path],
    checkpoints: Path | None,
    part: Part,
    prepare: Callable[[Stage], tuple[int, _Ask]],
) -> None:
    """Answer the questions of a stage: ``prepare`` reads ``files``, counts the questions and returns them by range."""
    table = schema.TABLES[name]
    stock = Path(settings.items) if settings.items else None
    inputs = [*folders.files(), *files, *([stock] if stock else [])]
    with Stage.named_after(output.with_suffix(""), name, settings=settings, inputs=inputs, code=__name__) as stage:
        shop = folders.shop()
        raw_ids = shop.items.get_column("raw_id")
        allowed = None
        if stock is not None:
            names = read_lines(stock)
            _report_unknown(stage, stock, names, raw_ids.filter(raw_ids.is_in(names)).to_list(), "item")
            allowed = shop.allowed(names, None)
        count, ask = prepare(stage)
        generator = folders.load(settings.precision)
        task = "rec" if name == "recommendations" else "search"
        if task not in prompted_tasks(generator.corpus):
            raise UserError(f"{generator.corpus}: its prompt file does not rank {task}; ask another generator")
        shards = Shards(checkpoints, f"{stage.key[:24]}{generator.device.type}")
        first, stop = part.spans([count], _BLOCK)[0]
        with TableWriter(table, stage.path(output.name)) as writer:
            for start in progress(range(first, stop, _BLOCK), name, unit="block"):
                rows = shards.load_table(name, start // _BLOCK)
                if rows is None:
                    asked = ask(start, min(start + _BLOCK, stop))
                    questions = [replace(question, allowed=allowed) for _, question in asked]
                    answers = generator.answer(questions, top=settings.top, beams=settings.beams)
                    hits = [
                        (of, rank, hit.item, hit.score)
                        for (of, _), answer in zip(asked, answers, strict=True)
                        for rank, hit in enumerate(answer, 1)
                    ]
                    rows = pl.DataFrame(hits, schema=list(table.columns), orient="row").with_columns(
                        item=raw_ids.gather(pl.Series([item for _, _, item, _ in hits], dtype=pl.UInt32))
                    )
                    rows = table.check(rows)
                    shards.save_table(name, start // _BLOCK, rows)
                writer.write(rows)
        stage.record(questions=stop - first, top=settings.top)
    shards.remove()

"""Build training examples and prompts as token ids from samples, texts and identifiers: the stage `corpus`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import transformers

from gensar_core import schema
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.prompts import PromptFile, find_prompts
from gensar_core.corpora.alignment_logs import NO_QUERY, EntryColumn, alignment_rows
from gensar_core.corpora.assemble import ExampleRows, history_limits, shortened, shown, targets, value_tokens
from gensar_core.corpora.chunks import (
    CHUNK_ROWS,
    item_rows,
    later_targets,
    passage_rows,
    pseudo_rows,
    sample_chunks,
    sample_rows,
    with_following,
)
from gensar_core.corpora.instructions import PROMPTS_COPY, Instructions, Shown
from gensar_core.corpora.passages import Passages, key_terms
from gensar_core.corpora.tasks import (
    BEHAVIOR_TOKENS,
    BEHAVIOR_VALUES,
    ITEM_VALUES,
    LOG_BEHAVIORS,
    Kind,
    Task,
    Value,
    ranking_tasks,
    tasks_of,
)
from gensar_core.corpora.token_pieces import Pieces, beside, repeated
from gensar_core.corpora.trie import TokenTrie, save_tries
from gensar_core.corpora.user_logs import Entries, HeldOut, training_targets, write_logs
from gensar_core.corpora.user_words import UNKNOWN_USER, user_rows, user_tokens
from gensar_core.embeddings.item_texts import Encoder, Texts, clean
from gensar_core.embeddings.tokenizer import OF_IDENTIFIERS, TRAINED, add_tokens, load_tokenizer, train_tokenizer
from gensar_core.errors import UserError
from gensar_core.identifiers.table import IdentifierTable
from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.runtime.progress import progress
from gensar_core.runtime.reading import table_parts
from gensar_core.runtime.stage import Stage
from gensar_core.runtime.writing import TableWriter
from gensar_core.samples.cold_items import mark_cold_items
from gensar_core.samples.histories import Protocol

# Limit of texts to train a tokenizer on; spread evenly over a larger catalogue, they represent it well enough.
_TRAINING_TEXTS: Final = 200_000


def build_corpus(
    canonical: Path,
    samples: Path,
    identifiers: Path,
    output: Path,
    settings: MaterializationSettings,
    seed: int,
    pseudo_queries: Path | None = None,
    protocol: Protocol = "strict",
    cold_items: Path | None = None,
) -> None:
    """Materialize a corpus in the folder ``output``.

    Writes train.parquet (table `corpus`: by task, then sample or item id; training inserts it into the instructions of
    prompts.yaml, the settings' prompt file), prompts.parquet (table `prompts`: the valid and test samples of the tasks
    that this file ranks, with the first template), user_logs.parquet, alignment_logs.parquet and
    asked_logs.parquet (table `user_logs`: training logs, the tasks without a user, and the logs whose targets are the
    valid and test samples, under the samples' history ``protocol``),
    item_tokens.parquet (table `item_tokens`), trie.safetensors (the same as one trie per task), tokenizer/ and
    new_tokens.json. Tasks of pseudo-queries read the table ``pseudo_queries``. No training example shows or asks an
    item of the table ``cold_items``. Raises UserError when an input is missing or does not match the others, or when
    the tokenizer cannot be loaded or does not fit.
    """
    files = [canonical / "items.parquet", canonical / "queries.parquet", samples / "samples.parquet"]
    files += [canonical / "events.parquet", samples / "training_events.parquet"]
    files += [identifiers / "identifiers.parquet", identifiers / "vocabulary.json"]
    base = _tokenizer_name(settings, identifiers)
    if Path(base).is_dir():
        files.append(Path(base))
    if settings.own_prompts is not None:
        files.append(settings.own_prompts)
    if settings.reads_pseudo_queries():
        if pseudo_queries is None:
            raise UserError("tasks: some need a table of pseudo-queries; name one, or drop these tasks")
        files.append(pseudo_queries)
    if cold_items is not None:
        files.append(cold_items)
    prompts = find_prompts(settings.prompts)
    tasks = tasks_of(prompts)
    kinds = set().union(*(task.kinds for task in tasks.values()))
    with Stage("corpus", output, settings=settings, inputs=files, seed=seed, code=__name__) as stage:
        catalogue, queries = _texts(canonical)
        items, titles = catalogue.get_column("text"), catalogue.get_column("title")
        table = IdentifierTable.load(identifiers)
        if len(table) != len(items):
            raise UserError(
                f"{identifiers / 'identifiers.parquet'}: has {len(table)} items, but "
                f"{canonical / 'items.parquet'} has {len(items)}; build the identifiers again"
            )
        tokenizer = _base_tokenizer(base, settings.vocabulary_size, items, queries, prompts)
        behavior_tokens = settings.behavior_tokens and prompts.behavior_tokens
        behaviors, users = BEHAVIOR_TOKENS if behavior_tokens else (), user_tokens(prompts.user_tokens)
        new = add_tokens(tokenizer, [*table.tokens, *behaviors, *users], base)
        tokenizer.save_pretrained(stage.path("tokenizer"))
        prompts.write(stage.path(PROMPTS_COPY))
        new.write(stage.path("new_tokens.json"))
        encoder = Encoder(tokenizer)
        reserved = sorted(tokenizer.get_added_vocab())
        descriptions = Texts.prepare(items, encoder, settings.max_item_tokens, reserved)
        query_texts = Texts.prepare(queries, encoder, settings.max_query_tokens, reserved)
        pseudo = _pseudo_queries(pseudo_queries, len(items), settings)
        pseudo_texts = Texts.prepare(pseudo.get_column("text"), encoder, settings.max_query_tokens, reserved)
        title_texts = Texts.prepare(titles, encoder, settings.max_item_tokens, reserved) if "title" in kinds else None
        learned = set().union(*(tasks[name].kinds for name in settings.active_tasks()))
        how = encoder, settings.max_item_tokens, reserved
        passages = Passages.cut(titles, catalogue.get_column("description"), *how) if "passage" in learned else None
        others: dict[Kind, Ragged] = {}
        if passages is not None:
            others["passage"] = passages.texts.tokens
        if "key_terms" in learned:
            others["key_terms"] = key_terms(items, *how)
        if "user" in kinds:
            others["user"] = _user_rows(samples, [new.tokens[token] for token in users], encoder)
        pieces = Pieces(
            encoder,
            new.tokens,
            _identifier_tokens(table, new.tokens, encoder, reserved, identifiers / "identifiers.parquet"),
            query_texts,
            descriptions,
            pseudo_texts,
            titles=title_texts,
            others=others,
            behavior_tokens=behavior_tokens,
            eos_id=tokenizer.eos_token_id,
        )
        corpus = _Corpus(
            settings,
            seed,
            samples / "samples.parquet",
            prompts,
            tasks,
            Instructions.tokenize(list(tasks.values()), encoder, new.tokens, tokenizer.eos_token_id),
            descriptions,
            title_texts,
            passages,
            query_texts,
            pieces,
            pseudo,
            pseudo_texts,
            mark_cold_items(cold_items, len(items)),
        )
        stage.record(
            vocabulary_size=new.vocabulary_size,
            base_vocabulary_size=new.base_vocabulary_size,
            items=descriptions.counts(),
            queries=query_texts.counts(),
            **({"pseudo_queries": pseudo_texts.counts()} if len(pseudo) else {}),
        )
        stage.record(tasks=_write_training(corpus, stage.path("train.parquet")))
        stage.record(prompts=_write_prompts(corpus, stage.path("prompts.parquet")))
        stage.record(**_write_logs(corpus, stage, canonical / "events.parquet", protocol))
        _write_item_tokens(corpus, stage.path("item_tokens.parquet"), stage.path("trie.safetensors"))


@dataclass(frozen=True)
class _Corpus:
    """Hold the inputs of a corpus' tables."""

    settings: MaterializationSettings
    seed: int
    samples: Path
    prompts: PromptFile
    #: All tasks of the prompt file, in the order of the instructions.
    tasks: Mapping[str, Task]
    instructions: Instructions
    descriptions: Texts
    titles: Texts | None
    passages: Passages | None
    queries: Texts
    pieces: Pieces
    pseudo: pl.DataFrame
    pseudo_texts: Texts
    #: Items that training must not see, bool [n_items]; samples of the train split hold none.
    cold: np.ndarray

    def sample_chunks(self) -> Iterator[pl.DataFrame]:
        """Read the samples table in chunks."""
        return sample_chunks(self.samples, len(self.descriptions.texts), len(self.queries.texts), CHUNK_ROWS)

    def first_instruction(self, task: Task) -> int:
        """Return the number of the instruction that evaluation uses."""
        return int(self.instructions.first[list(self.tasks).index(task.name)])

    def sample_rows(self, chunk: pl.DataFrame, task: Task, splits: Collection[str]) -> ExampleRows:
        """Return samples as rows, with histories cut to what prompts show."""
        return sample_rows(chunk, task.source, splits).recent(task, *history_limits(task, self.settings))

    def entry_tokens(self, entries: Entries) -> Ragged:
        """Return the token ids of log entries (Eq. 11); without behavior tokens, the end of sequence leads each."""
        first = np.array([self.pieces.values(value) for value in BEHAVIOR_VALUES])
        tokens = self.pieces.table.take(first[entries.behavior] + entries.object)
        return tokens if self.behavior_tokens else self.led(tokens)

    @property
    def behavior_tokens(self) -> bool:
        """Tell whether entries and targets begin with a behavior token."""
        return self.settings.behavior_tokens and self.prompts.behavior_tokens

    def led(self, tokens: Ragged) -> Ragged:
        """Put the end of sequence before each row, from which its first token is predicted."""
        return beside(repeated(self.pieces.table.take(np.array([self.pieces.eos])).values, len(tokens)), tokens)

    def logged_tasks(self) -> list[str]:
        """Return the tasks whose clicks prompts rank, show or ask: a log tells a model of no others."""
        tasks = [self.tasks[name] for name in self.settings.active_tasks()]
        shown = {behavior for task in tasks for behavior in task.shown_behaviors}
        of_entries = {"rec" if behavior == schema.RECOMMENDED_ITEM else "search" for behavior in shown}
        told = {*self.prompts.ranking, *(task.source for task in tasks), *of_entries}
        return [task for task in schema.TASKS if task in told]

    def tasks_without_users(self) -> list[Task]:
        """Return the tasks that a causal model aligns by: one of each pair of contents, titles aside."""
        tasks = [self.tasks[name] for name in self.settings.active_tasks()]
        pairs = {(task.value.kind, task.target.kind): task for task in reversed(tasks) if task.value is not None}
        return [
            task
            for (shown, asked), task in reversed(pairs.items())
            if task.source not in schema.TASKS and {shown, asked} <= set(LOG_BEHAVIORS)
        ]

    def alignment_rows(self, task: Task) -> Iterator[pl.DataFrame]:
        """Yield the rows of a task without a user, in parts."""
        assert task.value is not None
        for prompts, _, rows in self.training_rows(task):
            shown, asked = (self._entry_column(value, rows.objects) for value in (task.value, task.target))
            yield alignment_rows(shown, asked, prompts.ids)

    def _entry_column(self, value: Value, objects: Mapping[Kind, np.ndarray]) -> EntryColumn:
        behavior = LOG_BEHAVIORS[value.kind]
        led = Value(value.kind, None if behavior == schema.DESCRIPTION else behavior)
        pieces = self.pieces.values(led) + objects[value.kind]
        tokens = self.pieces.table.take(pieces)
        if led.behavior is None or not self.behavior_tokens:
            tokens = self.led(tokens)
        pseudo = value.kind == "pseudo"
        return EntryColumn(behavior, np.full(len(tokens), NO_QUERY) if pseudo else objects[value.kind], tokens)

    def evaluated(self, task: Task, content: Shown) -> Ragged:
        """Write prompts in the instruction that evaluation uses."""
        return self.instructions.write(content, np.full(len(content), self.first_instruction(task)))

    def without_text(self, task: Task) -> np.ndarray:
        """Mark the items of which a task shows or asks an empty text, bool [n_items]."""
        empty = np.zeros(len(self.descriptions.texts), dtype=bool)
        kinds = {task.target.kind, *([task.value.kind] if task.value else [])}
        if kinds & {"description", "key_terms"}:
            empty |= self.descriptions.empty
        if "title" in kinds and self.titles is not None:
            empty |= self.titles.empty
        return empty

    def training_rows(self, task: Task) -> Iterator[tuple[ExampleRows, np.ndarray | None, ExampleRows]]:
        """Yield the training examples of a task in parts, in the order of their ids.

        A part holds its prompts, the prompt number of each target (None: prompt i has target i), and the targets.
        """
        if task.value is not None and task.value.kind == "passage" and self.passages is not None:
            owner = self.passages.owner
            usable = ~self.passages.texts.empty & ~(self.cold | self.without_text(task))[owner]
            for rows in _slices(np.flatnonzero(usable), lambda numbers: passage_rows(owner, numbers)):
                yield rows, None, rows
        elif task.source == "item":
            for rows in _slices(np.flatnonzero(~self.without_text(task) & ~self.cold), item_rows):
                yield rows, None, rows
        elif task.source == "pseudo_query":
            usable = ~self.pseudo_texts.empty & ~self.cold[self.pseudo.get_column("item_id").to_numpy()]
            for rows in _slices(np.flatnonzero(usable), lambda numbers: pseudo_rows(self.pseudo, numbers)):
                yield rows, None, rows
        else:
            empty = self.without_text(task)
            for chunk, following in with_following(self.sample_chunks()):
                rows = sample_rows(chunk, task.source, ("train",))
                if len(rows):
                    prompts, prompt, rows = self._augmented(task, rows, chunk, following)
                    if empty.any():
                        prompt = np.arange(len(prompts)) if prompt is None else prompt
                        answered = np.flatnonzero(~empty[rows.objects[task.target.kind]])
                        prompt, rows = prompt[answered], rows.take(answered)
                    yield prompts, prompt, rows

    def _augmented(
        self, task: Task, prompts: ExampleRows, chunk: pl.DataFrame, following: pl.DataFrame
    ) -> tuple[ExampleRows, np.ndarray | None, ExampleRows]:
        """Return the training samples of a chunk with their prefix augmentation."""
        settings, copies = self.settings, 1 + self.settings.shorter_histories
        limits = history_limits(task, settings)
        later = settings.later_targets if task.asks_by_history_alone else 0
        if copies == 1 and not later:
            return prompts.recent(task, *limits), None, prompts
        prompt, rows = later_targets(chunk, following, task.source, later)
        if copies > 1:
            prompts = shortened(prompts.copied(copies), self.seed, task, *limits)
            # Every copy of a prompt keeps all of its targets.
            counts = np.repeat(np.bincount(prompt), copies)
            starts = np.repeat(np.searchsorted(prompt, np.arange(len(prompts) // copies)), copies)
            rows = rows.take(ranges(starts, counts))
            prompt = np.repeat(np.arange(len(prompts)), counts)
        else:
            prompts = prompts.recent(task, *limits)
        return prompts, prompt, rows


def _slices(numbers: np.ndarray, rows: Callable[[np.ndarray], ExampleRows]) -> Iterator[ExampleRows]:
    for start in range(0, len(numbers), CHUNK_ROWS):
        yield rows(numbers[start : start + CHUNK_ROWS])


class _Lengths:
    """Accumulate the number of rows and their lengths over chunks."""

    def __init__(self) -> None:
        self.rows = self._total = self._longest = 0

    def add(self, lengths: np.ndarray) -> None:
        """Add the row lengths of a chunk."""
        self.rows += len(lengths)
        self._total += int(lengths.sum())
        self._longest = max(self._longest, int(lengths.max(initial=0)))

    def counts(self, name: str, more: np.ndarray | int = 0) -> dict[str, float]:
        """Return the mean and longest length of ``name``, adding to each row one of the token counts ``more``."""
        mean = self._total / max(self.rows, 1) + float(np.mean(more))
        return {f"mean_{name}": round(mean, 3), f"longest_{name}": self._longest + int(np.max(more))}


def _write_training(corpus: _Corpus, path: Path) -> dict[str, Any]:
    """Write all examples of all tasks; return rows and lengths by task, over all its instructions."""
    counts = {}
    with TableWriter(schema.CORPUS, path) as table:
        for task in (corpus.tasks[name] for name in corpus.settings.active_tasks()):
            first = corpus.first_instruction(task)
            instructions = corpus.instructions.lengths[first : first + len(task.templates)]
            input_lengths, target_lengths = _Lengths(), _Lengths()
            for prompts, prompt, rows in progress(corpus.training_rows(task), f"corpus: {task.name}", unit="chunk"):
                content, target_ids = shown(corpus.pieces, task, prompts), targets(corpus.pieces, task, rows)
                if prompt is not None:
                    content = content.take(prompt)
                columns = _columns(rows, history_ids=content.history, value_ids=content.value, target_ids=target_ids)
                table.write(columns.with_columns(task=pl.lit(task.name)))
                input_lengths.add(content.lengths)
                target_lengths.add(target_ids.lengths)
            counts[task.name] = {
                "rows": input_lengths.rows,
                **input_lengths.counts("input", instructions),
                **target_lengths.counts("target"),
            }
    return counts


def _write_prompts(corpus: _Corpus, path: Path) -> dict[str, Any]:
    """Write the inputs of valid and test samples; return rows and lengths by the samples' task."""
    ranking = ranking_tasks(corpus.prompts)
    lengths = {source: _Lengths() for source in ranking}
    with TableWriter(schema.PROMPTS, path) as table:
        for chunk in progress(corpus.sample_chunks(), "corpus: prompts", unit="chunk"):
            parts = []
            for source, task in ranking.items():
                rows = corpus.sample_rows(chunk, task, ("valid", "test"))
                prompts = corpus.evaluated(task, shown(corpus.pieces, task, rows))
                lengths[source].add(prompts.lengths)
                parts.append(_columns(rows, input_ids=prompts))
            table.write(pl.concat(parts).sort("sample_id"))
    return {source: {"rows": counted.rows, **counted.counts("input")} for source, counted in lengths.items()}


def _write_logs(corpus: _Corpus, stage: Stage, events: Path, protocol: Protocol) -> dict[str, Any]:
    """Write the logs and the alignment rows that training reads, and the logs with valid and test samples; return
    the logs' counts.

    A target of training has half a row of history before it, one to rank as much as fits.
    """
    width = corpus.settings.log_tokens
    training = corpus.samples.with_name("training_events.parquet")
    read, asked = stage.path("user_logs.parquet"), stage.path("asked_logs.parquet")
    with TableWriter(schema.USER_LOGS, stage.path("alignment_logs.parquet")) as table:
        for task in corpus.tasks_without_users():
            for rows in corpus.alignment_rows(task):
                table.write(rows)
    how = (corpus.entry_tokens, corpus.logged_tasks(), protocol, width)
    return {
        "user_logs": write_logs(training, read, training_targets, *how, width // 2),
        "asked_logs": write_logs(events, asked, HeldOut(corpus.samples).targets, *how, width),
    }


def _write_item_tokens(corpus: _Corpus, path: Path, trie_path: Path) -> None:
    """Write the decoder tokens of each item for each task, as a table and as tries."""
    items = np.arange(len(corpus.descriptions.texts), dtype=np.int32)
    rows = {source: value_tokens(corpus.pieces, value, items) for source, value in ITEM_VALUES.items()}
    parts = [
        pl.DataFrame({"item_id": items, "target_ids": tokens.to_series("target_ids", pl.Int32())}).with_columns(
            task=pl.lit(source)
        )
        for source, tokens in rows.items()
    ]
    schema.ITEM_TOKENS.write(pl.concat(parts), path)
    save_tries({source: TokenTrie.from_rows(tokens) for source, tokens in rows.items()}, trie_path)


def _columns(rows: ExampleRows, **tokens: Ragged) -> pl.DataFrame:
    lists = [column.to_series(name, pl.Int32()) for name, column in tokens.items()]
    return pl.DataFrame([pl.Series("sample_id", rows.ids), *lists])


def _texts(canonical: Path) -> tuple[pl.DataFrame, pl.Series]:
    """Read all items and the texts of all queries, in the order of their ids."""
    items = schema.ITEMS.read(canonical / "items.parquet").sort("item_id")
    queries = schema.QUERIES.read(canonical / "queries.parquet").sort("query_id")
    return items, queries.get_column("text")


def _user_rows(samples: Path, tokens: list[int], encoder: Encoder) -> Ragged:
    """Write the unknown user and users 0, 1, ... of the samples table as token ids."""
    last = UNKNOWN_USER
    for part in table_parts(samples / "samples.parquet", schema.SAMPLES, columns=["user_id"]):
        last = int(part.get_column("user_id").to_numpy().max(initial=last))
    return user_rows(np.arange(UNKNOWN_USER, last + 1), tokens, encoder)


def _identifier_tokens(
    table: IdentifierTable, tokens: Mapping[str, int], encoder: Encoder, reserved: Sequence[str], path: Path
) -> dict[schema.Side, Ragged]:
    """Return the token ids of all items' identifiers, by side: a token for each code, or the pieces of a text.

    Raises UserError when the tokenizer leaves nothing of a text, or the same pieces of two texts; they are in ``path``.
    """
    ids = np.asarray([tokens[token] for token in table.tokens], dtype=np.int32)
    rows: dict[schema.Side, Ragged] = {}
    for side in schema.SIDES:
        if side in table.sides:
            rows[side] = Ragged(table.sides[side].offsets, ids[table.sides[side].values])
            continue
        texts, _ = clean(pl.Series(table.texts[side], dtype=pl.String()), reserved)
        rows[side] = encoder.encode(texts)
        _check_distinct(rows[side], table.texts[side], f"{path}: column '{side}_text'")
    return rows


def _check_distinct(rows: Ragged, texts: Sequence[str], where: str) -> None:
    """Raise UserError when an identifier's text has no piece, or when two have the same pieces."""
    cure = "take a tokenizer that knows their characters (`tokenizer: trained` does), or build other identifiers"
    empty = np.flatnonzero(rows.lengths == 0)
    if len(empty):
        raise UserError(f"{where}: nothing is left of item {empty[0]}'s identifier {texts[empty[0]]!r}; {cure}")
    owner: dict[bytes, int] = {}
    for item, (start, stop) in enumerate(zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True)):
        other = owner.setdefault(rows.values[start:stop].tobytes(), item)
        if other != item:
            raise UserError(
                f"{where}: items {other} and {item} have the same identifier in pieces of the tokenizer, "
                f"{texts[other]!r} and {texts[item]!r}; {cure}"
            )


def _pseudo_queries(path: Path | None, n_items: int, settings: MaterializationSettings) -> pl.DataFrame:
    """Read the pseudo-queries in the order of item and number; return none when no task needs them."""
    if path is None or not settings.reads_pseudo_queries():
        return pl.DataFrame(schema=schema.PSEUDO_QUERIES.schema)
    table = schema.PSEUDO_QUERIES.read(path).sort("item_id", "number")
    if len(table) and not 0 <= table["item_id"].min() <= table["item_id"].max() < n_items:  # type: ignore[operator]
        raise UserError(f"{path}: names items that items.parquet does not have; make the pseudo-queries again")
    return table


def _tokenizer_name(settings: MaterializationSettings, identifiers: Path) -> str:
    """Name the tokenizer to begin with. Raises UserError when the identifiers should have left one, but have not."""
    if settings.tokenizer != OF_IDENTIFIERS:
        return settings.tokenizer
    folder = identifiers / "tokenizer"
    if not folder.is_dir():
        raise UserError(
            f"tokenizer: {OF_IDENTIFIERS}: there is no {folder}; name identifiers of kind genret, or another tokenizer"
        )
    return str(folder)


def _base_tokenizer(
    name: str, vocabulary_size: int, items: pl.Series, queries: pl.Series, prompts: PromptFile
) -> transformers.PreTrainedTokenizerBase:
    if name != TRAINED:
        return load_tokenizer(name)
    tasks = tasks_of(prompts).values()
    instructions = [template.text for task in tasks for template in task.templates]
    # Each item in a history is followed by a separator, which becomes one token if training sees it as often.
    kinds = dict.fromkeys(task.history.separator.strip() for task in tasks if task.history)
    separators = [separator for separator in kinds if separator for _ in range(min(len(items), _TRAINING_TEXTS))]
    texts = chain(_sampled(items), _sampled(queries), instructions, separators)
    return train_tokenizer(texts, vocabulary_size)


def _sampled(texts: pl.Series) -> list[str]:
    if len(texts) > _TRAINING_TEXTS:
        texts = texts.gather(np.linspace(0, len(texts) - 1, _TRAINING_TEXTS).round().astype(np.int64))
    return clean(texts, [])[0]

"""Open causal models over user logs: to train one, and to ask a trained one."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from gensar_core import schema
from gensar_core.config.base import validate
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.generators import Precision, TrainingSettings
from gensar_core.corpora import read as corpora
from gensar_core.corpora.instructions import prompted_tasks, trained_behaviors
from gensar_core.corpora.live_prompts import Asked, Entry
from gensar_core.corpora.trie import load_tries
from gensar_core.corpora.user_logs import NO_TARGET
from gensar_core.embeddings.item_texts import Encoder, Texts
from gensar_core.embeddings.tokenizer import load_corpus_tokenizer
from gensar_core.errors import UserError
from gensar_core.generator.backbones.causal import CausalGenerator, from_scratch, pretrained
from gensar_core.generator.beam_search import RetrievedItems, search_beams
from gensar_core.generator.click_evidence import ClickEvidence
from gensar_core.generator.item_nodes import ItemNodes, item_codes
from gensar_core.generator.live_questions import Answering
from gensar_core.generator.log_rows import LOG_TASKS, LogRows
from gensar_core.generator.logit_adjustment import clicks_of_items
from gensar_core.generator.one_pass_scores import AskedLogs, OnePassScorer, OnePassValidation
from gensar_core.generator.one_pass_training import EVIDENCE_FILE, Catalogue, OnePassTask
from gensar_core.generator.trained import check_same_items, exported_corpus
from gensar_core.generator.warm_start import warm_embeddings, warm_items
from gensar_core.ranking.validation_candidates import ValidLists
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import pick_device
from gensar_core.runtime.progress import say
from gensar_core.runtime.seeds import derive_seed
from gensar_core.runtime.stage import read_record
from gensar_core.samples.cold_items import mark_cold_items
from gensar_core.training.processes import ALONE, Processes

#: Number of an asked item, and of a query that no one asked in training.
_UNKNOWN = -1


def one_pass_task(
    corpus: Path,
    samples: Path,
    settings: TrainingSettings,
    seed: int,
    processes: Processes = ALONE,
    token_vectors: Path | None = None,
    start_from: Path | None = None,
    cold_items: Path | None = None,
) -> OnePassTask:
    """Build the training of a causal model on the logs of ``corpus``, validated on candidates in ``samples``.

    No target competes with an item of the table ``cold_items``.
    """
    for name in LOG_TASKS:
        if not isinstance(settings.task_weights.get(name, 1.0), int | float):
            raise UserError(
                f"task_weights.{name}: logs are read whole; write a factor of the loss, not {{examples: N}}"
            )
    vocabulary = corpora.vocabulary_size(corpus)
    tokenizer = load_corpus_tokenizer(corpus / "tokenizer")
    catalogue = load_catalogue(corpus, vocabulary, int(tokenizer.eos_token_id))
    codes = {task: item_codes(rows, catalogue.first_code) for task, rows in catalogue.items.items()}
    logs = LogRows.load(
        vocabulary,
        corpus / "user_logs.parquet",
        corpus / "alignment_logs.parquet",
        other_codes=codes if settings.one_pass.other_identifier_weight else None,
    )
    n_queries = logs.n_queries()
    asked = LogRows.load(vocabulary, corpus / "asked_logs.parquet")
    model = _model(corpus, settings, catalogue, n_queries, vocabulary, tokenizer, seed, start_from)
    if settings.warm_start:
        if token_vectors is None:
            raise UserError("warm_start: needs the file of token vectors; build it, or set warm_start: false")
        warm_embeddings(model.embeddings.data, token_vectors, seed)
        for task, rows in catalogue.items.items() if settings.one_pass.item_vectors else ():
            own = warm_items(codes[task], token_vectors, vocabulary, model.embeddings.shape[1], seed)
            # The last token is the end of sequence.
            last = catalogue.nodes.of_item[task][np.arange(len(rows)), rows.lengths - 2]
            model.node_vectors.data[last] = own
    model.to(pick_device())
    over_catalogue = settings.likelihood == "catalogue"
    evidence = None
    if settings.one_pass.click_evidence and over_catalogue:
        events = samples / "training_events.parquet"
        evidence = ClickEvidence.count(events, len(catalogue.items["rec"]), n_queries)
    scorer = OnePassScorer(model, catalogue.to(model.embeddings.device), evidence, over_catalogue=over_catalogue)
    validation = []
    tasks = prompted_tasks(corpus)
    for task in tasks:
        lists = ValidLists.open(samples, task, settings.validation_users, settings.validation_choice)
        if len(lists):
            validation.append(OnePassValidation(task, lists, asked, scorer, settings.validate_among == "catalogue"))
    if not validation:
        named = " or ".join(tasks)
        raise UserError(f"{samples}: holds no valid samples of {named} to choose the model by; take more data")
    order_seed = derive_seed(seed, "order")
    trained = [LOG_TASKS[behavior] for behavior in trained_behaviors(corpus, _settings(corpus))]
    cold = mark_cold_items(cold_items, len(catalogue.items["rec"]))
    clicks = None
    if settings.logit_adjustment:
        clicks = clicks_of_items(samples / "training_events.parquet", len(catalogue.items["rec"]))
    return OnePassTask(
        model, settings, logs, scorer.catalogue, evidence, validation, order_seed, processes, trained, cold, clicks
    )


def load_catalogue(corpus: Path, vocabulary: int, end: int) -> Catalogue:
    """Read the items' tokens and tries of a corpus, and number their prefixes."""
    return _read_catalogue(corpus, vocabulary, end, int(corpora.has_behavior_tokens(corpus)))


def _read_catalogue(folder: Path, vocabulary: int, end: int, first_code: int) -> Catalogue:
    items = corpora.load_item_tokens(folder, vocabulary, end)
    tries = load_tries(folder, len(items["rec"]))
    return Catalogue(items, tries, ItemNodes.build(items, tries, first_code), first_code)


def _model(
    corpus: Path,
    settings: TrainingSettings,
    catalogue: Catalogue,
    n_queries: int,
    vocabulary: int,
    tokenizer: object,
    seed: int,
    start_from: Path | None,
) -> CausalGenerator:
    depth = max(trie.depth for trie in catalogue.tries.values())
    if start_from is not None:
        model = CausalGenerator.load(start_from, settings.one_pass)
        nodes = len(model.node_vectors) or catalogue.nodes.count
        if len(model.embeddings) < vocabulary or nodes != catalogue.nodes.count:
            raise UserError(f"start_from: {start_from} was trained on another corpus; name a generator of this corpus")
    else:
        name = settings.pretrained_causal
        lm = (
            from_scratch(settings.one_pass, vocabulary, tokenizer, seed)
            if name is None
            else pretrained(name, tokenizer, corpus, seed)
        )
        model = CausalGenerator(lm, settings.one_pass, catalogue.nodes.count, n_queries, depth)
    longest = _settings(corpus).log_tokens + depth
    if longest > model.lm.config.max_position_embeddings:
        raise UserError(
            f"backbone: {settings.backbone!r} knows {model.lm.config.max_position_embeddings} positions, but rows of "
            f"{corpus} have up to {longest}; lower the corpus' log_tokens"
        )
    model.lm.config.identifier_likelihood = settings.likelihood
    model.lm.config.one_pass = model.settings.model_dump()
    return model


@dataclass
class OnePassGenerator(Answering):
    """Hold a trained causal model with its corpus; the questions are those of `TrainedGenerator`."""

    scorer: OnePassScorer
    folder: Path
    corpus: Path
    precision: Precision

    @classmethod
    def load(
        cls,
        model: Path,
        corpus: Path | None = None,
        device: torch.device | None = None,
        precision: Precision = "float32",
    ) -> OnePassGenerator:
        """Load the model in the folder ``model``, which was trained on the folder ``corpus``.

        Without ``corpus``, ``model`` is an exported folder, which holds what it needs of the corpus. Raises UserError
        if a folder is missing or damaged, or they do not belong together.
        """
        corpus = corpus or exported_corpus(model)
        device = device or pick_device()
        network = CausalGenerator.load(model)
        catalogue = load_catalogue(corpus, len(network.embeddings), int(network.lm.config.eos_token_id))
        check_same_items(model, corpus)
        corpora.check_model_tokenizer(corpus, load_corpus_tokenizer(model), model)
        if precision != "float32":
            say(f"precision: {precision}: a causal model computes in float32")
        network.to(device).eval()
        over_catalogue = network.lm.config.identifier_likelihood == "catalogue"
        evidence = None
        if over_catalogue and network.settings.click_evidence:
            evidence = ClickEvidence.load(model / EVIDENCE_FILE)
        return cls(
            OnePassScorer(network, catalogue.to(device), evidence, over_catalogue=over_catalogue),
            model,
            corpus,
            "float32",
        )

    @property
    def items(self) -> dict[str, corpora.ItemTokens]:
        """Return the tokens of each item, by task."""
        return dict(self.scorer.catalogue.items)

    def asked(self) -> AskedLogs:
        """Load the logs of valid and test samples."""
        return AskedLogs.load(self.corpus / "asked_logs.parquet", len(self.scorer.model.embeddings))

    def score(
        self,
        asked: AskedLogs,
        candidates: np.ndarray,
        task: str,
        *,
        users_per_batch: int = 64,
        beams: int | None = None,
    ) -> np.ndarray:
        """Score ``candidates`` int32 [users, width] (-1: none) of each question, float32 [users, width]."""
        if beams is not None:
            raise UserError(f"{self.folder}: a causal model ranks every candidate; leave out ranking.beams")
        if candidates.size and candidates.max() >= len(self.items[task]):
            raise UserError(
                f"{self.folder}: candidate item {int(candidates.max())} is not among the {len(self.items[task])} items "
                "of the corpus; build corpus and samples from the same data"
            )
        return self.scorer.score(asked.logs, asked.targets, candidates, task, users_per_batch)

    def retrieve(self, asked: AskedLogs, task: str, *, users_per_batch: int, **options: Any) -> RetrievedItems:
        """Search the catalogue for each question; ``options`` are those of `search_beams`."""
        row, entry = asked.logs.places_of(asked.targets)
        questions = self.scorer.questions(asked.logs, row, entry, task, users_per_batch)
        return search_beams(questions, self.scorer.catalogue.tries[task], **options)

    @property
    def n_items(self) -> int:
        """Return the number of items of the catalogue."""
        return len(self.scorer.catalogue.items["rec"])

    @property
    def device(self) -> torch.device:
        """Return the model's device."""
        return self.scorer.device

    def write(self, task: str, asked: Sequence[Asked]) -> AskedLogs:  # noqa: ARG002
        """Write live questions as logs, which say themselves what is asked."""
        return AskedLogs(self._live.rows(asked), np.arange(len(asked)))

    def with_added(self, added: Path) -> tuple[OnePassGenerator, OnePassGenerator]:
        """Return generators of the items that this one knows, and of all items of the folder ``added``.

        The second one writes questions about all items; both answer them. Prefixes that only added items have are
        without a vector, which is what training starts a vector from.
        """
        scorer, known = self.scorer, self.scorer.catalogue
        vocabulary, end = len(scorer.model.embeddings), int(scorer.model.lm.config.eos_token_id)
        joined = _read_catalogue(added, vocabulary, end, known.first_code)
        joined = replace(joined, nodes=joined.nodes.numbered_as(known.nodes)).to(scorer.device)
        # Histories hold added items, whichever items are searched.
        reading = replace(known, nodes=replace(known.nodes, of_item=joined.nodes.of_item))
        first, second = (
            OnePassScorer(scorer.model, one, scorer.evidence, over_catalogue=scorer.over_catalogue)
            for one in (reading, joined)
        )
        return replace(self, scorer=first), replace(self, scorer=second)

    @functools.cached_property
    def _live(self) -> LiveLogs:
        return LiveLogs(self.corpus, self.scorer.catalogue)


class LiveLogs:
    """Write the logs of histories that no table holds."""

    def __init__(self, corpus: Path, catalogue: Catalogue) -> None:
        self._settings = _settings(corpus)
        self._catalogue = catalogue
        tokenizer = load_corpus_tokenizer(corpus / "tokenizer")
        self._encoder = Encoder(tokenizer)
        self._reserved = sorted(tokenizer.get_added_vocab())
        tokens = corpora.new_tokens(corpus)
        self._lead = [tokens.get(f"<{behavior}>", int(tokenizer.eos_token_id)) for behavior in schema.BEHAVIORS]
        numbers = query_numbers(corpus)
        self._numbers = dict(
            zip(map(tuple, numbers["token_ids"].to_list()), numbers["query_id"].to_list(), strict=True)
        )

    def rows(self, asked: Sequence[Asked]) -> LogRows:
        """Write a row for each question: its history, then what is asked: a recommendation, or results of its query.

        The latest entries that fit are kept. Each query forms a group with its clicks. Question i is the target i.
        Raises UserError on an item that the corpus does not have and on a query without a word.
        """
        told = [[*history, *([] if query is None else [Entry.searched(query)])] for history, query, _ in asked]
        words = self._words({entry.object for entries in told for entry in entries if isinstance(entry.object, str)})
        rows = [
            self._row(number, entries, schema.RECOMMENDED_ITEM if query is None else schema.SEARCHED_ITEM, words)
            for number, (entries, (_, query, _)) in enumerate(zip(told, asked, strict=True))
        ]
        return rows[0].followed_by(*rows[1:])

    def _row(self, number: int, entries: list[Entry], asked: int, words: Mapping[str, list[int]]) -> LogRows:
        tokens = [[self._lead[entry.behavior], *self._tokens(entry, words)] for entry in entries]
        tokens.append([self._lead[asked]])
        behavior = np.array([*(entry.behavior for entry in entries), asked])
        place = np.arange(len(behavior))
        # A click belongs to the query before it, unless a click of the other kind stands between.
        begins = behavior != schema.SEARCHED_ITEM
        opening = np.maximum.accumulate(np.where(begins, place, 0))
        follows = ~begins & (behavior[opening] == schema.SEARCHED_QUERY)
        objects = [
            self._numbers.get(tuple(row), _UNKNOWN) if isinstance(entry.object, str) else int(entry.object)
            for entry, row in zip(entries, tokens, strict=False)
        ]
        group = np.where(follows, opening, place)
        return self._cut(number, behavior, np.array([*objects, _UNKNOWN]), group, tokens)

    def _cut(
        self, number: int, behavior: np.ndarray, objects: np.ndarray, group: np.ndarray, tokens: list[list[int]]
    ) -> LogRows:
        """Keep the latest entries that fit; ``group`` is the place of each entry's query, or its own."""
        lengths = np.array([len(row) for row in tokens])
        after = np.cumsum(lengths[::-1])[::-1]
        first = min(int(np.argmax(after <= self._settings.log_tokens)), int(group[-1]))
        kept = slice(first, None)
        lengths, group = lengths[kept], group[kept] - first
        place = np.arange(len(lengths))
        query = np.where(group >= 0, group, place)
        starts = np.cumsum(lengths) - lengths
        target = np.full(len(place), NO_TARGET)
        target[-1] = number
        return LogRows(
            user=np.array([-1]),
            entries=np.array([0, len(place)]),
            tokens=Ragged.from_lengths(lengths, np.array([token for row in tokens[kept] for token in row])),
            folder=None,
            behavior=behavior[kept],
            object=objects[kept],
            position=starts[query] + np.where(query != place, lengths[query], 0),
            opens=query,
            closes=query,
            query=query,
            target=target,
        )

    def _words(self, texts: Collection[str]) -> dict[str, list[int]]:
        """Return the tokens of each text."""
        if not all(text.strip() for text in texts):
            raise UserError("query: holds no word; give at least one")
        column = pl.Series(list(texts), dtype=pl.String)
        prepared = Texts.prepare(column, self._encoder, self._settings.max_query_tokens, self._reserved)
        return dict(zip(texts, prepared.tokens.to_series("tokens", pl.Int64()).to_list(), strict=True))

    def _tokens(self, entry: Entry, words: Mapping[str, list[int]]) -> list[int]:
        if isinstance(entry.object, str):
            return words[entry.object]
        rows = self._catalogue.items["rec" if entry.behavior == schema.RECOMMENDED_ITEM else "search"]
        if not 0 <= entry.object < len(rows):
            raise UserError(
                f"history: there is no item number {entry.object}; items are numbered from 0 to {len(rows) - 1}"
            )
        codes: list[int] = rows.tokens[
            entry.object, self._catalogue.first_code : rows.lengths[entry.object] - 1
        ].tolist()
        return codes


def query_numbers_file(corpus: Path) -> Path:
    """Return the file that tells the number of each query: in an exported folder its own, else the users' logs."""
    path = corpus / "query_numbers.parquet"
    return path if path.is_file() else corpus / "user_logs.parquet"


def query_numbers(corpus: Path) -> pl.DataFrame:
    """Return the number of each query of the training log by its tokens (table `query_numbers`)."""
    path = query_numbers_file(corpus)
    if path.name != "user_logs.parquet":
        return schema.QUERY_NUMBERS.read(path)
    logs = LogRows.load(corpora.vocabulary_size(corpus), path)
    queries = np.flatnonzero(logs.behavior == schema.SEARCHED_QUERY)
    first = queries[np.unique(logs.object[queries], return_index=True)[1]]
    numbers = pl.Series("query_id", logs.object[first])
    return schema.QUERY_NUMBERS.check(
        pl.DataFrame([numbers, logs.tokens.take(first).to_series("token_ids", pl.Int32())])
    )


def _settings(corpus: Path) -> MaterializationSettings:
    record = read_record(corpus / "stage.json")
    return validate(MaterializationSettings, record["settings"], str(corpus / "stage.json"), "settings")

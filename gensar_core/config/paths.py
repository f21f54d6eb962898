"""Tell which files an entry of the experiments reads, and which files are behind a page of results.

A function takes the plan and values of wildcards, and returns paths relative to the working folder. Nothing here needs
Snakemake. Names at the top are patterns, in which `{dataset}` and `{corpus}` stand for any entry.
"""

from __future__ import annotations

import difflib
import itertools
import string
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gensar_core.config.base import canonical_json
from gensar_core.config.experiments import Experiments
from gensar_core.config.identifiers import sides_told
from gensar_core.config.prompts import find_prompts
from gensar_core.config.seeds import Runs
from gensar_core.errors import UserError

# Files of a stage that several rules name.
_CANONICAL: Final = "results/{dataset}/canonical"
_ITEMS, _QUERIES = f"{_CANONICAL}/items.parquet", f"{_CANONICAL}/queries.parquet"
_PSEUDO_QUERIES: Final = "results/{dataset}/pseudo_queries/{entry}/pseudo_queries.parquet"
EVENTS: Final = f"{_CANONICAL}/events.parquet"
USERS: Final = f"{_CANONICAL}/users.parquet"
#: The tables with texts.
ITEMS_AND_QUERIES: Final = [_ITEMS, _QUERIES]
#: The canonical tables beside the events, and all of them.
PARTIES: Final = [USERS, *ITEMS_AND_QUERIES]
CANONICAL_TABLES: Final = [EVENTS, *PARTIES]
#: The survey of a log of clicks, which every part of its canonical tables reads, and the folder of the parts' events.
_LOG_SURVEY: Final = "results/{dataset}/canonical_parts/survey"
LOG_SURVEY: Final = [
    f"{_LOG_SURVEY}/{name}"
    for name in ("survey.json", "items.parquet", "queries.parquet", "cleaned.parquet", "stage.json")
]
LOG_EVENTS: Final = f"{_LOG_SURVEY}/events"

_SAMPLES: Final = "results/{dataset}/samples"
SAMPLES: Final = f"{_SAMPLES}/samples.parquet"
CANDIDATES: Final = f"{_SAMPLES}/candidates.parquet"
TRAINING_EVENTS: Final = f"{_SAMPLES}/training_events.parquet"
COLD_ITEMS: Final = f"{_SAMPLES}/cold_items.parquet"
AUDIT: Final = f"{_SAMPLES}/audit.json"
#: The survey of all users, which every part of the samples reads.
SURVEY_TABLES: Final = [f"results/{{dataset}}/samples_parts/survey/{name}.parquet" for name in ("users", "clicks")]
SURVEY: Final = "results/{dataset}/samples_parts/survey/survey.json"

_CORPUS: Final = "results/{dataset}/corpora/{corpus}"
TOKENIZER: Final = f"{_CORPUS}/tokenizer/tokenizer_config.json"
TRAINING_TOKENS: Final = f"{_CORPUS}/train.parquet"
_PROMPTS, _ITEM_TOKENS, _TRIE = (
    f"{_CORPUS}/{name}" for name in ("prompts.parquet", "item_tokens.parquet", "trie.safetensors")
)
_USER_LOGS, _ALIGNMENT_LOGS, _ASKED_LOGS = (f"{_CORPUS}/{name}_logs.parquet" for name in ("user", "alignment", "asked"))
NEW_TOKENS: Final = f"{_CORPUS}/new_tokens.json"
_TASKS: Final = f"{_CORPUS}/prompts.yaml"
#: The files of a corpus beside its training examples and its tokenizer.
CORPUS_FILES: Final = [_PROMPTS, _USER_LOGS, _ALIGNMENT_LOGS, _ASKED_LOGS, _ITEM_TOKENS, NEW_TOKENS, _TASKS, _TRIE]
#: Files that only trainings on prompts read, and files that only trainings on logs read.
_PROMPT_FILES: Final = (TRAINING_TOKENS, _PROMPTS)
_LOG_FILES: Final = (_USER_LOGS, _ALIGNMENT_LOGS, _ASKED_LOGS)

#: Endings of the files of a metric table, beside its CSV and its page.
TABLE_ENDINGS: Final = [".md", ".tex", ".significance.csv", ".stage.json"]

#: Folders of results for people, which are requested by name.
_SHOWN_FOLDERS: Final = ("results/tables", "results/figures", "results/overview")


@dataclass(frozen=True)
class Plan:
    """Everything that paths depend on: the experiments, and facts about methods that their code holds.

    ``runs`` are the entries that each row of a table shows. The two functions say of a kind of method whether it reads
    stored negatives, and whether its training leaves a curve.
    """

    experiments: Experiments
    runs: Runs
    reads_negatives: Callable[[str], bool]
    leaves_curve: Callable[[str], bool]


# Raw files.


def datasets_of(plan: Plan, *sources: str) -> list[str]:
    """Name the data sets that come from one of the sources."""
    return [name for name, dataset in plan.experiments.datasets.items() if dataset.source in sources]


def user_file(dataset: str, key: str, path: str) -> str:
    """Return the path of a raw file that the user brings.

    Raises UserError when there is none, naming the key that told where to look.
    """
    if not Path(path).is_file():
        raise UserError(f"config: datasets.{dataset}.{key}: there is no {path}; put the file there, or name its place")
    return path


def amazon_files(
    plan: Plan,
    dataset: str,
    raw_names: Callable[..., Iterable[str]],
    raw_folder: Callable[[int], str],
    search_names: Collection[str],
    searched_categories: Collection[str],
) -> list[str]:
    """List the raw files of an Amazon category: simulated, downloaded, or in the user's folder.

    ``raw_names`` names the files of a category, of a release, and with all reviews or their 5-core, that must be there;
    ``raw_folder`` the folder of a release's downloads; ``search_names`` those of product search, which are published
    for ``searched_categories`` of 2014 alone and left out of a data set without searches. Raises UserError when the
    user's folder lacks one that must be there.
    """
    entry: Any = plan.experiments.datasets[dataset]
    if entry.source == "simulated":
        return [f"results/{dataset}/raw/{name}" for name in [*raw_names(entry.category), *search_names]]
    names = list(raw_names(entry.category, entry.release, entry.min_interactions is not None))
    searched = search_names if entry.release == 2014 and entry.searches == "made" else ()
    if entry.raw == "download":
        published = searched if entry.category in searched_categories else ()
        folder = f"resources/{raw_folder(entry.release)}/{entry.category}"
        return [f"{folder}/{name}" for name in [*names, *published]]
    search = [f"{entry.raw}/{name}" for name in searched]
    return raw_files(plan, dataset, names) + [path for path in search if Path(path).is_file()]


def raw_files(plan: Plan, dataset: str, names: Iterable[str]) -> list[str]:
    """List the named files of a data set's folder of raw files. Raises UserError when one is missing."""
    entry: Any = plan.experiments.datasets[dataset]
    return [user_file(dataset, "raw", f"{entry.raw}/{name}") for name in names]


def raw_tables(plan: Plan, dataset: str, folders: Iterable[str]) -> list[str]:
    """List the Parquet files of the named folders below a data set's raw files, folder by folder.

    Raises UserError when a folder has none.
    """
    entry: Any = plan.experiments.datasets[dataset]
    files: list[str] = []
    for folder in folders:
        there = sorted(Path(entry.raw, folder).glob("*.parquet"))
        if not there:
            raise UserError(
                f"config: datasets.{dataset}.raw: there are no Parquet files in {entry.raw}/{folder}; put the "
                "published ones there, or name their place"
            )
        files += map(str, there)
    return files


def user_table(plan: Plan, dataset: str, key: str) -> str:
    """Return the table of an event log that a key names: `items` or `events`. Raises UserError when it is missing."""
    return user_file(dataset, key, getattr(plan.experiments.datasets[dataset], key))


# Samples.


def parts_of(plan: Plan, dataset: str) -> int:
    """Return the number of jobs that share each data stage of a data set."""
    return plan.experiments.datasets[dataset].scatter


def datasets_in_parts(plan: Plan, several: bool, *sources: str) -> list[str]:
    """Name the data sets, of some sources or of all, whose data stages run as several jobs or, if not, as one."""
    names = datasets_of(plan, *sources) if sources else plan.experiments.datasets
    return [name for name in names if (parts_of(plan, name) > 1) == several]


def dataset_parts(plan: Plan, dataset: str, folder: str, names: Sequence[str]) -> list[str]:
    """List the files ``names`` of all parts of a stage of a data set, part by part."""
    parts = parts_of(plan, dataset)
    return [f"results/{dataset}/{folder}/{part}-of-{parts}/{name}" for part in range(parts) for name in names]


def cold_items(plan: Plan, dataset: str) -> list[str]:
    """List the table of items that are held out of training: one file, or none where the data set holds none out."""
    return [COLD_ITEMS.format(dataset=dataset)] if plan.experiments.datasets[dataset].samples.cold_share else []


# Embeddings and identifiers.


def embedding_text(plan: Plan, dataset: str, embedding: str) -> str:
    """Return the vectors of the text embedding that an embedding is trained from."""
    entry: Any = plan.experiments.embeddings[embedding]
    return _vectors(dataset, entry.text)


def embedding_model(plan: Plan, dataset: str, embedding: str) -> str:
    """Return the record of the trained method that an embedding is taken from."""
    entry: Any = plan.experiments.embeddings[embedding]
    return _model_record(dataset, entry.method)


def identifier_embeddings(plan: Plan, dataset: str, identifier: str) -> dict[str, str]:
    """Return the files of the vectors that an entry of identifiers is learned from, by side."""
    return {side: _vectors(dataset, embedding) for side, embedding in _sides(plan, identifier).items()}


def identifier_inputs(plan: Plan, dataset: str, identifier: str) -> dict[str, str]:
    """Return the files that an entry of identifiers is built from, by what they are: those that its kind declares."""
    files = identifier_embeddings(plan, dataset, identifier)
    for one in plan.experiments.identifiers[identifier].inputs:
        files |= {name: pattern.format(dataset=dataset) for name, pattern in _IDENTIFIER_INPUTS[one].items()}
    if queries := getattr(plan.experiments.identifiers[identifier], "pseudo_queries", None):
        files["pseudo_queries"] = _PSEUDO_QUERIES.format(dataset=dataset, entry=queries)
    for file in cold_items(plan, dataset):
        files["cold_items"] = file
    return files


#: Data that kinds of identifiers declare -> their files, by what they are.
_IDENTIFIER_INPUTS: Final[Mapping[str, Mapping[str, str]]] = {
    # Those that the entry names.
    "vectors": {},
    "clicks": {"training_events": TRAINING_EVENTS},
    "searches": {"training_events": TRAINING_EVENTS, "queries": _QUERIES},
    "items": {"item_texts": _ITEMS},
}


def identifier_module(plan: Plan, identifier: str) -> str:
    """Return the module of an entry's kind of identifiers."""
    return f"gensar_core.identifiers.kinds.{plan.experiments.identifiers[identifier].kind}"


def _sides(plan: Plan, identifier: str) -> dict[str, str]:
    entry = plan.experiments.identifiers[identifier]
    sides = {side: getattr(entry, side, None) for side in ("semantic", "collaborative")}
    return {side: embedding for side, embedding in sides.items() if embedding is not None}


def _vectors(dataset: str, embedding: str) -> str:
    return f"results/{dataset}/embeddings/{embedding}/vectors.safetensors"


def compared_identifiers(plan: Plan, dataset: str) -> list[str]:
    """Name the identifiers whose collision rates a data set's figure shows. Raises UserError without any."""
    names = plan.experiments.datasets[dataset].compared_identifiers
    if not names:
        raise UserError(f"config: datasets.{dataset}.compared_identifiers: name the entries of identifiers to draw")
    return names


def compared_quality(plan: Plan, dataset: str) -> list[str]:
    """List the quality reports of these identifiers."""
    return _quality(dataset, compared_identifiers(plan, dataset))


def _quality(dataset: str, identifiers: Iterable[str]) -> list[str]:
    return [f"results/{dataset}/identifiers/{identifier}/quality.json" for identifier in identifiers]


# Corpora.


def corpus_identifiers(plan: Plan, dataset: str, corpus: str) -> list[str]:
    """List the files of the identifiers that a corpus writes."""
    folder = f"results/{dataset}/identifiers/{plan.experiments.corpora[corpus].identifier}"
    return [f"{folder}/identifiers.parquet", f"{folder}/vocabulary.json"]


def corpus_embeddings(plan: Plan, dataset: str, corpus: str) -> dict[str, str]:
    """Return the files of the vectors that a corpus's identifiers are learned from, by side."""
    return identifier_embeddings(plan, dataset, plan.experiments.corpora[corpus].identifier)


def corpus_sides(plan: Plan, corpus: str) -> list[str]:
    """Name the sides that a corpus's identifiers are learned from, in alphabetical order."""
    return sorted(_sides(plan, plan.experiments.corpora[corpus].identifier))


def corpus_pseudo_queries(plan: Plan, dataset: str, corpus: str) -> str | list[str]:
    """Return the file of pseudo-queries that a corpus reads, or an empty list."""
    entry = plan.experiments.corpora[corpus]
    if not entry.reads_pseudo_queries():
        return []
    return _PSEUDO_QUERIES.format(dataset=dataset, entry=entry.pseudo_queries)


def corpus_prompts(plan: Plan, corpus: str) -> str:
    """Return what a corpus's prompt file says, as canonical JSON."""
    return find_prompts(plan.experiments.corpora[corpus].prompts).canonical()


# Generators.


def generators_in_parts(plan: Plan, several: bool) -> list[str]:
    """Name the generators that rank in several jobs or, if not ``several``, in one."""
    return [name for name, generator in plan.experiments.generators.items() if (generator.scatter > 1) == several]


def history_protocol(plan: Plan, dataset: str) -> str:
    """Name the history protocol of a data set's samples."""
    return plan.experiments.datasets[dataset].samples.history_protocol


def training_corpus(plan: Plan, dataset: str, generator: str) -> list[str]:
    """List the files of its corpus that a generator is trained on: prompts or logs, and the items' tokens."""
    unread = _PROMPT_FILES if plan.experiments.generators[generator].reads_logs else _LOG_FILES
    files = [path for path in (TRAINING_TOKENS, *CORPUS_FILES) if path not in unread]
    return _of_corpus(plan, dataset, generator, files)


def training_samples(plan: Plan, dataset: str, generator: str) -> list[str]:
    """List the tables of samples that a generator is trained with."""
    files = [SAMPLES, CANDIDATES, *([TRAINING_EVENTS] if plan.experiments.generators[generator].reads_clicks else [])]
    return [path.format(dataset=dataset) for path in files]


def ranking_corpus(plan: Plan, dataset: str, generator: str) -> list[str]:
    """List the files of its corpus that a generator ranks with."""
    asked = _ASKED_LOGS if plan.experiments.generators[generator].reads_logs else _PROMPTS
    return _of_corpus(plan, dataset, generator, [asked, _TASKS, _ITEM_TOKENS, _TRIE])


def answering_corpus(plan: Plan, dataset: str, generator: str) -> list[str]:
    """List the files of its corpus that a generator answers live questions with."""
    files = [_TASKS, NEW_TOKENS, _ITEM_TOKENS, _TRIE]
    logs = [_USER_LOGS] if plan.experiments.generators[generator].reads_logs else []
    return _of_corpus(plan, dataset, generator, [*files, *logs, TOKENIZER])


def answer_files(plan: Plan, dataset: str, key: str) -> list[str]:
    """List the files of users, items and queries that ``key`` of a data set names: `recommendations` or `queries`.

    Raises UserError when one is missing, and without queries to answer.
    """
    settings = getattr(plan.experiments.datasets[dataset], key)
    named = {name: getattr(settings, name, None) for name in ("users", "file", "items")}
    if key == "queries" and named["file"] is None:
        raise UserError(f"config: datasets.{dataset}.queries.file: name a text file with one query a line")
    return [user_file(dataset, f"{key}.{name}", path) for name, path in named.items() if path is not None]


def generator_tokenizer(plan: Plan, dataset: str, generator: str) -> str:
    """Return the file that stands for the tokenizer of a generator's corpus."""
    return _of_corpus(plan, dataset, generator, [TOKENIZER])[0]


def _of_corpus(plan: Plan, dataset: str, generator: str, patterns: Sequence[str]) -> list[str]:
    corpus = plan.experiments.generators[generator].corpus
    return [pattern.format(dataset=dataset, corpus=corpus) for pattern in patterns]


def generator_token_vectors(plan: Plan, dataset: str, generator: str) -> list[str]:
    """List the token vectors that a generator starts from: one file if it has a warm start, or none.

    Raises UserError when it has one, but its identifiers come from no vectors.
    """
    entry = plan.experiments.generators[generator]
    if entry.warm_start and not _sides(plan, plan.experiments.corpora[entry.corpus].identifier):
        raise UserError(
            f"config: generators.{generator}.warm_start: the identifiers of its corpus are built from no embedding, "
            "whose vectors it would start from; write false"
        )
    folder = f"results/{dataset}/token_vectors/{entry.corpus}"
    return [f"{folder}/token_vectors.safetensors"] if entry.warm_start else []


def generator_start(plan: Plan, dataset: str, generator: str) -> list[str]:
    """List files in the folder of the trained model whose weights a generator starts from, if any."""
    entry = plan.experiments.generators[generator]
    if entry.start_from_identifiers:
        identifier = plan.experiments.corpora[entry.corpus].identifier
        return [f"results/{dataset}/identifiers/{identifier}/stage.json"]
    names = ("model.safetensors", "config.json", "stage.json") if entry.start_from else ()
    return [f"results/{dataset}/models/{entry.start_from}/{name}" for name in names]


def unknown_items(plan: Plan, dataset: str, generator: str) -> list[str]:
    """List the table of cold items for a generator whose identifiers tell nothing of texts, and so nothing of them."""
    identifier = plan.experiments.corpora[plan.experiments.generators[generator].corpus].identifier
    texts = "semantic" in sides_told(plan.experiments.identifiers[identifier])
    return [] if texts else cold_items(plan, dataset)


def added_inputs(plan: Plan, dataset: str, generator: str) -> dict[str, str | list[str]]:
    """Return the files from which items are added to a generator, by what they are.

    Raises UserError when the data set names no table of new items, or when the identifiers come from no text embedding.
    """
    table = plan.experiments.datasets[dataset].new_items
    if table is None:
        raise UserError(f"config: datasets.{dataset}.new_items: name a table of items to add")
    identifier = plan.experiments.corpora[plan.experiments.generators[generator].corpus].identifier
    semantic = _sides(plan, identifier).get("semantic")
    if semantic is None:
        raise UserError(
            f"config: generators.{generator}: the identifiers of its corpus come from no text embedding, so that new "
            "items have none"
        )
    return {
        "new_items": user_file(dataset, "new_items", table),
        "canonical": _ITEMS.format(dataset=dataset),
        "corpus": _of_corpus(plan, dataset, generator, [_ITEM_TOKENS, NEW_TOKENS]),
        "identifiers": f"results/{dataset}/identifiers/{identifier}/stage.json",
        "embedding": _vectors(dataset, semantic),
    }


def added_items(plan: Plan, dataset: str, generator: str) -> list[str]:
    """List the record of the items added to a generator: one file where the data set names new items, or none."""
    named = plan.experiments.datasets[dataset].new_items is not None
    return [f"results/{dataset}/added/{generator}/stage.json"] if named else []


def full_ranking_protocol(plan: Plan, dataset: str) -> str:
    """Return the settings that say which targets a data set ranks among all items, as canonical JSON."""
    return plan.experiments.datasets[dataset].full_ranking.canonical()


def ranking_parts(
    plan: Plan, dataset: str, generator: str, folder: str, endings: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return the files of all parts of a generator's ranking, in order, by the names of their ``endings``."""
    parts = plan.experiments.generators[generator].scatter
    stems = [f"results/{dataset}/{folder}/{generator}/{part}-of-{parts}" for part in range(parts)]
    return {name: [stem + ending for stem in stems] for name, ending in endings.items()}


# Other ranking methods, and fusions.


def method_module(plan: Plan, method: str) -> str:
    """Return the module of an entry's kind of method."""
    return kind_module(plan.experiments.methods[method].kind)


def kind_module(kind: str) -> str:
    """Return the module of a kind of method."""
    return f"gensar_core.baselines.methods.{kind}"


def method_settings(plan: Plan, method: str) -> str:
    """Return the settings that the method's file reads, as canonical JSON."""
    entry = plan.experiments.methods[method]
    return canonical_json({"kind": entry.kind, **entry.own()})


def method_embedding(plan: Plan, dataset: str, method: str) -> list[str]:
    """List the vectors that a method reads: one file or none."""
    embedding = plan.experiments.methods[method].embedding
    return [_vectors(dataset, embedding)] if embedding else []


def method_negatives(plan: Plan, dataset: str, method: str) -> list[str]:
    """List the stored training negatives: one file if the method trains on them, or none."""
    reads = plan.reads_negatives(plan.experiments.methods[method].kind)
    return [f"results/{dataset}/training_negatives/training_negatives.parquet"] if reads else []


def fusion_parts(plan: Plan, fusion: str) -> list[str]:
    """List the entries that a fusion weighs."""
    return plan.experiments.fusions[fusion].parts


def fusion_scores(plan: Plan, dataset: str, fusion: str) -> list[str]:
    """List the scores of these entries."""
    return [f"results/{dataset}/ranks/{part}.scores.parquet" for part in fusion_parts(plan, fusion)]


def fusion_clicks(plan: Plan, dataset: str, fusion: str) -> str | list[str]:
    """Return the training events for a fusion that counts clicks, or an empty list."""
    return TRAINING_EVENTS.format(dataset=dataset) if plan.experiments.fusions[fusion].popularity else []


def fusion_models(plan: Plan, dataset: str, fusion: str) -> list[str]:
    """List the records of the models of a fusion's parts, which are methods."""
    return [_model_record(dataset, part) for part in fusion_parts(plan, fusion)]


def _model_record(dataset: str, entry: str) -> str:
    return f"results/{dataset}/models/{entry}/stage.json"


def fusion_embeddings(plan: Plan, dataset: str, fusion: str) -> list[str]:
    """List the vectors that these methods read."""
    read = [path for part in fusion_parts(plan, fusion) for path in method_embedding(plan, dataset, part)]
    return list(dict.fromkeys(read))


def fusion_methods(plan: Plan, dataset: str, fusion: str) -> str:
    """Return what each of these methods is restored from, in order, as canonical JSON."""
    methods = plan.experiments.methods
    return canonical_json(
        [
            {
                "name": part,
                "kind": methods[part].kind,
                "overrides": methods[part].own(),
                "seed": plan.experiments.seed_of(methods[part]),
                "model": _model_record(dataset, part),
                "embedding": next(iter(method_embedding(plan, dataset, part)), None),
            }
            for part in fusion_parts(plan, fusion)
        ]
    )


def fusion_modules(plan: Plan, fusion: str) -> list[str]:
    """List the modules of these methods' kinds."""
    return list(dict.fromkeys(method_module(plan, part) for part in fusion_parts(plan, fusion)))


def catalogue_fusions(plan: Plan) -> list[str]:
    """Name the fusions that rank among all items: those of methods alone."""
    methods = plan.experiments.methods
    return [name for name, fusion in plan.experiments.fusions.items() if all(part in methods for part in fusion.parts)]


# Tables and figures. Without a name of a table, the one that the data set's entry names is meant.


def table_runs(plan: Plan, dataset: str, table: str | None = None) -> list[tuple[str, str]]:
    """List (row, entry) for each entry that a table shows: one per row, or one per row and seed."""
    rows = plan.runs[_table(plan, dataset, table)]
    return [(row, entry) for row, entries in rows.items() for entry in entries]


def _table(plan: Plan, dataset: str, table: str | None) -> str:
    return plan.experiments.datasets[dataset].table if table is None else table


def table_rows(plan: Plan, dataset: str, table: str | None = None) -> list[str]:
    """List the row of each of a table's ranks files, in order."""
    return [row for row, _ in table_runs(plan, dataset, table)]


def table_ranks(plan: Plan, dataset: str, table: str | None = None) -> list[str]:
    """List the ranks files of a table's rows."""
    folder = "full_ranks" if among_catalogue(plan, dataset, table) else "ranks"
    return _ranks(dataset, (entry for _, entry in table_runs(plan, dataset, table)), folder)


def among_catalogue(plan: Plan, dataset: str, table: str | None = None) -> bool:
    """Return whether a table shows ranks among all items."""
    return plan.experiments.tables[_table(plan, dataset, table)].among == "catalogue"


def published_figures(plan: Plan, dataset: str, table: str | None = None) -> str | None:
    """Return the data set whose published figures a table shows, if any: those of ranks among all items."""
    return plan.experiments.datasets[dataset].published if among_catalogue(plan, dataset, table) else None


def _ranks(dataset: str, entries: Iterable[str], folder: str = "ranks") -> list[str]:
    return [f"results/{dataset}/{folder}/{entry}.parquet" for entry in entries]


def fitted_runs(plan: Plan, dataset: str, table: str | None = None) -> list[tuple[str, str]]:
    """List (row, entry) of a table without fusions: these weight lists of candidates and cost what their parts do."""
    return [run for run in table_runs(plan, dataset, table) if run[0] not in plan.experiments.fusions]


def fitted_rows(plan: Plan, dataset: str, table: str | None = None) -> list[str]:
    """List the row of each of these runs."""
    return [row for row, _ in fitted_runs(plan, dataset, table)]


def cost_files(plan: Plan, dataset: str, table: str | None = None) -> dict[str, list[str]]:
    """Return the ranks files of these runs, their stage records, and those of their models."""
    entries = [entry for _, entry in fitted_runs(plan, dataset, table)]
    records = [f"results/{dataset}/ranks/{entry}.stage.json" for entry in entries]
    models = [_model_record(dataset, entry) for entry in entries]
    return {"ranks": _ranks(dataset, entries), "records": records, "models": models}


def full_table_ranks(plan: Plan, dataset: str) -> list[str]:
    """List the files of ranks among all items that a data set's table shows: all rows but fusions."""
    return _ranks(dataset, (entry for _, entry in fitted_runs(plan, dataset)), "full_ranks")


def figure_ranks(plan: Plan, dataset: str, figure: str) -> list[str]:
    """List the ranks files of a figure's rows."""
    return _ranks(dataset, plan.experiments.figures[figure].rows)


# The results that a data set shows: its page, and everything the page rests on.


def shown_tables(plan: Plan, dataset: str) -> dict[str, str]:
    """Map the names of a data set's shown tables to the stems of their files."""
    entry = plan.experiments.datasets[dataset]
    named = [name for name in entry.experiments if name in plan.experiments.tables]
    return {entry.table: dataset} | {name: f"{dataset}_{name}" for name in named}


def shown_table_names(plan: Plan, dataset: str) -> list[str]:
    """Name these tables."""
    return list(shown_tables(plan, dataset))


def shown_figures(plan: Plan, dataset: str) -> list[str]:
    """Name the figures shown for a data set."""
    entry = plan.experiments.datasets[dataset]
    trained = shown_models(plan, dataset) + trained_identifiers(plan, dataset)
    figures = ["distributions"] + (["training"] if trained else [])
    figures += ["collisions"] if entry.compared_identifiers else []
    return figures + [name for name in entry.experiments if name in plan.experiments.figures]


def shown_figure_files(plan: Plan, dataset: str) -> list[str]:
    """List the files of these figures."""
    return [f"results/figures/{dataset}_{figure}.svg" for figure in shown_figures(plan, dataset)]


def shown_rows(plan: Plan, dataset: str) -> list[str]:
    """Name the methods, generators and fusions of a data set's tables and figures; over seeds, those of the first."""
    entry = plan.experiments.datasets[dataset]
    rows: list[str] = []
    for name in [entry.table, *entry.experiments]:
        if name in plan.runs:
            rows += [entries[0] for entries in plan.runs[name].values()]
        else:
            rows += plan.experiments.figures[name].rows
    return list(dict.fromkeys(rows))


def _shown_folders(plan: Plan, dataset: str) -> dict[str, str]:
    """Map these rows to the folders of their ranks: among all items if nothing else is shown of a row."""
    tables = [name for name in shown_tables(plan, dataset) if not among_catalogue(plan, dataset, name)]
    figures = [name for name in plan.experiments.datasets[dataset].experiments if name in plan.experiments.figures]
    rows = {entries[0] for name in tables for entries in plan.runs[name].values()}
    rows |= {row for name in figures for row in plan.experiments.figures[name].rows}
    return {row: "ranks" if row in rows else "full_ranks" for row in shown_rows(plan, dataset)}


def shown_corpora(plan: Plan, dataset: str) -> list[str]:
    """Name the corpora that the shown rows are trained on."""
    generators = plan.experiments.generators
    return list(dict.fromkeys(generators[row].corpus for row in shown_rows(plan, dataset) if row in generators))


def shown_identifiers(plan: Plan, dataset: str) -> list[str]:
    """Name the entries of identifiers that the shown corpora and comparisons use."""
    written = [plan.experiments.corpora[corpus].identifier for corpus in shown_corpora(plan, dataset)]
    return list(dict.fromkeys(written + plan.experiments.datasets[dataset].compared_identifiers))


def shown_models(plan: Plan, dataset: str) -> list[str]:
    """Name the shown rows whose training leaves a curve."""
    return [row for row in shown_rows(plan, dataset) if _leaves_curve(plan, row)]


def _leaves_curve(plan: Plan, row: str) -> bool:
    if row in plan.experiments.methods:
        return plan.leaves_curve(plan.experiments.methods[row].kind)
    return row in plan.experiments.generators


def drawn_models(plan: Plan, dataset: str, _model: str) -> list[str]:
    """Name the models whose training a figure draws: the one in ``_model``, after its `_`, or all shown ones."""
    one = _model.removeprefix("_")
    return [one] if one else shown_models(plan, dataset)


def drawn_identifiers(plan: Plan, dataset: str, _model: str) -> list[str]:
    """Name the entries of identifiers drawn beside those models: none beside a named one."""
    return [] if _model else trained_identifiers(plan, dataset)


def trained_identifiers(plan: Plan, dataset: str) -> list[str]:
    """Name the shown identifiers whose training leaves a curve."""
    return [name for name in shown_identifiers(plan, dataset) if plan.experiments.identifiers[name].leaves_curve]


def drawn_names(plan: Plan, dataset: str, _model: str) -> list[str]:
    """Name everything that a figure of trainings draws, models first."""
    return drawn_models(plan, dataset, _model) + drawn_identifiers(plan, dataset, _model)


def drawn_records(plan: Plan, dataset: str, _model: str) -> list[str]:
    """List the stage records of everything that a figure of trainings draws."""
    records = [f"models/{name}" for name in drawn_models(plan, dataset, _model)]
    records += [f"identifiers/{name}" for name in drawn_identifiers(plan, dataset, _model)]
    return [f"results/{dataset}/{record}/stage.json" for record in records]


def page_files(plan: Plan, dataset: str) -> dict[str, list[str]]:
    """Return the files on a data set's page, and the records of all stages behind it."""
    identifiers = shown_identifiers(plan, dataset)
    embeddings = dict.fromkeys(embedding for name in identifiers for embedding in _sides(plan, name).values())
    stages = ["canonical", "samples"]
    stages += [f"embeddings/{name}" for name in embeddings]
    stages += [f"identifiers/{name}" for name in identifiers]
    stages += [f"corpora/{name}" for name in shown_corpora(plan, dataset)]
    records = [f"{stage}/stage.json" for stage in stages]
    records += [f"{folder}/{row}.stage.json" for row, folder in _shown_folders(plan, dataset).items()]
    return {
        "quality": _quality(dataset, identifiers),
        "figures": shown_figure_files(plan, dataset),
        "tables": [f"results/tables/{stem}.html" for stem in shown_tables(plan, dataset).values()],
        "records": [f"results/{dataset}/{record}" for record in records],
    }


def final_files(plan: Plan, dataset: str) -> list[str]:
    """List the final files of a data set's experiments: the overview page, with its tables and figures."""
    tables = [*shown_tables(plan, dataset).values(), f"{dataset}_statistics"]
    pages = [f"results/overview/{dataset}.html", *(f"results/tables/{table}.csv" for table in tables)]
    return pages + shown_figure_files(plan, dataset)


# Targets of the command line.


def is_missing_result(word: str) -> bool:
    """Return whether a word of the command line names a result for people that does not exist yet."""
    folder = Path(word).parent
    shown = folder in map(Path, _SHOWN_FOLDERS) or folder.parent == Path("results/tuning")
    return shown and not Path(word).exists()


def not_made(plan: Plan, target: str, patterns: Iterable[str]) -> str:
    """Say that no rule makes a target and name the nearest one; ``patterns`` are the outputs of all rules."""
    wanted = Path(target)
    neighbours = [
        path
        for path in _made(plan.experiments, patterns)
        if Path(path).parent == wanted.parent and Path(path).suffix == wanted.suffix
    ]
    close = difflib.get_close_matches(target, neighbours, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {len(neighbours)}"
    return f"{target}: no rule makes it; {hint}"


def _made(experiments: Experiments, patterns: Iterable[str]) -> Iterator[str]:
    """Yield every file that some rule makes from names of entries alone."""
    sections = ("datasets", "tables", "figures", "methods", "generators")
    names: Mapping[str, list[str]] = {
        section.removesuffix("s"): list(getattr(experiments, section)) for section in sections
    }
    # Curves of all models that a data set shows, or of one.
    names = {**names, "_model": ["", *(f"_{name}" for name in names["method"] + names["generator"])]}
    for pattern in sorted(patterns):
        wildcards = sorted({field for _, field, _, _ in string.Formatter().parse(pattern) if field is not None})
        if all(wildcard in names for wildcard in wildcards):
            for values in itertools.product(*(names[wildcard] for wildcard in wildcards)):
                yield pattern.format(**dict(zip(wildcards, values, strict=True)))

# Look up in the experiments which files an entry reads and which entries a wildcard may name.
import difflib

from snakemake.io import get_wildcard_names, strip_wildcard_constraints

from gensar_core.config.base import canonical_json
from gensar_core.samples.parts import part_files

PRODUCT_SEARCH_FILES = ["query_text.txt.gz", "train.qrels.gz", "test.qrels.gz"]
# Categories for which Ai et al. publish product-search files.
PRODUCT_SEARCH_CATEGORIES = [
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Electronics",
    "Kindle_Store",
]


# Folders of results for people, which are requested by name.
SHOWN_FOLDERS = ("results/tables", "results/figures", "results/overview")
CHECKOUT = Path(workflow.current_basedir).parent
SCRIPTS = CHECKOUT / "workflow_scripts"
# One paragraph per kind of result, shown in the report and on the data sets' pages.
CAPTIONS = {
    path.stem: " ".join(path.read_text(encoding="utf-8").split())
    for path in sorted((CHECKOUT / "report").glob("*.rst"))
}


def code_of(script, *modules):
    """Fingerprint a rule's script and the library code it reaches; ``modules`` are those it looks up by name."""
    return script_fingerprint(SCRIPTS / f"{script}.py", *modules)


def any_of(names):
    """Build a wildcard constraint that matches one of the names; without names it matches nothing."""
    return "|".join(sorted(names, key=len, reverse=True)) or "(?!)"


def scaled(base, per_mb=0):
    """Build a resource that grows with the size of a job's inputs (MB of files) and with each attempt."""
    return lambda wildcards, input, attempt: round(
        attempt * (base + per_mb * input.size_mb)
    )


def of_source(*sources):
    """Name the data sets that come from one of the sources."""
    return [
        name
        for name, dataset in experiments.datasets.items()
        if dataset.source in sources
    ]


def sampled_in_parts(several):
    """Name the data sets whose samples are built in several jobs or, if not ``several``, in one."""
    return [
        name
        for name, dataset in experiments.datasets.items()
        if (dataset.scatter > 1) == several
    ]


def sample_parts(wildcards):
    """List the files of all parts of a data set's samples, part by part."""
    parts = experiments.datasets[wildcards.dataset].scatter
    folder = f"results/{wildcards.dataset}/samples_parts"
    return [
        f"{folder}/{part}-of-{parts}/{name}"
        for part in range(parts)
        for name in [*part_files(), "stage.json"]
    ]


def ranked_in_parts(several):
    """Name the generators that rank in several jobs or, if not ``several``, in one."""
    return [
        name
        for name, generator in experiments.generators.items()
        if (generator.scatter > 1) == several
    ]


def ranking_parts(wildcards, folder, ending):
    """List the files of one kind for all parts of a generator's ranking, in order."""
    parts = experiments.generators[wildcards.generator].scatter
    place = f"results/{wildcards.dataset}/{folder}/{wildcards.generator}"
    return [f"{place}/{part}-of-{parts}{ending}" for part in range(parts)]


def user_file(dataset, key, path):
    """Return a raw file that the user must provide; if missing, raise an error that names it and its config key."""
    if not Path(path).is_file():
        raise WorkflowError(
            f"config: datasets.{dataset}.{key}: there is no {path}; put the file there, or name its place"
        )
    return path


def amazon_files(wildcards):
    """List the raw files of an Amazon category: simulated, downloaded, or in the user's folder."""
    dataset = experiments.datasets[wildcards.dataset]
    category = dataset.category
    names = [f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz"]
    if dataset.source == "simulated":
        return [
            f"results/{wildcards.dataset}/raw/{name}"
            for name in names + PRODUCT_SEARCH_FILES
        ]
    if dataset.raw == "download":
        search = PRODUCT_SEARCH_FILES if category in PRODUCT_SEARCH_CATEGORIES else []
        return [f"resources/amazon/{category}/{name}" for name in names + search]
    found = [
        user_file(wildcards.dataset, "raw", f"{dataset.raw}/{name}") for name in names
    ]
    search = [f"{dataset.raw}/{name}" for name in PRODUCT_SEARCH_FILES]
    return found + [path for path in search if Path(path).is_file()]


def embeddings_of(dataset, identifier):
    """Return the files of the vectors that identifiers are learned from, by side."""
    entry = experiments.identifiers[identifier]
    sides = {"semantic": entry.semantic, "collaborative": entry.collaborative}
    return {
        side: f"results/{dataset}/embeddings/{embedding}/vectors.safetensors"
        for side, embedding in sides.items()
        if embedding is not None
    }


def identifier_embeddings(wildcards):
    """Return the files of the vectors that an entry of identifiers is learned from, by side."""
    return embeddings_of(wildcards.dataset, wildcards.identifier)


def corpus_identifier(wildcards):
    """Return the entry of identifiers that a corpus writes."""
    return experiments.corpora[wildcards.corpus].identifier


def corpus_embeddings(wildcards):
    """Return the files of the vectors that a corpus's identifiers are learned from, by side."""
    return embeddings_of(wildcards.dataset, corpus_identifier(wildcards))


def generator_token_vectors(wildcards):
    """Return the token vectors that a generator starts from, if it has a warm start."""
    entry = experiments.generators[wildcards.generator]
    return (
        [
            f"results/{wildcards.dataset}/token_vectors/{entry.corpus}/token_vectors.safetensors"
        ]
        if entry.warm_start
        else []
    )


def generator_start(wildcards):
    """Return the files of the trained generator whose weights a generator starts from, if any."""
    other = experiments.generators[wildcards.generator].start_from
    return (
        multiext(
            f"results/{wildcards.dataset}/models/{other}/",
            "model.safetensors",
            "config.json",
            "stage.json",
        )
        if other
        else []
    )


def compared_identifiers(wildcards):
    """Name the entries of identifiers whose collision rates a data set's figure shows."""
    names = experiments.datasets[wildcards.dataset].compared_identifiers
    if not names:
        raise WorkflowError(
            f"config: datasets.{wildcards.dataset}.compared_identifiers: name the entries of identifiers to draw"
        )
    return names


def corpus_pseudo_queries(wildcards):
    """Return the file of pseudo-queries that a corpus reads, if any."""
    corpus = experiments.corpora[wildcards.corpus]
    if "doc2query" not in corpus.active_tasks:
        return []
    return f"results/{wildcards.dataset}/pseudo_queries/{corpus.pseudo_queries}/pseudo_queries.parquet"


def corpus_files(wildcards, name):
    """List the named files of the corpus that a generator is trained on."""
    return multiext(
        f"results/{{dataset}}/corpora/{experiments.generators[wildcards.generator].corpus}/",
        *name,
    )


def method_embedding(wildcards):
    """Return the file of text vectors that a method reads, if any."""
    embedding = experiments.methods[wildcards.method].embedding
    return (
        [f"results/{wildcards.dataset}/embeddings/{embedding}/vectors.safetensors"]
        if embedding
        else []
    )


def method_negatives(wildcards):
    """Return the file of stored training negatives, if the method trains on them."""
    return (
        [f"results/{wildcards.dataset}/training_negatives/training_negatives.parquet"]
        if "training_negatives"
        in traits[experiments.methods[wildcards.method].kind].inputs
        else []
    )


def method_settings(wildcards):
    """Return the settings that the method's file reads."""
    entry = experiments.methods[wildcards.method]
    return canonical_json({"kind": entry.kind, **entry.own()})


def table_name(wildcards):
    """Return the entry of tables that a rule's table shows: the named one, or the data set's."""
    return wildcards.get("table", experiments.datasets[wildcards.dataset].table)


def table_runs(wildcards):
    """List (row, entry) for each entry that a table shows: one per row, or one per row and seed."""
    shown = runs[table_name(wildcards)]
    return [(row, entry) for row, entries in shown.items() for entry in entries]


def table_rows(wildcards):
    """List the row of each of a table's ranks files, in order."""
    return [row for row, _ in table_runs(wildcards)]


def table_comparison(wildcards):
    """Return the settings that say which rows of a table are tested against each other."""
    return experiments.tables[table_name(wildcards)].comparison().canonical()


def table_ranks(wildcards):
    """List the ranks files of a table's rows."""
    return [
        f"results/{wildcards.dataset}/ranks/{entry}.parquet"
        for _, entry in table_runs(wildcards)
    ]


def full_ranking(wildcards):
    """Return the protocol of a data set's full ranking."""
    return experiments.datasets[wildcards.dataset].full_ranking.canonical()


def full_table_rows(wildcards):
    """List the rows of a data set's table that can rank the catalogue: all but fusions, which weight lists."""
    return [row for row in table_rows(wildcards) if row not in experiments.fusions]


def full_table_ranks(wildcards):
    """List the files of these rows' ranks among all items."""
    return [
        f"results/{wildcards.dataset}/full_ranks/{entry}.parquet"
        for row, entry in table_runs(wildcards)
        if row not in experiments.fusions
    ]


def cost_runs(wildcards):
    """List a table's runs that are trained or fitted: a fusion costs the sum of its parts."""
    return [run for run in table_runs(wildcards) if run[0] not in experiments.fusions]


def cost_rows(wildcards):
    """List the row of each of these runs."""
    return [row for row, _ in cost_runs(wildcards)]


def cost_ranks(wildcards):
    """List the ranks files of these runs."""
    return [
        f"results/{wildcards.dataset}/ranks/{entry}.parquet"
        for _, entry in cost_runs(wildcards)
    ]


def cost_records(wildcards):
    """List the stage records of these ranks."""
    return [
        f"results/{wildcards.dataset}/ranks/{entry}.stage.json"
        for _, entry in cost_runs(wildcards)
    ]


def cost_models(wildcards):
    """List the stage records of these runs' fitted methods and trained generators."""
    return [
        f"results/{wildcards.dataset}/models/{entry}/stage.json"
        for _, entry in cost_runs(wildcards)
    ]


def shown_tables(dataset):
    """Map the names of a data set's shown tables to the stems of their files."""
    entry = experiments.datasets[dataset]
    named = [name for name in entry.experiments if name in experiments.tables]
    return {entry.table: dataset} | {name: f"{dataset}_{name}" for name in named}


def shown_figures(dataset):
    """Name the figures shown for a data set."""
    entry = experiments.datasets[dataset]
    trained = shown_models(dataset) + shown_identifiers(dataset)
    figures = ["distributions"] + (["training"] if trained else [])
    figures += ["collisions"] if entry.compared_identifiers else []
    return figures + [name for name in entry.experiments if name in experiments.figures]


def shown_rows(dataset):
    """Name the methods, generators and fusions of a data set's tables and figures; over seeds, those of the first."""
    entry = experiments.datasets[dataset]
    found = []
    for name in [entry.table, *entry.experiments]:
        found += (
            [entries[0] for entries in runs[name].values()]
            if name in runs
            else experiments.figures[name].rows
        )
    return list(dict.fromkeys(found))


def shown_corpora(dataset):
    """Name the corpora that the shown rows are trained on."""
    rows = [row for row in shown_rows(dataset) if row in experiments.generators]
    return list(dict.fromkeys(experiments.generators[row].corpus for row in rows))


def shown_identifiers(dataset):
    """Name the entries of identifiers that the shown corpora and comparisons use."""
    found = [
        experiments.corpora[corpus].identifier for corpus in shown_corpora(dataset)
    ]
    return list(
        dict.fromkeys(found + experiments.datasets[dataset].compared_identifiers)
    )


def shown_models(dataset):
    """Name the models trained by steps: generators, and methods whose code reaches the training loop."""
    return [row for row in shown_rows(dataset) if trains_by_steps(row)]


def trains_by_steps(row):
    """Check whether training a table's row leaves a curve."""
    if row in experiments.methods:
        kind = experiments.methods[row].kind
        return "gensar_core.training.loop" in reached(
            f"gensar_core.baselines.methods.{kind}"
        )
    return row in experiments.generators


def drawn_models(wildcards):
    """Name the models whose training a figure draws: the named one, or all that its data set shows."""
    one = wildcards._model.removeprefix("_")
    return [one] if one else shown_models(wildcards.dataset)


def drawn_identifiers(wildcards):
    """Name the entries of identifiers drawn beside those models."""
    return [] if wildcards._model else shown_identifiers(wildcards.dataset)


def shown_records(wildcards):
    """List the records of all stages behind a data set's page."""
    dataset = wildcards.dataset
    entries = [
        experiments.identifiers[identifier] for identifier in shown_identifiers(dataset)
    ]
    embeddings = dict.fromkeys(
        side
        for entry in entries
        for side in (entry.semantic, entry.collaborative)
        if side is not None
    )
    stages = ["canonical", "samples"]
    stages += [f"embeddings/{name}" for name in embeddings]
    stages += [f"identifiers/{name}" for name in shown_identifiers(dataset)]
    stages += [f"corpora/{name}" for name in shown_corpora(dataset)]
    ranks = [f"ranks/{row}.stage.json" for row in shown_rows(dataset)]
    records = [f"{stage}/stage.json" for stage in stages] + ranks
    return [f"results/{dataset}/{record}" for record in records]


def final_files(dataset):
    """List the final files of a data set's experiments: the overview page, with its tables and figures."""
    tables = [*shown_tables(dataset).values(), f"{dataset}_statistics"]
    figures = shown_figures(dataset)
    return (
        [f"results/overview/{dataset}.html"]
        + expand("results/tables/{table}.csv", table=tables)
        + expand(f"results/figures/{dataset}_{{figure}}.svg", figure=figures)
    )


def check_targets(words):
    """Refuse a table, figure or page on the command line that no rule makes, and name the nearest one."""
    for word in words:
        wanted = Path(word)
        if wanted.parent not in map(Path, SHOWN_FOLDERS) or wanted.exists():
            continue
        if not any(rule.is_producer(word) for rule in workflow.rules):
            there = [
                path
                for path in makeable()
                if Path(path).parent == wanted.parent
                and Path(path).suffix == wanted.suffix
            ]
            close = difflib.get_close_matches(word, there, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {len(there)}"
            raise WorkflowError(f"{word}: no rule makes it; {hint}")


def makeable():
    """Yield every file that some rule makes from the configuration's entries."""
    names = {
        section.removesuffix("s"): list(getattr(experiments, section))
        for section in ("datasets", "tables", "figures", "methods", "generators")
    }
    # Curves of all models that a data set shows, or of one.
    names["_model"] = [
        "",
        *(f"_{name}" for name in names["method"] + names["generator"]),
    ]
    patterns = {str(path) for rule in workflow.rules for path in rule.output}
    for pattern in sorted(map(strip_wildcard_constraints, patterns)):
        wildcards = set(get_wildcard_names(pattern))
        if wildcards <= names.keys():
            yield from expand(pattern, **{name: names[name] for name in wildcards})

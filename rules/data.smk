# Raw logs -> canonical tables -> samples and candidates.


def raw_files(wildcards):
    """The raw files of a data set: simulated, downloaded, or found in the user's folder."""
    dataset = catalogue.datasets[wildcards.dataset]
    category = dataset.category
    names = [f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz"]
    search = ["query_text.txt.gz", "train.qrels.gz", "test.qrels.gz"]
    if dataset.source == "simulated":
        return [f"results/{wildcards.dataset}/raw/{name}" for name in names + search]
    if dataset.raw == "download":
        return [f"resources/amazon/{category}/{name}" for name in names]
    folder = Path(dataset.raw)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise WorkflowError(
            f"config: datasets.{wildcards.dataset}.raw: {folder} lacks {' and '.join(missing)}; put the raw files "
            "there, or name the folder that holds them"
        )
    return [
        str(folder / name)
        for name in names + [name for name in search if (folder / name).is_file()]
    ]


rule download_amazon:
    output:
        reviews=protected("resources/amazon/{category}/reviews_{category}_5.json.gz"),
        metadata=protected("resources/amazon/{category}/meta_{category}.json.gz"),
    log:
        "resources/amazon/{category}/download.log",
    resources:
        mem_mb=1000,
        runtime=240,
    script:
        "../workflow_scripts/download_amazon.py"


rule simulate:
    output:
        multiext(
            "results/{dataset}/raw/",
            "reviews_Simulated_5.json.gz",
            "meta_Simulated.json.gz",
            "query_text.txt.gz",
            "train.qrels.gz",
            "test.qrels.gz",
        ),
        record="results/{dataset}/raw/stage.json",
    log:
        "results/{dataset}/logs/simulate.log",
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=lambda wildcards: catalogue.datasets[wildcards.dataset]
        .simulation_settings()
        .canonical(),
        seed=catalogue.seed,
        code=fingerprint("gensar_core.sources.simulated"),
    script:
        "../workflow_scripts/simulate.py"


rule canonical:
    input:
        raw_files,
    output:
        multiext(
            "results/{dataset}/canonical/",
            "users.parquet",
            "items.parquet",
            "queries.parquet",
        ),
        events="results/{dataset}/canonical/events.parquet",
        record="results/{dataset}/canonical/stage.json",
    log:
        "results/{dataset}/logs/canonical.log",
    threads: 8
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        settings=lambda wildcards: catalogue.datasets[wildcards.dataset]
        .canonical_settings()
        .canonical(),
        seed=catalogue.seed,
        code=fingerprint("gensar_core.sources.amazon"),
    script:
        "../workflow_scripts/canonical.py"


rule samples:
    input:
        multiext(
            "results/{dataset}/canonical/",
            "users.parquet",
            "items.parquet",
            "queries.parquet",
        ),
        events="results/{dataset}/canonical/events.parquet",
    output:
        multiext(
            "results/{dataset}/samples/",
            "training_events.parquet",
            "candidates.parquet",
            "audit.json",
        ),
        samples="results/{dataset}/samples/samples.parquet",
        record="results/{dataset}/samples/stage.json",
    log:
        "results/{dataset}/logs/samples.log",
    threads: 8
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        settings=lambda wildcards: catalogue.datasets[
            wildcards.dataset
        ].samples.canonical(),
        seed=catalogue.seed,
        code=fingerprint("gensar_core.samples.build"),
    script:
        "../workflow_scripts/samples.py"

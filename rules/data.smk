# Raw logs -> canonical tables -> samples and candidates.


rule download_amazon:
    output:
        reviews=protected("resources/amazon/{category}/reviews_{category}_5.json.gz"),
        metadata=protected("resources/amazon/{category}/meta_{category}.json.gz"),
    log:
        "resources/amazon/{category}/download.log",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(240),
    script:
        "../workflow_scripts/download_amazon.py"


rule download_product_search:
    output:
        multiext("resources/amazon/{category}/", *PRODUCT_SEARCH_FILES),
    log:
        "resources/amazon/{category}/download_product_search.log",
    wildcard_constraints:
        category=any_of(PRODUCT_SEARCH_CATEGORIES),
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(60),
    script:
        "../workflow_scripts/download_product_search.py"


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
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        settings=lambda wildcards: experiments.datasets[wildcards.dataset]
        .simulation_settings()
        .canonical(),
        seed=experiments.seed,
        code=code_of("simulate"),
    script:
        "../workflow_scripts/simulate.py"


rule canonical_amazon:
    input:
        amazon_files,
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
    wildcard_constraints:
        dataset=any_of(of_source("amazon", "simulated")),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000, 12),
        runtime=scaled(15, 0.2),
    params:
        settings=lambda wildcards: experiments.datasets[wildcards.dataset]
        .canonical_settings()
        .canonical(),
        seed=experiments.seed,
        code=code_of("canonical_amazon"),
    script:
        "../workflow_scripts/canonical_amazon.py"


rule canonical_eventlog:
    input:
        item_table=lambda wildcards: user_file(
            wildcards.dataset, "items", experiments.datasets[wildcards.dataset].items
        ),
        event_table=lambda wildcards: user_file(
            wildcards.dataset, "events", experiments.datasets[wildcards.dataset].events
        ),
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
    wildcard_constraints:
        dataset=any_of(of_source("eventlog")),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000, 30),
        runtime=scaled(15, 0.2),
    params:
        settings=lambda wildcards: experiments.datasets[wildcards.dataset]
        .canonical_settings()
        .canonical(),
        seed=experiments.seed,
        code=code_of("canonical_eventlog"),
    script:
        "../workflow_scripts/canonical_eventlog.py"


rule canonical_kuaisar:
    input:
        lambda wildcards: [
            user_file(
                wildcards.dataset,
                "raw",
                f"{experiments.datasets[wildcards.dataset].raw}/{name}",
            )
            for name in ("rec_inter.csv", "src_inter.csv", "item_features.csv")
        ],
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
    wildcard_constraints:
        dataset=any_of(of_source("kuaisar")),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000, 30),
        runtime=scaled(15, 0.2),
    params:
        settings=lambda wildcards: experiments.datasets[wildcards.dataset]
        .canonical_settings()
        .canonical(),
        seed=experiments.seed,
        code=code_of("canonical_kuaisar"),
    script:
        "../workflow_scripts/canonical_kuaisar.py"


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
    wildcard_constraints:
        dataset=any_of(sampled_in_parts(False)),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000, 100),
        runtime=scaled(15, 1.0),
    params:
        settings=lambda wildcards: experiments.datasets[
            wildcards.dataset
        ].samples.canonical(),
        seed=experiments.seed,
        code=code_of("samples"),
    script:
        "../workflow_scripts/samples.py"


# With `scatter: N`, N jobs share the users of a data set; the gathered tables equal those of a single job.


rule samples_survey:
    input:
        multiext(
            "results/{dataset}/canonical/",
            "items.parquet",
            "queries.parquet",
        ),
        events="results/{dataset}/canonical/events.parquet",
    output:
        multiext(
            "results/{dataset}/samples_parts/survey/",
            "users.parquet",
            "clicks.parquet",
            "stage.json",
        ),
        moments="results/{dataset}/samples_parts/survey/survey.json",
    log:
        "results/{dataset}/logs/samples_survey.log",
    wildcard_constraints:
        dataset=any_of(sampled_in_parts(True)),
    conda:
        "../envs/gensar.yaml"
    threads: 2
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        settings=lambda wildcards: experiments.datasets[
            wildcards.dataset
        ].samples.canonical(),
        seed=experiments.seed,
        code=code_of("samples_survey"),
    script:
        "../workflow_scripts/samples_survey.py"


rule samples_part:
    input:
        multiext(
            "results/{dataset}/canonical/",
            "items.parquet",
            "queries.parquet",
        ),
        multiext(
            "results/{dataset}/samples_parts/survey/",
            "users.parquet",
            "clicks.parquet",
        ),
        events="results/{dataset}/canonical/events.parquet",
        moments="results/{dataset}/samples_parts/survey/survey.json",
    output:
        temp(
            multiext(
                "results/{dataset}/samples_parts/{part}-of-{parts}/", *part_files()
            )
        ),
        record=temp("results/{dataset}/samples_parts/{part}-of-{parts}/stage.json"),
    log:
        "results/{dataset}/logs/samples_{part}-of-{parts}.log",
    wildcard_constraints:
        dataset=any_of(sampled_in_parts(True)),
        part="[0-9]+",
        parts="[0-9]+",
    conda:
        "../envs/gensar.yaml"
    threads: 2
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(120),
    params:
        settings=lambda wildcards: experiments.datasets[
            wildcards.dataset
        ].samples.canonical(),
        seed=experiments.seed,
        code=code_of("samples_part"),
    script:
        "../workflow_scripts/samples_part.py"


rule samples_gather:
    input:
        multiext(
            "results/{dataset}/canonical/",
            "users.parquet",
            "items.parquet",
            "queries.parquet",
        ),
        multiext(
            "results/{dataset}/samples_parts/survey/",
            "users.parquet",
            "clicks.parquet",
        ),
        events="results/{dataset}/canonical/events.parquet",
        moments="results/{dataset}/samples_parts/survey/survey.json",
        parts=sample_parts,
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
    wildcard_constraints:
        dataset=any_of(sampled_in_parts(True)),
    conda:
        "../envs/gensar.yaml"
    threads: 2
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(240),
    params:
        settings=lambda wildcards: experiments.datasets[
            wildcards.dataset
        ].samples.canonical(),
        seed=experiments.seed,
        code=code_of("samples_gather"),
    script:
        "../workflow_scripts/samples_gather.py"


rule training_negatives:
    input:
        item_table="results/{dataset}/canonical/items.parquet",
        query_table="results/{dataset}/canonical/queries.parquet",
        samples="results/{dataset}/samples/samples.parquet",
        events="results/{dataset}/samples/training_events.parquet",
    output:
        negatives="results/{dataset}/training_negatives/training_negatives.parquet",
        record="results/{dataset}/training_negatives/stage.json",
    log:
        "results/{dataset}/logs/training_negatives.log",
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000, 60),
        runtime=scaled(15, 1.0),
    params:
        settings=lambda wildcards: experiments.datasets[
            wildcards.dataset
        ].training_negatives.canonical(),
        seed=experiments.seed,
        code=code_of("training_negatives"),
    script:
        "../workflow_scripts/training_negatives.py"

# Raw logs -> canonical tables -> samples and candidates.
from gensar_core.samples.parts import part_files
from gensar_core.sources import kuaisar, qilin
from gensar_core.sources.amazon import product_search
from gensar_core.sources.amazon.download import PRODUCT_SEARCH_CATEGORIES
from gensar_core.sources.amazon.releases import RELEASES, raw_folder, raw_names


rule download_amazon:
    output:
        protected("resources/{folder}/{category}/{file}"),
    log:
        "resources/{folder}/{category}/{file}.log",
    wildcard_constraints:
        folder=any_of(map(raw_folder, RELEASES)),
        category=r"\w+",
        file=r"\w+\.jsonl?\.gz",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(240),
    script:
        "../workflow_scripts/download_amazon.py"


rule download_product_search:
    output:
        multiext("resources/amazon/{category}/", *product_search.FILES),
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
            *raw_names("Simulated"),
            *product_search.FILES,
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
        settings=settings_of("simulate"),
        seed=seed_of("simulate"),
        code=code_of("simulate"),
    script:
        "../workflow_scripts/simulate.py"


rule canonical_amazon:
    input:
        by_wildcards(
            paths.amazon_files,
            raw_names=raw_names,
            raw_folder=raw_folder,
            search_names=product_search.FILES,
            searched_categories=PRODUCT_SEARCH_CATEGORIES,
        ),
    output:
        paths.PARTIES,
        events=paths.EVENTS,
        record="results/{dataset}/canonical/stage.json",
    log:
        "results/{dataset}/logs/canonical.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_of(plan, "amazon", "simulated")),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000, 12),
        runtime=scaled(15, 0.2),
    params:
        settings=settings_of("canonical_amazon"),
        seed=seed_of("canonical_amazon"),
        code=code_of("canonical_amazon"),
    script:
        "../workflow_scripts/canonical_amazon.py"


# With `scatter: N`, N jobs share the users of a data set; the gathered tables equal those of a single job.
# How many files hold the events of a log depends on N, so they are folders, which are kept only until they are gathered.
LOG_SURVEY = [temp(path) for path in paths.LOG_SURVEY]


rule canonical_eventlog:
    input:
        item_table=by_wildcards(paths.user_table, key="items"),
        event_table=by_wildcards(paths.user_table, key="events"),
    output:
        paths.PARTIES,
        events=paths.EVENTS,
        record="results/{dataset}/canonical/stage.json",
    log:
        "results/{dataset}/logs/canonical.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_in_parts(plan, False, "eventlog")),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000, 30),
        runtime=scaled(15, 0.2),
    params:
        settings=settings_of("canonical_eventlog"),
        seed=seed_of("canonical_eventlog"),
        code=code_of("canonical_eventlog"),
        parts=by_wildcards(paths.parts_of),
    script:
        "../workflow_scripts/canonical_eventlog.py"


use rule canonical_eventlog as canonical_eventlog_survey with:
    output:
        LOG_SURVEY,
        events=temp(directory(paths.LOG_EVENTS)),
    log:
        "results/{dataset}/logs/canonical_survey.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_in_parts(plan, True, "eventlog")),


rule canonical_kuaisar:
    input:
        by_wildcards(
            paths.raw_files,
            names=[kuaisar.RECOMMENDATIONS, kuaisar.SEARCHES, kuaisar.ITEMS],
        ),
    output:
        paths.PARTIES,
        events=paths.EVENTS,
        record="results/{dataset}/canonical/stage.json",
    log:
        "results/{dataset}/logs/canonical.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_in_parts(plan, False, "kuaisar")),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000, 30),
        runtime=scaled(15, 0.2),
    params:
        settings=settings_of("canonical_kuaisar"),
        seed=seed_of("canonical_kuaisar"),
        code=code_of("canonical_kuaisar"),
        parts=by_wildcards(paths.parts_of),
    script:
        "../workflow_scripts/canonical_kuaisar.py"


use rule canonical_kuaisar as canonical_kuaisar_survey with:
    output:
        LOG_SURVEY,
        events=temp(directory(paths.LOG_EVENTS)),
    log:
        "results/{dataset}/logs/canonical_survey.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_in_parts(plan, True, "kuaisar")),


rule canonical_qilin:
    input:
        by_wildcards(
            paths.raw_tables,
            folders=qilin.FOLDERS,
        ),
    output:
        paths.PARTIES,
        events=paths.EVENTS,
        record="results/{dataset}/canonical/stage.json",
    log:
        "results/{dataset}/logs/canonical.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_in_parts(plan, False, "qilin")),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000, 30),
        runtime=scaled(15, 0.2),
    params:
        settings=settings_of("canonical_qilin"),
        seed=seed_of("canonical_qilin"),
        code=code_of("canonical_qilin"),
        parts=by_wildcards(paths.parts_of),
    script:
        "../workflow_scripts/canonical_qilin.py"


use rule canonical_qilin as canonical_qilin_survey with:
    output:
        LOG_SURVEY,
        events=temp(directory(paths.LOG_EVENTS)),
    log:
        "results/{dataset}/logs/canonical_survey.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_in_parts(plan, True, "qilin")),


rule canonical_part:
    input:
        paths.LOG_SURVEY,
        paths.LOG_EVENTS,
    output:
        temp(directory("results/{dataset}/canonical_parts/{part}-of-{parts}/blocks")),
        record=temp("results/{dataset}/canonical_parts/{part}-of-{parts}/stage.json"),
    log:
        "results/{dataset}/logs/canonical_{part}-of-{parts}.log",
    conda:
        "../envs/gensar.yaml"
    threads: 4
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        settings=settings_of("canonical_part"),
        seed=seed_of("canonical_part"),
        code=code_of("canonical_part"),
    script:
        "../workflow_scripts/canonical_part.py"


rule canonical_gather:
    input:
        paths.LOG_SURVEY,
        parts=by_wildcards(
            paths.dataset_parts,
            folder="canonical_parts",
            names=["blocks", "stage.json"],
        ),
    output:
        paths.PARTIES,
        events=paths.EVENTS,
        record="results/{dataset}/canonical/stage.json",
    log:
        "results/{dataset}/logs/canonical.log",
    wildcard_constraints:
        dataset=any_of(
            paths.datasets_in_parts(plan, True, "eventlog", "kuaisar", "qilin")
        ),
    conda:
        "../envs/gensar.yaml"
    threads: 4
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(240),
    params:
        settings=settings_of("canonical_gather"),
        seed=seed_of("canonical_gather"),
        code=code_of("canonical_gather"),
    script:
        "../workflow_scripts/canonical_gather.py"


rule samples:
    input:
        paths.PARTIES,
        events=paths.EVENTS,
    output:
        [paths.TRAINING_EVENTS, paths.CANDIDATES, paths.COLD_ITEMS, paths.AUDIT],
        samples=paths.SAMPLES,
        record="results/{dataset}/samples/stage.json",
    log:
        "results/{dataset}/logs/samples.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_in_parts(plan, several=False)),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000, 100),
        runtime=scaled(15, 1.0),
    params:
        settings=settings_of("samples"),
        seed=seed_of("samples"),
        code=code_of("samples"),
    script:
        "../workflow_scripts/samples.py"


rule samples_survey:
    input:
        paths.ITEMS_AND_QUERIES,
        events=paths.EVENTS,
    output:
        [*paths.SURVEY_TABLES, "results/{dataset}/samples_parts/survey/stage.json"],
        moments=paths.SURVEY,
    log:
        "results/{dataset}/logs/samples_survey.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_in_parts(plan, several=True)),
    conda:
        "../envs/gensar.yaml"
    threads: 2
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        settings=settings_of("samples_survey"),
        seed=seed_of("samples_survey"),
        code=code_of("samples_survey"),
    script:
        "../workflow_scripts/samples_survey.py"


rule samples_part:
    input:
        paths.ITEMS_AND_QUERIES,
        paths.SURVEY_TABLES,
        events=paths.EVENTS,
        moments=paths.SURVEY,
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
        dataset=any_of(paths.datasets_in_parts(plan, several=True)),
    conda:
        "../envs/gensar.yaml"
    threads: 2
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(120),
    params:
        settings=settings_of("samples_part"),
        seed=seed_of("samples_part"),
        code=code_of("samples_part"),
    script:
        "../workflow_scripts/samples_part.py"


rule samples_gather:
    input:
        paths.PARTIES,
        paths.SURVEY_TABLES,
        events=paths.EVENTS,
        moments=paths.SURVEY,
        parts=by_wildcards(
            paths.dataset_parts,
            folder="samples_parts",
            names=[*part_files(), "stage.json"],
        ),
    output:
        [paths.TRAINING_EVENTS, paths.CANDIDATES, paths.COLD_ITEMS, paths.AUDIT],
        samples=paths.SAMPLES,
        record="results/{dataset}/samples/stage.json",
    log:
        "results/{dataset}/logs/samples.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_in_parts(plan, several=True)),
    conda:
        "../envs/gensar.yaml"
    threads: 2
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(240),
    params:
        settings=settings_of("samples_gather"),
        seed=seed_of("samples_gather"),
        code=code_of("samples_gather"),
    script:
        "../workflow_scripts/samples_gather.py"


rule training_negatives:
    input:
        item_table="results/{dataset}/canonical/items.parquet",
        query_table="results/{dataset}/canonical/queries.parquet",
        samples=paths.SAMPLES,
        events=paths.TRAINING_EVENTS,
        cold_items=by_wildcards(paths.cold_items),
    output:
        negatives="results/{dataset}/training_negatives/training_negatives.parquet",
        record="results/{dataset}/training_negatives/stage.json",
    log:
        "results/{dataset}/logs/training_negatives.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_in_parts(plan, several=False)),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000, 60),
        runtime=scaled(15, 1.0),
    params:
        settings=settings_of("training_negatives"),
        seed=seed_of("training_negatives"),
        code=code_of("training_negatives"),
    script:
        "../workflow_scripts/training_negatives.py"


use rule training_negatives as training_negatives_part with:
    output:
        negatives=temp(
            "results/{dataset}/training_negatives_parts/{part}-of-{parts}/training_negatives.parquet"
        ),
        record=temp(
            "results/{dataset}/training_negatives_parts/{part}-of-{parts}/stage.json"
        ),
    log:
        "results/{dataset}/logs/training_negatives_{part}-of-{parts}.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_in_parts(plan, several=True)),
    threads: 2
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(120),


rule training_negatives_gather:
    input:
        samples=paths.SAMPLES,
        parts=by_wildcards(
            paths.dataset_parts,
            folder="training_negatives_parts",
            names=["training_negatives.parquet", "stage.json"],
        ),
    output:
        negatives="results/{dataset}/training_negatives/training_negatives.parquet",
        record="results/{dataset}/training_negatives/stage.json",
    log:
        "results/{dataset}/logs/training_negatives.log",
    wildcard_constraints:
        dataset=any_of(paths.datasets_in_parts(plan, several=True)),
    conda:
        "../envs/gensar.yaml"
    threads: 2
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        settings=settings_of("training_negatives"),
        seed=seed_of("training_negatives"),
        code=code_of("training_negatives_gather"),
    script:
        "../workflow_scripts/training_negatives_gather.py"

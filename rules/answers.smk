# A trained generator's answers for everyone: recommendations to all users, and results of a file of queries.


rule recommendations:
    input:
        canonical=paths.CANONICAL_TABLES,
        corpus=by_wildcards(paths.answering_corpus),
        model="results/{dataset}/models/{generator}/stage.json",
        files=by_wildcards(paths.answer_files, key="recommendations"),
        added=by_wildcards(paths.added_items),
    output:
        answers="results/{dataset}/recommendations/{generator}.parquet",
        record="results/{dataset}/recommendations/{generator}.stage.json",
    log:
        "results/{dataset}/logs/recommendations_{generator}.log",
    wildcard_constraints:
        generator=any_of(paths.generators_in_parts(plan, several=False)),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(4000, 5),
        runtime=scaled(120, 4.0),
    params:
        settings=settings_of("recommendations"),
        code=code_of("recommendations"),
        checkpoints="results/{dataset}/checkpoints/recommendations/{generator}",
    script:
        "../workflow_scripts/recommendations.py"


use rule recommendations as recommendations_part with:
    output:
        answers=temp(
            "results/{dataset}/recommendations_parts/{generator}/{part}-of-{parts}.parquet"
        ),
        record=temp(
            "results/{dataset}/recommendations_parts/{generator}/{part}-of-{parts}.stage.json"
        ),
    log:
        "results/{dataset}/logs/recommendations_{generator}_{part}-of-{parts}.log",
    wildcard_constraints:
        generator=any_of(paths.generators_in_parts(plan, several=True)),
    params:
        settings=settings_of("recommendations"),
        code=code_of("recommendations"),
        checkpoints="results/{dataset}/checkpoints/recommendations/{generator}/{part}-of-{parts}",


rule recommendations_gather:
    input:
        unpack(
            by_wildcards(
                paths.ranking_parts,
                folder="recommendations_parts",
                endings={"answers": ".parquet", "records": ".stage.json"},
            )
        ),
    output:
        answers="results/{dataset}/recommendations/{generator}.parquet",
        record="results/{dataset}/recommendations/{generator}.stage.json",
    log:
        "results/{dataset}/logs/recommendations_{generator}.log",
    wildcard_constraints:
        generator=any_of(paths.generators_in_parts(plan, several=True)),
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(15, 0.2),
    params:
        code=code_of("recommendations_gather"),
    script:
        "../workflow_scripts/recommendations_gather.py"


rule searches:
    input:
        canonical=paths.ITEMS_AND_QUERIES,
        corpus=by_wildcards(paths.answering_corpus),
        model="results/{dataset}/models/{generator}/stage.json",
        files=by_wildcards(paths.answer_files, key="queries"),
        added=by_wildcards(paths.added_items),
    output:
        answers="results/{dataset}/searches/{generator}.parquet",
        record="results/{dataset}/searches/{generator}.stage.json",
    log:
        "results/{dataset}/logs/searches_{generator}.log",
    wildcard_constraints:
        generator=any_of(experiments.generators),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(4000, 5),
        runtime=scaled(60, 4.0),
    params:
        settings=settings_of("searches"),
        code=code_of("searches"),
        checkpoints="results/{dataset}/checkpoints/searches/{generator}",
    script:
        "../workflow_scripts/searches.py"

# Rank in several jobs, for generators with `scatter: N`; the gathered tables equal those of a single job.


rule rank_generator_part:
    input:
        corpus=by_wildcards(paths.ranking_corpus),
        samples=[paths.SAMPLES, paths.CANDIDATES],
        model="results/{dataset}/models/{generator}/stage.json",
    output:
        ranks=temp(
            "results/{dataset}/ranks_parts/{generator}/{part}-of-{parts}.parquet"
        ),
        scores=temp(
            "results/{dataset}/ranks_parts/{generator}/{part}-of-{parts}.scores.parquet"
        ),
        record=temp(
            "results/{dataset}/ranks_parts/{generator}/{part}-of-{parts}.stage.json"
        ),
    log:
        "results/{dataset}/logs/rank_generator_{generator}_{part}-of-{parts}.log",
    wildcard_constraints:
        generator=any_of(paths.generators_in_parts(plan, several=True)),
        part="[0-9]+",
        parts="[0-9]+",
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(4000, 30),
        runtime=scaled(60, 2.0),
    params:
        settings=settings_of("generators", part="ranking"),
        code=code_of("rank_generator_part"),
    script:
        "../workflow_scripts/rank_generator_part.py"


rule rank_generator_gather:
    input:
        ranks=by_wildcards(paths.ranking_parts, folder="ranks_parts", ending=".parquet"),
        scores=by_wildcards(
            paths.ranking_parts, folder="ranks_parts", ending=".scores.parquet"
        ),
        records=by_wildcards(
            paths.ranking_parts, folder="ranks_parts", ending=".stage.json"
        ),
    output:
        ranks="results/{dataset}/ranks/{generator}.parquet",
        scores="results/{dataset}/ranks/{generator}.scores.parquet",
        record="results/{dataset}/ranks/{generator}.stage.json",
    log:
        "results/{dataset}/logs/rank_generator_{generator}.log",
    wildcard_constraints:
        generator=any_of(paths.generators_in_parts(plan, several=True)),
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000, 30),
        runtime=scaled(15, 0.2),
    params:
        code=code_of("rank_generator_gather"),
    script:
        "../workflow_scripts/rank_generator_gather.py"


rule full_rank_generator_part:
    input:
        corpus=by_wildcards(paths.ranking_corpus),
        samples=[paths.SAMPLES, paths.TRAINING_EVENTS],
        model="results/{dataset}/models/{generator}/stage.json",
    output:
        ranks=temp(
            "results/{dataset}/full_ranks_parts/{generator}/{part}-of-{parts}.parquet"
        ),
        record=temp(
            "results/{dataset}/full_ranks_parts/{generator}/{part}-of-{parts}.stage.json"
        ),
    log:
        "results/{dataset}/logs/full_rank_generator_{generator}_{part}-of-{parts}.log",
    wildcard_constraints:
        generator=any_of(paths.generators_in_parts(plan, several=True)),
        part="[0-9]+",
        parts="[0-9]+",
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(4000, 30),
        runtime=scaled(120, 4.0),
    params:
        settings=settings_of("generators", part="retrieval"),
        protocol=settings_of("datasets", part="full_ranking"),
        code=code_of("full_rank_generator_part"),
    script:
        "../workflow_scripts/full_rank_generator_part.py"


rule full_rank_generator_gather:
    input:
        ranks=by_wildcards(
            paths.ranking_parts, folder="full_ranks_parts", ending=".parquet"
        ),
        records=by_wildcards(
            paths.ranking_parts, folder="full_ranks_parts", ending=".stage.json"
        ),
    output:
        ranks="results/{dataset}/full_ranks/{generator}.parquet",
        record="results/{dataset}/full_ranks/{generator}.stage.json",
    log:
        "results/{dataset}/logs/full_rank_generator_{generator}.log",
    wildcard_constraints:
        generator=any_of(paths.generators_in_parts(plan, several=True)),
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000, 30),
        runtime=scaled(15, 0.2),
    params:
        code=code_of("full_rank_generator_gather"),
    script:
        "../workflow_scripts/full_rank_generator_gather.py"

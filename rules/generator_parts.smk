# Rank in several jobs, for generators with `scatter: N`; the gathered tables equal those of a single job.


use rule rank_generator as rank_generator_part with:
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


rule rank_generator_gather:
    input:
        unpack(
            by_wildcards(
                paths.ranking_parts,
                folder="ranks_parts",
                endings={
                    "ranks": ".parquet",
                    "scores": ".scores.parquet",
                    "records": ".stage.json",
                },
            )
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
        mem_mb=scaled(2000),
        runtime=scaled(15, 0.2),
    params:
        code=code_of("rank_generator_gather"),
    script:
        "../workflow_scripts/rank_generator_gather.py"


use rule full_rank_generator as full_rank_generator_part with:
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


rule full_rank_generator_gather:
    input:
        unpack(
            by_wildcards(
                paths.ranking_parts,
                folder="full_ranks_parts",
                endings={"ranks": ".parquet", "records": ".stage.json"},
            )
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
        mem_mb=scaled(2000),
        runtime=scaled(15, 0.2),
    params:
        code=code_of("full_rank_generator_gather"),
    script:
        "../workflow_scripts/full_rank_generator_gather.py"

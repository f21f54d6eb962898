# Samples -> every other ranking method, fitted and ranked in one job.


rule method:
    input:
        canonical=multiext(
            "results/{dataset}/canonical/",
            "events.parquet",
            "users.parquet",
            "items.parquet",
            "queries.parquet",
        ),
        samples=multiext(
            "results/{dataset}/samples/",
            "samples.parquet",
            "candidates.parquet",
            "training_events.parquet",
        ),
        embedding=method_embedding,
        negatives=method_negatives,
    output:
        # A model's files depend on the method; the record is written last and represents all of them.
        model="results/{dataset}/models/{method}/stage.json",
        ranks="results/{dataset}/ranks/{method}.parquet",
        scores="results/{dataset}/ranks/{method}.scores.parquet",
        record="results/{dataset}/ranks/{method}.stage.json",
    log:
        "results/{dataset}/logs/method_{method}.log",
    wildcard_constraints:
        method=any_of(experiments.methods),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(3000, 40),
        runtime=scaled(240, 2.0),
    params:
        settings=method_settings,
        seed=lambda wildcards: experiments.seed_of(
            experiments.methods[wildcards.method]
        ),
        code=lambda wildcards: code_of(
            "method",
            f"gensar_core.baselines.methods.{experiments.methods[wildcards.method].kind}",
        ),
        checkpoints="results/{dataset}/checkpoints/{method}",
    script:
        "../workflow_scripts/method.py"


rule full_rank_method:
    input:
        canonical=multiext(
            "results/{dataset}/canonical/",
            "events.parquet",
            "users.parquet",
            "items.parquet",
            "queries.parquet",
        ),
        samples=multiext(
            "results/{dataset}/samples/",
            "samples.parquet",
            "training_events.parquet",
        ),
        embedding=method_embedding,
        model="results/{dataset}/models/{method}/stage.json",
    output:
        ranks="results/{dataset}/full_ranks/{method}.parquet",
        record="results/{dataset}/full_ranks/{method}.stage.json",
    log:
        "results/{dataset}/logs/full_rank_method_{method}.log",
    wildcard_constraints:
        method=any_of(experiments.methods),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(4000, 40),
        runtime=scaled(120, 4.0),
    params:
        settings=method_settings,
        protocol=full_ranking,
        seed=lambda wildcards: experiments.seed_of(
            experiments.methods[wildcards.method]
        ),
        code=lambda wildcards: code_of(
            "full_rank_method",
            f"gensar_core.baselines.methods.{experiments.methods[wildcards.method].kind}",
        ),
    script:
        "../workflow_scripts/full_rank_method.py"

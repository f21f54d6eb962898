# Samples -> every other ranking method, fitted and ranked in one job.


rule method:
    input:
        canonical=paths.CANONICAL_TABLES,
        samples=[paths.SAMPLES, paths.CANDIDATES, paths.TRAINING_EVENTS],
        embedding=by_wildcards(paths.method_embedding),
        negatives=by_wildcards(paths.method_negatives),
        cold_items=by_wildcards(paths.cold_items),
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
        settings=by_wildcards(paths.method_settings),
        seed=seed_of("method"),
        code=kind_code_of("method", paths.method_module),
        checkpoints="results/{dataset}/checkpoints/{method}",
    script:
        "../workflow_scripts/method.py"


rule full_rank_method:
    input:
        canonical=paths.CANONICAL_TABLES,
        samples=[paths.SAMPLES, paths.TRAINING_EVENTS],
        embedding=by_wildcards(paths.method_embedding),
        model="results/{dataset}/models/{method}/stage.json",
        cold_items=by_wildcards(paths.cold_items),
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
        settings=by_wildcards(paths.method_settings),
        protocol=by_wildcards(paths.full_ranking_protocol),
        seed=seed_of("full_rank_method"),
        code=kind_code_of("full_rank_method", paths.method_module),
    script:
        "../workflow_scripts/full_rank_method.py"

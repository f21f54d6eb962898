# Several trained rankers -> one ranking, weighted on the validation split.


rule fuse:
    input:
        parts=by_wildcards(paths.fusion_scores),
        samples=[paths.SAMPLES, paths.CANDIDATES],
        clicks=by_wildcards(paths.fusion_clicks),
    output:
        ranks="results/{dataset}/ranks/{fusion}.parquet",
        record="results/{dataset}/ranks/{fusion}.stage.json",
    log:
        "results/{dataset}/logs/fuse_{fusion}.log",
    wildcard_constraints:
        fusion=any_of(experiments.fusions),
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(6000),
        runtime=scaled(30, 0.2),
    params:
        parts=by_wildcards(paths.fusion_parts),
        settings=settings_of("fuse"),
        code=code_of("fuse"),
    script:
        "../workflow_scripts/fuse.py"


rule full_rank_fusion:
    input:
        models=by_wildcards(paths.fusion_models),
        canonical=paths.CANONICAL_TABLES,
        samples=[paths.SAMPLES, paths.TRAINING_EVENTS],
        embeddings=by_wildcards(paths.fusion_embeddings),
        cold_items=by_wildcards(paths.cold_items),
    output:
        ranks="results/{dataset}/full_ranks/{fusion}.parquet",
        record="results/{dataset}/full_ranks/{fusion}.stage.json",
    log:
        "results/{dataset}/logs/full_rank_fusion_{fusion}.log",
    wildcard_constraints:
        fusion=any_of(paths.catalogue_fusions(plan)),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(5000, 40),
        runtime=scaled(120, 8.0),
    params:
        methods=by_wildcards(paths.fusion_methods),
        settings=settings_of("full_rank_fusion"),
        protocol=by_wildcards(paths.full_ranking_protocol),
        code=lambda wildcards: code_of(
            "full_rank_fusion", *paths.fusion_modules(plan, wildcards.fusion)
        ),
    script:
        "../workflow_scripts/full_rank_fusion.py"

# Scores of several trained rankers -> one ranking, weighted on the validation split.


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

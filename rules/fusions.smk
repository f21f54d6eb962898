# Scores of several trained rankers -> one ranking, weighted on the validation split.


rule fuse:
    input:
        parts=lambda wildcards: [
            f"results/{wildcards.dataset}/ranks/{part}.scores.parquet"
            for part in experiments.fusions[wildcards.fusion].parts
        ],
        samples=multiext(
            "results/{dataset}/samples/", "samples.parquet", "candidates.parquet"
        ),
        clicks=lambda wildcards: (
            f"results/{wildcards.dataset}/samples/training_events.parquet"
            if experiments.fusions[wildcards.fusion].popularity
            else []
        ),
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
        mem_mb=scaled(4000, 30),
        runtime=scaled(30, 0.2),
    params:
        parts=lambda wildcards: experiments.fusions[wildcards.fusion].parts,
        settings=lambda wildcards: experiments.fusions[wildcards.fusion]
        .weights()
        .canonical(),
        code=code_of("fuse"),
    script:
        "../workflow_scripts/fuse.py"

# Scores of several trained rankers -> one ranking, weighted on the validation split.


rule score_method:
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
        model="results/{dataset}/models/{method}",
    output:
        scores="results/{dataset}/scores/{method}.parquet",
        record="results/{dataset}/scores/{method}.stage.json",
    log:
        "results/{dataset}/logs/score_method_{method}.log",
    wildcard_constraints:
        method=any_of(catalogue.methods),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(4000, 30),
        runtime=scaled(60, 2.0),
    params:
        settings=method_settings,
        seed=catalogue.seed,
        code=lambda wildcards: code_of(
            "score_method",
            f"gensar_core.baselines.{catalogue.methods[wildcards.method].kind}",
        ),
    script:
        "../workflow_scripts/score_method.py"


rule score_generator:
    input:
        corpus=lambda wildcards: corpus_files(
            wildcards, ["prompts.parquet", "item_tokens.parquet"]
        ),
        samples=multiext(
            "results/{dataset}/samples/", "samples.parquet", "candidates.parquet"
        ),
        model="results/{dataset}/models/{generator}",
    output:
        scores="results/{dataset}/scores/{generator}.parquet",
        record="results/{dataset}/scores/{generator}.stage.json",
    log:
        "results/{dataset}/logs/score_generator_{generator}.log",
    wildcard_constraints:
        generator=any_of(catalogue.generators),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(4000, 30),
        runtime=scaled(60, 2.0),
    params:
        settings=lambda wildcards: catalogue.generators[
            wildcards.generator
        ].ranking.canonical(),
        code=code_of("score_generator"),
    script:
        "../workflow_scripts/score_generator.py"


rule fuse:
    input:
        parts=lambda wildcards: [
            f"results/{wildcards.dataset}/scores/{part}.parquet"
            for part in catalogue.fusions[wildcards.fusion].parts
        ],
        samples=multiext(
            "results/{dataset}/samples/", "samples.parquet", "candidates.parquet"
        ),
    output:
        ranks="results/{dataset}/ranks/{fusion}.parquet",
        record="results/{dataset}/ranks/{fusion}.stage.json",
    log:
        "results/{dataset}/logs/fuse_{fusion}.log",
    wildcard_constraints:
        fusion=any_of(catalogue.fusions),
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(4000, 30),
        runtime=scaled(30, 0.2),
    params:
        parts=lambda wildcards: catalogue.fusions[wildcards.fusion].parts,
        settings=lambda wildcards: catalogue.fusions[wildcards.fusion]
        .weights()
        .canonical(),
        code=code_of("fuse"),
    script:
        "../workflow_scripts/fuse.py"

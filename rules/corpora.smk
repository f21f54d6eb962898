# Samples and identifiers -> token ids for training and ranking.


rule pseudo_queries:
    input:
        canonical=paths.ITEMS_AND_QUERIES,
        samples=paths.TRAINING_EVENTS,
    output:
        multiext(
            "results/{dataset}/pseudo_queries/{pseudo_queries}/",
            "curve.json",
            "stage.json",
        ),
        table="results/{dataset}/pseudo_queries/{pseudo_queries}/pseudo_queries.parquet",
    log:
        "results/{dataset}/logs/pseudo_queries_{pseudo_queries}.log",
    wildcard_constraints:
        pseudo_queries=any_of(experiments.pseudo_queries),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(6000, 20),
        runtime=scaled(120, 4.0),
    params:
        settings=settings_of("pseudo_queries"),
        seed=seed_of("pseudo_queries"),
        code=code_of("pseudo_queries"),
        checkpoints="results/{dataset}/checkpoints/pseudo_queries_{pseudo_queries}",
    script:
        "../workflow_scripts/pseudo_queries.py"


rule corpus:
    input:
        paths.ITEMS_AND_QUERIES,
        events=paths.EVENTS,
        samples=[paths.SAMPLES, paths.TRAINING_EVENTS],
        identifiers=by_wildcards(paths.corpus_identifiers),
        pseudo_queries=by_wildcards(paths.corpus_pseudo_queries),
        cold_items=by_wildcards(paths.cold_items),
    output:
        paths.CORPUS_FILES,
        tokenizer=paths.TOKENIZER,
        train=paths.TRAINING_TOKENS,
        record="results/{dataset}/corpora/{corpus}/stage.json",
    log:
        "results/{dataset}/logs/corpus_{corpus}.log",
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(2000, 60),
        runtime=scaled(15, 1.0),
    params:
        settings=settings_of("corpus"),
        protocol=by_wildcards(paths.history_protocol),
        prompts=by_wildcards(paths.corpus_prompts),
        seed=seed_of("corpus"),
        code=code_of("corpus"),
    script:
        "../workflow_scripts/corpus.py"

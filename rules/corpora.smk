# Samples and identifiers -> token ids for training and ranking.


rule pseudo_queries:
    input:
        canonical=multiext(
            "results/{dataset}/canonical/", "items.parquet", "queries.parquet"
        ),
        samples="results/{dataset}/samples/training_events.parquet",
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
        settings=lambda wildcards: experiments.pseudo_queries[wildcards.pseudo_queries]
        .sampling()
        .canonical(),
        seed=lambda wildcards: experiments.seed_of(
            experiments.pseudo_queries[wildcards.pseudo_queries]
        ),
        code=code_of("pseudo_queries"),
        checkpoints="results/{dataset}/checkpoints/pseudo_queries_{pseudo_queries}",
    script:
        "../workflow_scripts/pseudo_queries.py"


rule corpus:
    input:
        multiext("results/{dataset}/canonical/", "items.parquet", "queries.parquet"),
        events="results/{dataset}/canonical/events.parquet",
        samples="results/{dataset}/samples/samples.parquet",
        identifiers=lambda wildcards: multiext(
            f"results/{{dataset}}/identifiers/{corpus_identifier(wildcards)}/",
            "identifiers.parquet",
            "vocabulary.json",
        ),
        pseudo_queries=corpus_pseudo_queries,
    output:
        multiext(
            "results/{dataset}/corpora/{corpus}/",
            "prompts.parquet",
            "item_tokens.parquet",
            "new_tokens.json",
            "templates.yaml",
            "trie.safetensors",
        ),
        tokenizer="results/{dataset}/corpora/{corpus}/tokenizer/tokenizer_config.json",
        train="results/{dataset}/corpora/{corpus}/train.parquet",
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
        settings=lambda wildcards: experiments.corpora[wildcards.corpus]
        .materialization()
        .canonical(),
        seed=lambda wildcards: experiments.seed_of(
            experiments.corpora[wildcards.corpus]
        ),
        code=code_of("corpus"),
    script:
        "../workflow_scripts/corpus.py"

# Samples and identifiers -> token ids to train on and to rank with.


rule corpus:
    input:
        multiext("results/{dataset}/canonical/", "items.parquet", "queries.parquet"),
        events="results/{dataset}/canonical/events.parquet",
        samples="results/{dataset}/samples/samples.parquet",
        identifiers=lambda wildcards: multiext(
            f"results/{{dataset}}/identifiers/{catalogue.corpora[wildcards.corpus].identifier}/",
            "identifiers.parquet",
            "vocabulary.json",
        ),
    output:
        multiext(
            "results/{dataset}/corpora/{corpus}/",
            "prompts.parquet",
            "item_tokens.parquet",
            "new_tokens.json",
        ),
        tokenizer=directory("results/{dataset}/corpora/{corpus}/tokenizer"),
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
        settings=lambda wildcards: catalogue.corpora[wildcards.corpus]
        .materialization()
        .canonical(),
        seed=catalogue.seed,
        code=code_of("corpus"),
    script:
        "../workflow_scripts/corpus.py"

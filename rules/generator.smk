# Corpus -> trained generator -> ranks.


rule train_generator:
    input:
        corpus=lambda wildcards: corpus_files(
            wildcards,
            [
                "train.parquet",
                "prompts.parquet",
                "item_tokens.parquet",
                "new_tokens.json",
            ],
        ),
        tokenizer=lambda wildcards: f"results/{{dataset}}/corpora/{catalogue.generators[wildcards.generator].corpus}/tokenizer/tokenizer_config.json",
        samples=multiext(
            "results/{dataset}/samples/", "samples.parquet", "candidates.parquet"
        ),
    output:
        multiext(
            "results/{dataset}/models/{generator}/",
            "model.safetensors",
            "config.json",
            "curve.json",
        ),
        model="results/{dataset}/models/{generator}/stage.json",
    log:
        "results/{dataset}/logs/train_generator_{generator}.log",
    wildcard_constraints:
        generator=any_of(catalogue.generators),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        # GPUs, or processes where there is none, that share the work of each step; no result depends on them.
        gpu=1,
        processes=1,
        mem_mb=scaled(6000, 20),
        runtime=scaled(720, 20.0),
    params:
        settings=lambda wildcards: catalogue.generators[wildcards.generator]
        .training()
        .canonical(),
        seed=catalogue.seed,
        code=code_of("train_generator"),
        checkpoints="results/{dataset}/checkpoints/{generator}",
    script:
        "../workflow_scripts/train_generator.py"


rule full_rank_generator:
    input:
        corpus=lambda wildcards: corpus_files(
            wildcards, ["prompts.parquet", "item_tokens.parquet", "trie.safetensors"]
        ),
        samples=multiext(
            "results/{dataset}/samples/", "samples.parquet", "training_events.parquet"
        ),
        model="results/{dataset}/models/{generator}/stage.json",
    output:
        ranks="results/{dataset}/full_ranks/{generator}.parquet",
        record="results/{dataset}/full_ranks/{generator}.stage.json",
    log:
        "results/{dataset}/logs/full_rank_generator_{generator}.log",
    wildcard_constraints:
        generator=any_of(ranked_in_parts(False)),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(4000, 30),
        runtime=scaled(120, 4.0),
    params:
        settings=lambda wildcards: catalogue.generators[
            wildcards.generator
        ].retrieval.canonical(),
        protocol=full_ranking,
        code=code_of("full_rank_generator"),
    script:
        "../workflow_scripts/full_rank_generator.py"


rule rank_generator:
    input:
        corpus=lambda wildcards: corpus_files(
            wildcards, ["prompts.parquet", "item_tokens.parquet"]
        ),
        samples=multiext(
            "results/{dataset}/samples/", "samples.parquet", "candidates.parquet"
        ),
        model="results/{dataset}/models/{generator}/stage.json",
    output:
        ranks="results/{dataset}/ranks/{generator}.parquet",
        scores="results/{dataset}/ranks/{generator}.scores.parquet",
        record="results/{dataset}/ranks/{generator}.stage.json",
    log:
        "results/{dataset}/logs/rank_generator_{generator}.log",
    wildcard_constraints:
        generator=any_of(ranked_in_parts(False)),
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
        code=code_of("rank_generator"),
    script:
        "../workflow_scripts/rank_generator.py"

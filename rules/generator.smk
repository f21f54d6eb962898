# Corpus -> trained generator -> ranks.


rule token_vectors:
    input:
        unpack(corpus_embeddings),
        canonical=multiext(
            "results/{dataset}/canonical/", "items.parquet", "queries.parquet"
        ),
        training_events="results/{dataset}/samples/training_events.parquet",
        identifiers=lambda wildcards: multiext(
            f"results/{{dataset}}/identifiers/{corpus_identifier(wildcards)}/",
            "identifiers.parquet",
            "vocabulary.json",
        ),
        tokenizer="results/{dataset}/corpora/{corpus}/tokenizer/tokenizer_config.json",
        new_tokens="results/{dataset}/corpora/{corpus}/new_tokens.json",
    output:
        vectors="results/{dataset}/token_vectors/{corpus}/token_vectors.safetensors",
        record="results/{dataset}/token_vectors/{corpus}/stage.json",
    log:
        "results/{dataset}/logs/token_vectors_{corpus}.log",
    wildcard_constraints:
        corpus=any_of(experiments.corpora),
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(4000, 30),
        runtime=scaled(15, 1.0),
    params:
        sides=lambda wildcards: sorted(corpus_embeddings(wildcards)),
        code=code_of("token_vectors"),
    script:
        "../workflow_scripts/token_vectors.py"


rule train_generator:
    input:
        corpus=lambda wildcards: corpus_files(
            wildcards,
            [
                "train.parquet",
                "prompts.parquet",
                "item_tokens.parquet",
                "new_tokens.json",
                "templates.yaml",
                "trie.safetensors",
            ],
        ),
        tokenizer=lambda wildcards: f"results/{{dataset}}/corpora/{experiments.generators[wildcards.generator].corpus}/tokenizer/tokenizer_config.json",
        samples=multiext(
            "results/{dataset}/samples/", "samples.parquet", "candidates.parquet"
        ),
        token_vectors=generator_token_vectors,
        start_from=generator_start,
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
        generator=any_of(experiments.generators),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        # GPUs (without any: processes) that share the work of each step; no result depends on their number.
        gpu=1,
        processes=1,
        mem_mb=scaled(6000, 20),
        runtime=scaled(720, 20.0),
    params:
        settings=lambda wildcards: experiments.generators[wildcards.generator]
        .training()
        .canonical(),
        seed=lambda wildcards: experiments.seed_of(
            experiments.generators[wildcards.generator]
        ),
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
        settings=lambda wildcards: experiments.generators[
            wildcards.generator
        ].retrieval.canonical(),
        protocol=full_ranking,
        code=code_of("full_rank_generator"),
    script:
        "../workflow_scripts/full_rank_generator.py"


rule rank_generator:
    input:
        corpus=lambda wildcards: corpus_files(
            wildcards, ["prompts.parquet", "item_tokens.parquet", "trie.safetensors"]
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
        settings=lambda wildcards: experiments.generators[
            wildcards.generator
        ].ranking.canonical(),
        code=code_of("rank_generator"),
    script:
        "../workflow_scripts/rank_generator.py"

# Corpus -> trained generator -> ranks, and items added to it since.


rule token_vectors:
    input:
        unpack(by_wildcards(paths.corpus_embeddings)),
        canonical=paths.ITEMS_AND_QUERIES,
        training_events=paths.TRAINING_EVENTS,
        identifiers=by_wildcards(paths.corpus_identifiers),
        tokenizer=paths.TOKENIZER,
        new_tokens=paths.NEW_TOKENS,
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
        sides=by_wildcards(paths.corpus_sides),
        code=code_of("token_vectors"),
    script:
        "../workflow_scripts/token_vectors.py"


rule train_generator:
    input:
        corpus=by_wildcards(paths.training_corpus),
        tokenizer=by_wildcards(paths.generator_tokenizer),
        samples=by_wildcards(paths.training_samples),
        token_vectors=by_wildcards(paths.generator_token_vectors),
        start_from=by_wildcards(paths.generator_start),
        cold_items=by_wildcards(paths.cold_items),
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
        # GPUs (without any: processes) of all nodes, which share the work of each step; no result depends on their number.
        gpu=1,
        processes=1,
        nodes=1,
        mem_mb=scaled(6000, 20),
        runtime=scaled(720, 20.0),
    params:
        settings=settings_of("train_generator"),
        seed=seed_of("train_generator"),
        code=code_of("train_generator"),
        checkpoints="results/{dataset}/checkpoints/{generator}",
    script:
        "../workflow_scripts/train_generator.py"


rule full_rank_generator:
    input:
        corpus=by_wildcards(paths.ranking_corpus),
        samples=[paths.SAMPLES, paths.TRAINING_EVENTS],
        model="results/{dataset}/models/{generator}/stage.json",
        unknown_items=by_wildcards(paths.unknown_items),
    output:
        ranks="results/{dataset}/full_ranks/{generator}.parquet",
        record="results/{dataset}/full_ranks/{generator}.stage.json",
    log:
        "results/{dataset}/logs/full_rank_generator_{generator}.log",
    wildcard_constraints:
        generator=any_of(paths.generators_in_parts(plan, several=False)),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(4000, 30),
        runtime=scaled(120, 4.0),
    params:
        settings=settings_of("full_rank_generator"),
        protocol=by_wildcards(paths.full_ranking_protocol),
        code=code_of("full_rank_generator"),
    script:
        "../workflow_scripts/full_rank_generator.py"


rule rank_generator:
    input:
        corpus=by_wildcards(paths.ranking_corpus),
        samples=[paths.SAMPLES, paths.CANDIDATES],
        model="results/{dataset}/models/{generator}/stage.json",
        unknown_items=by_wildcards(paths.unknown_items),
    output:
        ranks="results/{dataset}/ranks/{generator}.parquet",
        scores="results/{dataset}/ranks/{generator}.scores.parquet",
        record="results/{dataset}/ranks/{generator}.stage.json",
    log:
        "results/{dataset}/logs/rank_generator_{generator}.log",
    wildcard_constraints:
        generator=any_of(paths.generators_in_parts(plan, several=False)),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(6000, 2),
        runtime=scaled(60, 2.0),
    params:
        settings=settings_of("rank_generator"),
        code=code_of("rank_generator"),
    script:
        "../workflow_scripts/rank_generator.py"


rule add_items:
    input:
        unpack(by_wildcards(paths.added_inputs)),
    output:
        multiext(
            "results/{dataset}/added/{generator}/",
            "items.parquet",
            "identifiers.parquet",
            "vocabulary.json",
            "item_tokens.parquet",
            "trie.safetensors",
        ),
        record="results/{dataset}/added/{generator}/stage.json",
    log:
        "results/{dataset}/logs/add_items_{generator}.log",
    wildcard_constraints:
        generator=any_of(experiments.generators),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        mem_mb=scaled(4000, 20),
        runtime=scaled(60),
    params:
        code=code_of("add_items"),
    script:
        "../workflow_scripts/add_items.py"

# Texts, texts and clicks, or a trained ranking method -> item vectors.


rule embed_text:
    input:
        item_table="results/{dataset}/canonical/items.parquet",
        queries="results/{dataset}/canonical/queries.parquet",
    output:
        # A single multiext, as caching between workflows requires.
        multiext(
            "results/{dataset}/embeddings/{embedding}/",
            vectors="vectors.safetensors",
            record="stage.json",
        ),
    log:
        "results/{dataset}/logs/embed_text_{embedding}.log",
    wildcard_constraints:
        embedding=any_of(experiments.embeddings_of("text")),
    cache: "omit-software"
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(3000, 40),
        runtime=scaled(60, 10.0),
    params:
        settings=settings_of("embed_text"),
        seed=seed_of("embed_text"),
        code=code_of("embed_text"),
        checkpoints="results/{dataset}/checkpoints/embeddings/{embedding}",
    script:
        "../workflow_scripts/embed_text.py"


rule embed_trained_text:
    input:
        text=by_wildcards(paths.embedding_text),
        canonical=paths.ITEMS_AND_QUERIES,
        samples=[paths.SAMPLES, paths.CANDIDATES, paths.TRAINING_EVENTS],
    output:
        vectors="results/{dataset}/embeddings/{embedding}/vectors.safetensors",
        record="results/{dataset}/embeddings/{embedding}/stage.json",
    log:
        "results/{dataset}/logs/embed_trained_text_{embedding}.log",
    wildcard_constraints:
        embedding=any_of(experiments.embeddings_of("trained_text")),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(3000, 40),
        runtime=scaled(240, 2.0),
    params:
        settings=settings_of("embed_trained_text"),
        seed=seed_of("embed_trained_text"),
        code=code_of("embed_trained_text"),
        checkpoints="results/{dataset}/checkpoints/embeddings/{embedding}",
    script:
        "../workflow_scripts/embed_trained_text.py"


rule embed_sequential:
    input:
        model=by_wildcards(paths.embedding_model),
    output:
        vectors="results/{dataset}/embeddings/{embedding}/vectors.safetensors",
        record="results/{dataset}/embeddings/{embedding}/stage.json",
    log:
        "results/{dataset}/logs/embed_sequential_{embedding}.log",
    wildcard_constraints:
        embedding=any_of(experiments.embeddings_of("sequential")),
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(15),
    params:
        code=code_of("embed_sequential"),
    script:
        "../workflow_scripts/embed_sequential.py"

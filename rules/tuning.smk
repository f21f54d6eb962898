# Settings of a method or a generator, searched by validation. No table needs them.


rule tune_method:
    input:
        canonical=paths.CANONICAL_TABLES,
        samples=[paths.SAMPLES, paths.CANDIDATES, paths.TRAINING_EVENTS],
        embedding=by_wildcards(paths.method_embedding),
        negatives=by_wildcards(paths.method_negatives),
        cold_items=by_wildcards(paths.cold_items),
    output:
        # The study file {method}.journal beside these is no output, so that a killed search continues.
        multiext(
            "results/tuning/{dataset}/{method}", ".csv", ".svg", ".png", ".stage.json"
        ),
        best="results/tuning/{dataset}/{method}.json",
    log:
        "results/{dataset}/logs/tune_method_{method}.log",
    wildcard_constraints:
        method=any_of(experiments.methods),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(3000, 40),
        runtime=scaled(1440, 20.0),
    params:
        settings=by_wildcards(paths.method_settings),
        trials=experiments.tuning_trials,
        seed=seed_of("tune_method"),
        code=kind_code_of("tune_method", paths.method_module),
        checkpoints="results/{dataset}/checkpoints/tuning/{method}",
    script:
        "../workflow_scripts/tune_method.py"


rule tune_generator:
    input:
        corpus=by_wildcards(paths.training_corpus),
        tokenizer=by_wildcards(paths.generator_tokenizer),
        samples=by_wildcards(paths.training_samples),
        token_vectors=by_wildcards(paths.generator_token_vectors),
        start_from=by_wildcards(paths.generator_start),
        cold_items=by_wildcards(paths.cold_items),
    output:
        multiext(
            "results/tuning/{dataset}/{generator}",
            ".csv",
            ".svg",
            ".png",
            ".stage.json",
        ),
        best="results/tuning/{dataset}/{generator}.json",
    log:
        "results/{dataset}/logs/tune_generator_{generator}.log",
    wildcard_constraints:
        generator=any_of(experiments.generators),
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(6000, 20),
        runtime=scaled(2880, 40.0),
    params:
        settings=settings_of("tune_generator"),
        trials=experiments.tuning_trials,
        seed=seed_of("tune_generator"),
        code=code_of("tune_generator"),
        checkpoints="results/{dataset}/checkpoints/tuning/{generator}",
    script:
        "../workflow_scripts/tune_generator.py"

# Embeddings, clicks or texts -> the two identifiers of every item.


rule identifiers:
    input:
        unpack(by_wildcards(paths.identifier_inputs)),
    output:
        "results/{dataset}/identifiers/{identifier}/vocabulary.json",
        identifiers="results/{dataset}/identifiers/{identifier}/identifiers.parquet",
        record="results/{dataset}/identifiers/{identifier}/stage.json",
    log:
        "results/{dataset}/logs/identifiers_{identifier}.log",
    conda:
        "../envs/gensar.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=scaled(3000, 20),
        runtime=scaled(120, 2.0),
    params:
        settings=settings_of("identifiers"),
        seed=seed_of("identifiers"),
        code=kind_code_of("identifiers", paths.identifier_module),
        checkpoints="results/{dataset}/checkpoints/identifiers/{identifier}",
    script:
        "../workflow_scripts/identifiers.py"


rule identifier_quality:
    input:
        canonical=multiext(
            "results/{dataset}/canonical/", "items.parquet", "events.parquet"
        ),
        vocabulary="results/{dataset}/identifiers/{identifier}/vocabulary.json",
        training="results/{dataset}/identifiers/{identifier}/stage.json",
        identifiers="results/{dataset}/identifiers/{identifier}/identifiers.parquet",
    output:
        report="results/{dataset}/identifiers/{identifier}/quality.json",
        record="results/{dataset}/identifiers/{identifier}/quality.stage.json",
    log:
        "results/{dataset}/logs/identifier_quality_{identifier}.log",
    conda:
        "../envs/gensar.yaml"
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(20),
    params:
        code=code_of("identifier_quality"),
    script:
        "../workflow_scripts/identifier_quality.py"

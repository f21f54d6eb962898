# Embeddings -> the two identifiers of every item.


def identifier_embeddings(wildcards):
    """The vectors an identifier is learned from, by side."""
    entry = catalogue.identifiers[wildcards.identifier]
    sides = {"semantic": entry.semantic, "collaborative": entry.collaborative}
    return {
        side: f"results/{wildcards.dataset}/embeddings/{embedding}/vectors.safetensors"
        for side, embedding in sides.items()
        if embedding is not None
    }


rule identifiers:
    input:
        unpack(identifier_embeddings),
    output:
        multiext(
            "results/{dataset}/identifiers/{identifier}/",
            "vocabulary.json",
            "model.safetensors",
        ),
        identifiers="results/{dataset}/identifiers/{identifier}/identifiers.parquet",
        record="results/{dataset}/identifiers/{identifier}/stage.json",
    log:
        "results/{dataset}/logs/identifiers_{identifier}.log",
    threads: 8
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=240,
    params:
        settings=lambda wildcards: catalogue.identifiers[wildcards.identifier]
        .rqvae()
        .canonical(),
        seed=catalogue.seed,
        code=fingerprint("gensar_core.identifiers.build"),
        checkpoints="results/{dataset}/checkpoints/identifiers/{identifier}",
    script:
        "../workflow_scripts/identifiers.py"

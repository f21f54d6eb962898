"""Build a vector for every token that describes items from item vectors, identifiers and texts."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.generator.token_vectors import build_token_vectors

    build_token_vectors(
        canonical=Path(snakemake.input.canonical[0]).parent,
        samples=Path(snakemake.input.training_events).parent,
        identifiers=Path(snakemake.input.identifiers[0]).parent,
        corpus=Path(snakemake.input.new_tokens).parent,
        embeddings={side: Path(getattr(snakemake.input, side)) for side in snakemake.params.sides},
        output=Path(snakemake.output.vectors).parent,
    )

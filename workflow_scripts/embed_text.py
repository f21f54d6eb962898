"""Embed item texts and queries with a text encoder."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.embeddings import TextEmbedding
    from gensar_core.embeddings.text import embed_catalogue

    embed_catalogue(
        canonical=Path(snakemake.input.item_table).parent,
        output=Path(snakemake.output.vectors).parent,
        settings=TextEmbedding.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
        checkpoints=Path(snakemake.params.checkpoints),
    )

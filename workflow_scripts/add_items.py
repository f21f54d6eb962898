"""Add items to a trained generator without training it again."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.corpora.added_items import add_items

    add_items(
        items=Path(snakemake.input.new_items),
        canonical=Path(snakemake.input.canonical).parent,
        corpus=Path(snakemake.input.corpus[0]).parent,
        identifiers=Path(snakemake.input.identifiers).parent,
        embedding=Path(snakemake.input.embedding).parent,
        output=Path(snakemake.output.record).parent,
    )

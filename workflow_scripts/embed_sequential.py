"""Extract the item vectors of a trained method as an embedding."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.embeddings.sequential import extract_vectors

    extract_vectors(model=Path(snakemake.input.model).parent, output=Path(snakemake.output.vectors).parent)

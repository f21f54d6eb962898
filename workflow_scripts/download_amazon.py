"""Download a raw file of an Amazon category from its public home."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.sources.amazon.download import download_amazon

    file = Path(snakemake.output[0])
    download_amazon(snakemake.wildcards.category, snakemake.wildcards.folder, file.name, file.parent)

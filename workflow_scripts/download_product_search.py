"""Download the product-search files of an Amazon category from their public home."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.sources.amazon.download import download_product_search

    download_product_search(snakemake.wildcards.category, Path(snakemake.output[0]).parent)

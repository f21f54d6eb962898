"""Write a quality report of identifiers."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.identifiers.report import quality_report

    quality_report(
        identifiers=Path(snakemake.input.identifiers).parent,
        canonical=Path(snakemake.input.canonical[0]).parent,
        output=Path(snakemake.output.report).parent,
    )

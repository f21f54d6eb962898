"""Describe a data set: Table 2 and distributions."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.evaluation.statistics import data_statistics

    data_statistics(
        name=snakemake.wildcards.dataset,
        canonical=Path(snakemake.input.canonical[0]).parent,
        samples=Path(snakemake.input.samples).parent,
        table=Path(snakemake.output.csv).with_suffix(""),
        figure=Path(snakemake.output.svg).with_suffix(""),
    )

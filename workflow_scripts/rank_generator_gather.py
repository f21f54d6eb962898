"""Gather the ranks among candidates from all parts of the targets into one table."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.ranking.parts import gather_rankings

    gather_rankings(
        parts=[Path(path) for path in snakemake.input.ranks],
        output=Path(snakemake.output.ranks).parent,
        name=snakemake.wildcards.generator,
    )

"""Gather the recommendations of all parts of the users into one table."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.service.answers import gather_recommendations

    gather_recommendations(
        parts=[Path(path) for path in snakemake.input.answers], output=Path(snakemake.output.answers)
    )

"""Write a table of costs in CSV and Markdown from the records of models and ranks."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.evaluation.costs import cost_table

    cost_table(
        models=[Path(path).parent for path in snakemake.input.models],
        ranks=[Path(path) for path in snakemake.input.ranks],
        names=list(snakemake.params.rows),
        output=Path(snakemake.output.csv).with_suffix(""),
    )

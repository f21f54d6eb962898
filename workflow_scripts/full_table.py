"""Ranks among all items -> a table of Recall and NDCG in CSV and Markdown."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.evaluation.tables import full_table

    full_table(
        ranks=[Path(path) for path in snakemake.input.ranks],
        names=list(snakemake.params.rows),
        output=Path(snakemake.output.csv).with_suffix(""),
        canonical=Path(snakemake.input.canonical),
    )

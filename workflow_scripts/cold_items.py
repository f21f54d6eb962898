"""Tabulate and draw metrics by the training clicks of the target."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.evaluation.cold_items import cold_table

    cold_table(
        ranks=[Path(path) for path in snakemake.input.ranks],
        names=list(snakemake.params.rows),
        training_events=Path(snakemake.input.training),
        table=Path(snakemake.output.csv).with_suffix(""),
        figure=Path(snakemake.output.svg).with_suffix(""),
    )

"""Write a metric table in CSV and Markdown from ranks."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.config.tables import ComparisonSettings
    from gensar_core.evaluation.tables import metric_table

    metric_table(
        ranks=[Path(path) for path in snakemake.input.ranks],
        names=list(snakemake.params.rows),
        output=Path(snakemake.output.csv).with_suffix(""),
        comparison=ComparisonSettings.model_validate_json(snakemake.params.comparison),
        canonical=Path(snakemake.input.canonical),
        full=snakemake.params.full,
        published=snakemake.params.published,
    )

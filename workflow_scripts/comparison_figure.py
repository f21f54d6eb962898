"""Draw a figure of the metrics of several rows from their ranks."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.config.tables import FigureSettings
    from gensar_core.evaluation.comparison_figures import comparison_figure

    settings = FigureSettings.model_validate_json(snakemake.params.settings)
    comparison_figure(
        ranks=dict(zip(settings.rows, map(Path, snakemake.input), strict=True)),
        settings=settings,
        figure=Path(snakemake.output.svg).with_suffix(""),
    )

"""Draw the collision rates of a data set's identifiers side by side."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.evaluation.collision_figure import collision_figure

    collision_figure(
        names=snakemake.params.names,
        reports=[Path(path) for path in snakemake.input],
        figure=Path(snakemake.output.svg).with_suffix(""),
    )

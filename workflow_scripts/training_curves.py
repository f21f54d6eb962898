"""Records of trainings -> a figure of their losses and validations."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.evaluation.trainings import trainings_figure

    folders = [Path(path) for path in snakemake.input.models]
    folders += [Path(path).parent for path in snakemake.input.identifiers]
    trainings_figure(
        folders=dict(zip(snakemake.params.names, folders, strict=True)),
        figure=Path(snakemake.output.svg).with_suffix(""),
    )

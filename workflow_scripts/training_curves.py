"""Draw a figure of training losses and validations from the records of trainings."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.evaluation.training_curves import training_curves

    folders = [Path(record).parent for record in snakemake.input]
    training_curves(
        folders=dict(zip(snakemake.params.names, folders, strict=True)),
        figure=Path(snakemake.output.svg).with_suffix(""),
    )

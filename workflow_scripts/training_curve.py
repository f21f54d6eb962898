"""A training's losses and validations, drawn."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.evaluation.curves import curve_figure

    curve_figure(curve=Path(snakemake.input.model) / "curve.json", figure=Path(snakemake.output.svg).with_suffix(""))

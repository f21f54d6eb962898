"""Rank the targets by the fused scores of several rankers."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.fusions import WeightSettings
    from gensar_core.ranking.fusion import fuse

    fuse(
        parts=dict(zip(snakemake.params.parts, map(Path, snakemake.input.parts), strict=True)),
        samples=Path(snakemake.input.samples[0]).parent,
        output=Path(snakemake.output.ranks).parent,
        name=snakemake.wildcards.fusion,
        settings=WeightSettings.model_validate_json(snakemake.params.settings),
    )

"""Rank the test targets among all items by fitted ranking methods as one."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.baselines.catalogue_fusion import FusedMethod, rank_catalogue_by_fusion
    from gensar_core.config.datasets import FullRankingSettings
    from gensar_core.config.fusions import WeightSettings

    rank_catalogue_by_fusion(
        name=snakemake.wildcards.fusion,
        parts=FusedMethod.read_all(snakemake.params.methods),
        canonical=Path(snakemake.input.canonical[0]).parent,
        samples=Path(snakemake.input.samples[0]).parent,
        output=Path(snakemake.output.ranks).parent,
        settings=WeightSettings.model_validate_json(snakemake.params.settings),
        protocol=FullRankingSettings.model_validate_json(snakemake.params.protocol),
        cold_items=Path(snakemake.input.cold_items[0]) if snakemake.input.cold_items else None,
    )

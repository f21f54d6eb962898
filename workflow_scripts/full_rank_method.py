"""Rank the test targets among all items with a fitted ranking method."""

import json
from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.baselines.run import rank_catalogue_by_method
    from gensar_core.config.datasets import FullRankingSettings

    overrides = json.loads(snakemake.params.settings)
    rank_catalogue_by_method(
        name=snakemake.wildcards.method,
        kind=overrides.pop("kind"),
        overrides=overrides,
        canonical=Path(snakemake.input.canonical[0]).parent,
        samples=Path(snakemake.input.samples[0]).parent,
        embedding=Path(snakemake.input.embedding[0]) if snakemake.input.embedding else None,
        model=Path(snakemake.input.model).parent,
        output=Path(snakemake.output.ranks).parent,
        seed=snakemake.params.seed,
        protocol=FullRankingSettings.model_validate_json(snakemake.params.protocol),
        cold_items=Path(snakemake.input.cold_items[0]) if snakemake.input.cold_items else None,
    )

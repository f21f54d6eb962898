"""Recommend items to all users, or to one part of them, with a trained generator."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import RecommendationSettings
    from gensar_core.ranking.parts import Part
    from gensar_core.service.answers import recommend_to_all
    from gensar_core.service.shop import Folders

    recommend_to_all(
        folders=Folders(
            Path(snakemake.input.canonical[0]).parent,
            Path(snakemake.input.model).parent,
            Path(snakemake.input.corpus[0]).parent,
            Path(snakemake.input.added[0]).parent if snakemake.input.added else None,
        ),
        output=Path(snakemake.output.answers),
        settings=RecommendationSettings.model_validate_json(snakemake.params.settings),
        checkpoints=Path(snakemake.params.checkpoints),
        part=Part(int(snakemake.wildcards.get("part", 0)), int(snakemake.wildcards.get("parts", 1))),
    )

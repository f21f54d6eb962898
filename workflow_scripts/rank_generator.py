"""Rank the targets, or one part of them, among their candidates with a trained generator."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.generators import RankingSettings
    from gensar_core.generator.rank import rank_candidates
    from gensar_core.ranking.parts import Part

    rank_candidates(
        model=Path(snakemake.input.model).parent,
        corpus=Path(snakemake.input.corpus[0]).parent,
        samples=Path(snakemake.input.samples[0]).parent,
        output=Path(snakemake.output.ranks).parent,
        name=Path(snakemake.output.ranks).stem,
        settings=RankingSettings.model_validate_json(snakemake.params.settings),
        part=Part(int(snakemake.wildcards.get("part", 0)), int(snakemake.wildcards.get("parts", 1))),
        unknown_items=Path(snakemake.input.unknown_items[0]) if snakemake.input.unknown_items else None,
    )

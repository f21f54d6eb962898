"""Trained generator -> scores of the targets' candidates."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.generators import RankingSettings
    from gensar_core.generator.rank import write_scores

    write_scores(
        model=Path(snakemake.input.model),
        corpus=Path(snakemake.input.corpus[0]).parent,
        samples=Path(snakemake.input.samples[0]).parent,
        output=Path(snakemake.output.scores).parent,
        name=snakemake.wildcards.generator,
        settings=RankingSettings.model_validate_json(snakemake.params.settings),
    )

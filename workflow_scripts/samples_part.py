"""Build the samples of one part of the users from canonical tables."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import SampleSettings
    from gensar_core.samples.build import build_part

    build_part(
        canonical=Path(snakemake.input.events).parent,
        surveyed=Path(snakemake.input.moments).parent,
        output=Path(snakemake.output.record).parent,
        settings=SampleSettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
        part=int(snakemake.wildcards.part),
        parts=int(snakemake.wildcards.parts),
    )

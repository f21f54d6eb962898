"""Build samples, histories, candidates and the audit from canonical tables."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import SampleSettings
    from gensar_core.samples.build import build_samples

    build_samples(
        canonical=Path(snakemake.input.events).parent,
        output=Path(snakemake.output.samples).parent,
        settings=SampleSettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
    )

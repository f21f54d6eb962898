"""Survey the canonical tables for facts over all users, which samples built in parts share."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import SampleSettings
    from gensar_core.samples.survey import survey_samples

    survey_samples(
        canonical=Path(snakemake.input.events).parent,
        output=Path(snakemake.output.moments).parent,
        settings=SampleSettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
    )

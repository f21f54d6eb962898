"""Gather the samples of all parts of the users into samples, candidates and the audit."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import SampleSettings
    from gensar_core.samples.build import gather_samples

    gather_samples(
        canonical=Path(snakemake.input.events).parent,
        surveyed=Path(snakemake.input.moments).parent,
        parts=[Path(path).parent for path in snakemake.input.parts if path.endswith("stage.json")],
        output=Path(snakemake.output.samples).parent,
        settings=SampleSettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
    )

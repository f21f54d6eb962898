"""Gather the negatives of the train targets of all parts of the users into one table."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import TrainingNegativesSettings
    from gensar_core.samples.training_negatives import gather_training_negatives

    gather_training_negatives(
        samples=Path(snakemake.input.samples).parent,
        parts=[Path(path).parent for path in snakemake.input.parts if path.endswith("stage.json")],
        output=Path(snakemake.output.negatives).parent,
        settings=TrainingNegativesSettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
    )

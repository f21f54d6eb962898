"""Draw a few negatives for each train target."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import TrainingNegativesSettings
    from gensar_core.samples.training_negatives import draw_training_negatives

    draw_training_negatives(
        canonical=Path(snakemake.input.item_table).parent,
        samples=Path(snakemake.input.samples).parent,
        output=Path(snakemake.output.negatives).parent,
        settings=TrainingNegativesSettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
        cold_items=Path(snakemake.input.cold_items[0]) if snakemake.input.cold_items else None,
    )

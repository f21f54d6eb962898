"""Draw a few negatives for each train target, or for those of one part of the users."""

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
        part=int(snakemake.wildcards.get("part", 0)),
        parts=int(snakemake.wildcards.get("parts", 1)),
    )

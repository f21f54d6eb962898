"""Search the settings of a generator by validation."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.generators import TrainingSettings
    from gensar_core.tuning.fitting import TunedGenerator
    from gensar_core.tuning.study import tune

    generator = TunedGenerator(
        name=snakemake.wildcards.generator,
        seed=snakemake.params.seed,
        settings=TrainingSettings.model_validate_json(snakemake.params.settings),
        corpus=Path(snakemake.input.corpus[0]).parent,
        samples=Path(snakemake.input.samples[0]).parent,
        token_vectors=Path(snakemake.input.token_vectors[0]) if snakemake.input.token_vectors else None,
        start_from=Path(snakemake.input.start_from[0]).parent if snakemake.input.start_from else None,
        cold_items=Path(snakemake.input.cold_items[0]) if snakemake.input.cold_items else None,
    )
    tune(
        generator,
        Path(snakemake.output.best).with_suffix(""),
        Path(snakemake.params.checkpoints),
        snakemake.params.trials,
    )

"""Train a generator on its corpus."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.generators import TrainingSettings
    from gensar_core.generator.parallel import train_generator_in
    from gensar_core.training.launch import count_processes

    resources = snakemake.resources
    train_generator_in(
        count_processes(resources.gpu, resources.processes, resources.nodes),
        resources.nodes,
        corpus=Path(snakemake.input.corpus[0]).parent,
        samples=Path(snakemake.input.samples[0]).parent,
        output=Path(snakemake.output.model).parent,
        settings=TrainingSettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
        checkpoints=Path(snakemake.params.checkpoints),
        token_vectors=Path(snakemake.input.token_vectors[0]) if snakemake.input.token_vectors else None,
        start_from=Path(snakemake.input.start_from[0]).parent if snakemake.input.start_from else None,
        cold_items=Path(snakemake.input.cold_items[0]) if snakemake.input.cold_items else None,
    )

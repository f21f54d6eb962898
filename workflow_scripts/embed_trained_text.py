"""Train a text embedding on the clicks of both tasks."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.baselines.trained_text import embed_trained_text
    from gensar_core.config.embeddings import TrainedTextSettings

    embed_trained_text(
        canonical=Path(snakemake.input.canonical[0]).parent,
        samples=Path(snakemake.input.samples[0]).parent,
        text=Path(snakemake.input.text),
        output=Path(snakemake.output.vectors).parent,
        settings=TrainedTextSettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
        checkpoints=Path(snakemake.params.checkpoints),
    )

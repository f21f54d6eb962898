"""Build the identifiers of every item from embeddings."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.identifiers import QuantizerSettings
    from gensar_core.identifiers.build import build_identifiers

    sides = {side: Path(path) for side, path in snakemake.input.items()}
    build_identifiers(
        semantic=sides.get("semantic"),
        collaborative=sides.get("collaborative"),
        output=Path(snakemake.output.identifiers).parent,
        settings=QuantizerSettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
        checkpoints=Path(snakemake.params.checkpoints),
    )

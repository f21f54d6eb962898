"""Build the identifiers of every item, by the kind that the settings name."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.identifiers.build import build_identifiers
    from gensar_core.identifiers.interface import KindData, read_settings

    files = {name: Path(path) for name, path in snakemake.input.items()}
    build_identifiers(
        data=KindData.of_files(files),
        output=Path(snakemake.output.identifiers).parent,
        settings=read_settings(snakemake.params.settings),
        seed=snakemake.params.seed,
        checkpoints=Path(snakemake.params.checkpoints),
    )

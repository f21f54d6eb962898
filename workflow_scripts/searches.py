"""Search for a file of queries with a trained generator."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import QueryAnswerSettings
    from gensar_core.service.answers import search_for_all
    from gensar_core.service.shop import Folders

    search_for_all(
        folders=Folders(
            Path(snakemake.input.canonical[0]).parent,
            Path(snakemake.input.model).parent,
            Path(snakemake.input.corpus[0]).parent,
            Path(snakemake.input.added[0]).parent if snakemake.input.added else None,
        ),
        output=Path(snakemake.output.answers),
        settings=QueryAnswerSettings.model_validate_json(snakemake.params.settings),
        checkpoints=Path(snakemake.params.checkpoints),
    )

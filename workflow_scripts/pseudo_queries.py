"""Generate queries for every item from item texts and training queries."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.pseudo_queries import PseudoQuerySettings
    from gensar_core.generator.doc2query import make_pseudo_queries

    make_pseudo_queries(
        canonical=Path(snakemake.input.canonical[0]).parent,
        samples=Path(snakemake.input.samples).parent,
        output=Path(snakemake.output.table).parent,
        settings=PseudoQuerySettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
        checkpoints=Path(snakemake.params.checkpoints),
    )

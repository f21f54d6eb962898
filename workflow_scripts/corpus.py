"""Build the generator's corpus from samples and identifiers."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.corpora import MaterializationSettings
    from gensar_core.corpora.build import build_corpus

    build_corpus(
        canonical=Path(snakemake.input.events).parent,
        samples=Path(snakemake.input.samples[0]).parent,
        identifiers=Path(snakemake.input.identifiers[0]).parent,
        output=Path(snakemake.output.train).parent,
        settings=MaterializationSettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
        protocol=snakemake.params.protocol,
        pseudo_queries=Path(snakemake.input.pseudo_queries) if snakemake.input.pseudo_queries else None,
        cold_items=Path(snakemake.input.cold_items[0]) if snakemake.input.cold_items else None,
    )

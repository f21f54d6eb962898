"""Build canonical tables from raw Amazon files."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import CanonicalSettings
    from gensar_core.sources.amazon.canonical import canonicalize

    canonicalize(
        raw=Path(snakemake.input[0]).parent,
        settings=CanonicalSettings.model_validate_json(snakemake.params.settings),
        output=Path(snakemake.output.events).parent,
        seed=snakemake.params.seed,
    )

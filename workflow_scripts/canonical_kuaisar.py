"""Build canonical tables from KuaiSAR's published files."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import KuaiSARSettings
    from gensar_core.sources.kuaisar import canonicalize_kuaisar

    canonicalize_kuaisar(
        raw=Path(snakemake.input[0]).parent,
        settings=KuaiSARSettings.model_validate_json(snakemake.params.settings),
        output=Path(snakemake.output.events).parent,
        seed=snakemake.params.seed,
        parts=snakemake.params.parts,
    )

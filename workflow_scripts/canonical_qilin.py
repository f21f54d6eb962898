"""Build canonical tables from Qilin's published files."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import QilinSettings
    from gensar_core.sources.qilin import canonicalize_qilin

    canonicalize_qilin(
        raw=Path(snakemake.input[0]).parents[1],
        settings=QilinSettings.model_validate_json(snakemake.params.settings),
        output=Path(snakemake.output.events).parent,
        seed=snakemake.params.seed,
        parts=snakemake.params.parts,
    )

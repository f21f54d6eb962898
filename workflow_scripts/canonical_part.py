"""Sort the events of one part of the users, and leave those that are usable."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import ClickSettings
    from gensar_core.sources.shared.click_logs import canonicalize_part

    canonicalize_part(
        surveyed=Path(snakemake.input[0]).parent,
        output=Path(snakemake.output.record).parent,
        settings=ClickSettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
        part=int(snakemake.wildcards.part),
    )

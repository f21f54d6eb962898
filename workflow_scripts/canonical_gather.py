"""Gather the events of all parts of the users into canonical tables."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import ClickSettings
    from gensar_core.sources.shared.click_logs import gather_canonical

    gather_canonical(
        surveyed=Path(snakemake.input[0]).parent,
        parts=[Path(path).parent for path in snakemake.input.parts if path.endswith("stage.json")],
        output=Path(snakemake.output.events).parent,
        settings=ClickSettings.model_validate_json(snakemake.params.settings),
        seed=snakemake.params.seed,
    )

"""Build canonical tables from the user's own event logs."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.config.datasets import EventLogSettings
    from gensar_core.sources.eventlog import canonicalize_events

    canonicalize_events(
        items=Path(snakemake.input.item_table),
        events=Path(snakemake.input.event_table),
        settings=EventLogSettings.model_validate_json(snakemake.params.settings),
        output=Path(snakemake.output.events).parent,
        seed=snakemake.params.seed,
        parts=snakemake.params.parts,
    )

"""Write the demo's raw files."""

from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0]):
    from gensar_core.config.datasets import SimulationSettings
    from gensar_core.sources.simulated.write import simulate

    simulate(
        settings=SimulationSettings.model_validate_json(snakemake.params.settings),
        output=Path(snakemake.output.record).parent,
        seed=snakemake.params.seed,
    )

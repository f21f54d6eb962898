"""Search the settings of a ranking method by validation."""

import json
from pathlib import Path

from gensar_core.runtime.logs import ScriptLog

with ScriptLog(snakemake.log[0], snakemake.threads):
    from gensar_core.tuning.fitting import TunedMethod
    from gensar_core.tuning.study import tune

    overrides = json.loads(snakemake.params.settings)
    method = TunedMethod(
        name=snakemake.wildcards.method,
        seed=snakemake.params.seed,
        kind=overrides.pop("kind"),
        overrides=overrides,
        canonical=Path(snakemake.input.canonical[0]).parent,
        samples=Path(snakemake.input.samples[0]).parent,
        embedding=Path(snakemake.input.embedding[0]) if snakemake.input.embedding else None,
        training_negatives=Path(snakemake.input.negatives[0]) if snakemake.input.negatives else None,
        cold_items=Path(snakemake.input.cold_items[0]) if snakemake.input.cold_items else None,
    )
    tune(
        method, Path(snakemake.output.best).with_suffix(""), Path(snakemake.params.checkpoints), snakemake.params.trials
    )
